"""What this process may do: asked before anything that takes time is imported."""

from __future__ import annotations

from pathlib import Path

from killtrace.errors import NotPermittedError


def require_privileges() -> None:
    """Raise NotPermittedError (77) unless this process may load tracing programs.

    CAP_SYS_ADMIN, or CAP_BPF with CAP_PERFMON (capabilities(7), since 5.8).
    """
    effective = effective_capabilities()
    admin, perfmon, bpf = 1 << 21, 1 << 38, 1 << 39
    if not (effective & admin or (effective & perfmon and effective & bpf)):
        raise NotPermittedError(
            "killtrace needs root, or CAP_BPF and CAP_PERFMON, to trace", "run it with sudo"
        )


def effective_capabilities(status: Path = Path("/proc/self/status")) -> int:
    """The effective set of this process as a bit mask; 0 where it can't be read."""
    try:
        for line in status.read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except OSError:
        pass
    return 0
