"""The eBPF programs, as data: C source, and the stub headers that stand in for the kernel's."""
