"""What a machine must have for a workload: probed, never told from a version."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from workloads import linux
from workloads.actors import fork, temporary_cgroup


def _mounts(kind: str) -> list[tuple[Path, list[str]]]:
    """The mount points of a file system type, with their options."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, fstype, options, *_ = line.split()
        if fstype == kind:
            found.append((Path(point), options.split(",")))
    return found


def cgroup2_root() -> Path:
    """Where cgroup v2 is mounted; LookupError where it is not."""
    for point, _ in _mounts("cgroup2"):
        return point
    raise LookupError("cgroup v2 is not mounted")


def memory_v1_root() -> Path | None:
    """Where cgroup v1's memory controller is mounted."""
    return next((point for point, opts in _mounts("cgroup") if "memory" in opts), None)


def memory_v2_root() -> Path | None:
    """Where cgroup v2 is mounted with the memory controller to give away."""
    for point, _ in _mounts("cgroup2"):
        if "memory" in (point / "cgroup.controllers").read_text().split():
            return point
    return None


def _cgroup_kill() -> str | None:
    try:
        folder = temporary_cgroup(cgroup2_root(), "probe")
    except (LookupError, OSError) as error:
        return str(error)
    has = (folder / "cgroup.kill").exists()
    folder.rmdir()
    return None if has else "the kernel has no cgroup.kill (Linux 5.14)"


def _memcg() -> str | None:
    if memory_v1_root() or memory_v2_root():
        return None
    return "no cgroup memory controller"


def _in_child(body: Callable[[], object], what: str) -> str | None:
    return None if os.waitpid(fork(body), 0)[1] == 0 else what


def _realtime() -> str | None:
    def body() -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    return _in_child(body, "SCHED_FIFO is refused")


def _seccomp_event() -> str | None:
    """A seccomp filter, on a kernel that signals for it (5.10 ends the process without)."""
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        return "the kernel has no seccomp filters"
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return None if release > (5, 10) else "5.10 kills by seccomp without a signal"


def _bpf_send_signal() -> str | None:
    # mov r1, 0 would signal: a program that returns at once, after the call, loads or not.
    code = bytes.fromhex("b701000000000000850000006d000000b7000000000000009500000000000000")
    try:
        os.close(linux.bpf_program(code))
    except OSError as error:
        return f"bpf_send_signal is not to be had: {error}"
    return None


def _core() -> str | None:
    """sudo(8) takes the limit away, and without CAP_SYS_RESOURCE can't give it back."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    return "RLIMIT_CORE is 0, and may not be raised" if hard == 0 else None


def _set_tid() -> str | None:
    pid = fork(lambda: 0)
    os.waitpid(pid, 0)
    try:
        child = linux.clone_with_pid(pid)
    except OSError as error:
        return f"clone3 with set_tid is refused: {error}"
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return None


def _program(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name) else f"{name} is not installed"


def _path(path: str, what: str) -> Callable[[], str | None]:
    return lambda: None if Path(path).exists() else what


PROBES: dict[str, Callable[[], str | None]] = {
    "root": lambda: None if os.geteuid() == 0 else "tracing is for root",
    "btf": _path("/sys/kernel/btf/vmlinux", "the kernel has no BTF"),
    "kprobe": _path("/sys/bus/event_source/devices/kprobe", "the kernel has no kprobes"),
    "bpf_send_signal": _bpf_send_signal,
    "cgroup_kill": _cgroup_kill,
    "core": _core,
    "memcg": _memcg,
    "memcg_v2": lambda: None if memory_v2_root() else "no memory controller in cgroup v2",
    "mqueue": _path("/proc/sys/fs/mqueue", "no POSIX message queues"),
    "pidns": _path("/proc/self/ns/pid", "no PID namespaces"),
    "realtime": _realtime,
    "seccomp_event": _seccomp_event,
    "set_tid": _set_tid,
    "sshd": _program("/usr/sbin/sshd"),
    **{
        name: _program(name)
        for name in ("/bin/kill", "bash", "cc", "killall", "perl", "pkill", "setpriv", "ssh", "su")
    },
    "tmux": _program("tmux"),
}


def missing(feature: str) -> str | None:
    """Why a feature can't be had here, or None where it can; KeyError for an unknown name."""
    return PROBES[feature]()
