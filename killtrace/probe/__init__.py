"""The only layer that imports bcc: stub headers, BTF, loading, and the perf buffers."""
