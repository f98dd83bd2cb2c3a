"""The processes of this machine, as the OOM killer would look at them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from killtrace.enrich.procfs import ProcFs, Stat, parse_cgroups, parse_status
from killtrace.oom.badness import Memory, Task

# Where a task sleeps that waits for its vfork'd child (kernel/fork.c), by /proc/PID/wchan.
_VFORK_WAITS = (b"kernel_clone", b"_do_fork", b"wait_for_vfork_done")
# The initial PID namespace: PROC_PID_INIT_INO.
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
_ZOMBIE = "Z"


def parse_memory(status: Mapping[str, str]) -> Memory | None:
    """The memory fields of /proc/PID/status; None for a process that has no memory."""
    if "VmSize" not in status:
        return None

    def kb(name: str) -> int:
        return int(status.get(name, "0 kB").split()[0])

    return Memory(
        total_vm_kb=kb("VmSize"),
        anon_rss_kb=kb("RssAnon"),
        file_rss_kb=kb("RssFile"),
        shmem_rss_kb=kb("RssShmem"),
        swap_kb=kb("VmSwap"),
        pgtables_kb=kb("VmPTE"),
    )


def read_tasks(procfs: ProcFs, controller: str | None) -> list[Task]:
    """Every process; `controller` is the memory hierarchy's key in parse_cgroups, if there is one.

    A process that ends meanwhile is left out.
    """
    init_pid = 1 if _in_initial_namespace(procfs) else None
    found: dict[int, tuple[Task, int]] = {}
    for pid in procfs.pids():
        stat = procfs.stat(pid)
        task = _read_task(procfs, stat, controller) if stat else None
        if stat is not None and task is not None:
            found[pid] = (replace(task, is_init=pid == init_pid), stat.ppid)
    return [
        replace(task, in_vfork=_in_vfork(procfs, task, found[ppid][0] if ppid in found else None))
        for task, ppid in found.values()
    ]


def sees_all(procfs: ProcFs) -> bool:
    """Whether /proc shows the whole machine: not from a PID namespace, nor with hidepid."""
    return _in_initial_namespace(procfs) and procfs.stat(1) is not None


def _read_task(procfs: ProcFs, stat: Stat, controller: str | None) -> Task | None:
    status = procfs.read(stat.pid, "status")
    adj = _number(procfs.read(stat.pid, "oom_score_adj"))
    cgroups = procfs.read(stat.pid, "cgroup")
    if status is None or adj is None or cgroups is None:
        return None
    memory = parse_memory(parse_status(status))
    if memory is None and stat.state == _ZOMBIE:
        memory, living = _of_other_threads(procfs, stat.pid)
        # Version 1 shows what has ended in the root; the OOM killer still counts it where it was.
        cgroups = living if living and controller else cgroups
    return Task(
        pid=stat.pid,
        comm=stat.comm,
        start_ns=stat.start_ns,
        flags=stat.flags,
        memcg=parse_cgroups(cgroups).get(controller) if controller is not None else None,
        oom_score_adj=adj,
        memory=memory,
        oom_score=_number(procfs.read(stat.pid, "oom_score")),
    )


def _of_other_threads(procfs: ProcFs, pid: int) -> tuple[Memory | None, bytes | None]:
    """Memory and cgroups of a process whose first thread has ended before the others."""
    for tid in _threads(procfs, pid):
        status = procfs.read(pid, f"task/{tid}/status")
        memory = parse_memory(parse_status(status)) if status else None
        if memory is not None:
            return memory, procfs.read(pid, f"task/{tid}/cgroup")
    return None, None


def _in_vfork(procfs: ProcFs, task: Task, parent: Task | None) -> bool:
    """Whether a task still borrows its parent's memory (in_vfork), as far as /proc shows it.

    Both then have the very same figures, and the parent's thread sleeps until the child lets go.
    """
    if parent is None or task.memory is None or task.memory != parent.memory:
        return False
    child = str(task.pid).encode()
    for tid in _threads(procfs, parent.pid):
        children = procfs.read(parent.pid, f"task/{tid}/children") or b""
        if child in children.split():
            return (procfs.read(parent.pid, f"task/{tid}/wchan") or b"") in _VFORK_WAITS
    return False


def _threads(procfs: ProcFs, pid: int) -> Iterator[str]:
    try:
        yield from os.listdir(f"{procfs.root}/{pid}/task")  # noqa: PTH208 - as in ProcFs.pids
    except OSError:
        return


def _in_initial_namespace(procfs: ProcFs) -> bool:
    try:
        link = os.readlink(f"{procfs.root}/self/ns/pid")  # noqa: PTH115 - it names no file
    except OSError:
        return True
    return link == _INITIAL_PID_NAMESPACE


def _number(raw: bytes | None) -> int | None:
    try:
        return int(raw) if raw else None
    except ValueError:
        return None
