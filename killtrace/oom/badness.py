"""The OOM killer's choice, as mm/oom_kill.c makes it.  Pure.

The sum has been the same since Linux 4.17: resident pages of all three kinds, swap entries and
page table pages, and oom_score_adj in thousandths of the memory that the scope may use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

ADJ_MIN, ADJ_MAX = -1000, 1000

PF_EXITING = 0x00000004
PF_KTHREAD = 0x00200000

INIT = "init"
KERNEL_THREAD = "kernel thread"
ADJ_SHIELD = f"oom_score_adj {ADJ_MIN}"
VFORK = "in vfork: it still runs in its parent's memory"
EXITING = "already exiting"


@dataclass(frozen=True)
class Memory:
    """The memory of one process in kB; the kernel's counters are whole pages of it."""

    total_vm_kb: int = 0
    anon_rss_kb: int = 0
    file_rss_kb: int = 0
    shmem_rss_kb: int = 0
    swap_kb: int = 0
    pgtables_kb: int = 0

    @property
    def rss_kb(self) -> int:
        """Resident memory: get_mm_rss."""
        return self.anon_rss_kb + self.file_rss_kb + self.shmem_rss_kb


@dataclass(frozen=True)
class Task:
    """One process as the OOM killer looks at it; `start_ns` counts from boot.

    `memory` is None where it has none: a kernel thread, or a process that has let go of it.
    `oom_score` is /proc/PID/oom_score, None where the kernel could not be asked.
    """

    pid: int
    comm: str
    start_ns: int
    flags: int
    memcg: str | None
    oom_score_adj: int
    memory: Memory | None
    oom_score: int | None = None
    is_init: bool = False
    in_vfork: bool = False


@dataclass(frozen=True)
class Candidate:
    """A task in a scope: its rank, and either its badness in pages or what shields it."""

    rank: int
    task: Task
    badness: int | None
    shielded: str | None


def badness(task: Task, total_pages: int, page_kb: int) -> int:
    """oom_badness: pages in use, and the adjustment's share of the scope's pages.

    The kernel divides before it multiplies, so the share is in steps of a thousandth.
    """
    memory = task.memory or Memory()
    used_kb = memory.rss_kb + memory.swap_kb + memory.pgtables_kb
    return used_kb // page_kb + task.oom_score_adj * (total_pages // 1000)


def shield(task: Task) -> str | None:
    """What keeps the OOM killer off a task (oom_unkillable_task, oom_badness), or None."""
    if task.flags & PF_KTHREAD:
        return KERNEL_THREAD
    if task.is_init:
        return INIT
    if task.memory is None:
        return EXITING
    if task.oom_score_adj == ADJ_MIN:
        return ADJ_SHIELD
    return VFORK if task.in_vfork else None


def rank(tasks: Iterable[Task], total_pages: int, page_kb: int) -> list[Candidate]:
    """Every task of a scope, the one to be killed first; the shielded come last.

    Of equals the kernel takes the one that it meets last (oom_evaluate_task): the youngest.
    """
    killable: list[tuple[int, int, int, Task]] = []
    shielded: list[tuple[Task, str]] = []
    for task in tasks:
        reason = shield(task)
        if reason is None:
            points = badness(task, total_pages, page_kb)
            killable.append((points, task.start_ns, task.pid, task))
        else:
            shielded.append((task, reason))
    killable.sort(key=lambda entry: entry[:3], reverse=True)
    shielded.sort(key=lambda entry: entry[0].pid)
    found = [Candidate(at, task, points, None) for at, (points, *_, task) in enumerate(killable, 1)]
    after = len(found) + 1
    found += [Candidate(at, task, None, why) for at, (task, why) in enumerate(shielded, after)]
    return found


def adjusted(task: Task, what_if: Mapping[int, int]) -> Task:
    """The task with the adjustment that it would have."""
    return replace(task, oom_score_adj=what_if.get(task.pid, task.oom_score_adj))
