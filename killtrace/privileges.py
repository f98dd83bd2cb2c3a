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


def wants_admin(setting: Path = Path("/proc/sys/kernel/perf_event_paranoid")) -> bool:
    """Whether this kernel may refuse perf_event_open(2) to CAP_PERFMON without CAP_SYS_ADMIN.

    Linux itself knows levels to 2, of no matter to CAP_PERFMON.  Debian's and Ubuntu's kernels
    have 3 and 4 beside, and Debian's then ask for CAP_SYS_ADMIN.
    """
    try:
        return int(setting.read_text()) > 2
    except (OSError, ValueError):
        return False


def effective_capabilities(status: Path = Path("/proc/self/status")) -> int:
    """The effective set of this process as a bit mask; 0 where it can't be read."""
    try:
        for line in status.read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except OSError:
        pass
    return 0
