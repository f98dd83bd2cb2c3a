"""One look at the machine: every scope of an OOM kill, with its candidates in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from killtrace import text
from killtrace.enrich.procfs import ProcFs
from killtrace.errors import InvalidUseError, NotFoundError, UnsupportedError
from killtrace.oom.badness import ADJ_MAX, ADJ_MIN, Candidate, Task, adjusted, rank
from killtrace.oom.memcg import (
    Hierarchy,
    Machine,
    Mount,
    Scope,
    memory_mount,
    parse_meminfo,
    parse_mounts,
    parse_pairs,
    parse_pressure,
)
from killtrace.oom.tasks import read_tasks, sees_all


@dataclass(frozen=True)
class Ranking:
    """A scope with its candidates; `group` dies as a whole with the first of them.

    `policy` says where the machine's settings overrule the ranking.
    """

    scope: Scope
    candidates: Sequence[Candidate]
    group: str | None = None
    policy: str | None = None


def parse_what_if(values: Sequence[str]) -> dict[int, int]:
    """The PID=VALUE of `--adj`; InvalidUseError for anything else."""
    found: dict[int, int] = {}
    for value in values:
        pid, equals, adj = value.partition("=")
        digits = adj.removeprefix("-")
        if not equals or not pid.isdecimal() or not digits.isdecimal():
            raise InvalidUseError(
                f"--adj {text.escape(value)} is not PID=VALUE", "write it as --adj 4711=500"
            )
        if not ADJ_MIN <= int(adj) <= ADJ_MAX:
            raise InvalidUseError(
                f"--adj {text.escape(value)} is out of range",
                f"oom_score_adj goes from {ADJ_MIN} (never) to {ADJ_MAX} (first)",
            )
        found[int(pid)] = int(adj)
    return found


class Surveyor:
    """Looks at one machine, by its /proc and its cgroup mounts."""

    def __init__(self, procfs: ProcFs, page_kb: int) -> None:
        self._procfs = procfs
        self._page_kb = page_kb
        self._mounts = parse_mounts(self._proc("self/mountinfo"))
        self._mount = memory_mount(self._mounts)

    @property
    def sees_all(self) -> bool:
        """Whether every process of the machine is visible from here."""
        return sees_all(self._procfs)

    def resolve(self, given: str) -> str | None:
        """The cgroup that `--cgroup` means, a cgroup path or a folder; None is the whole machine.

        NotFoundError where there is no such cgroup, UnsupportedError where there are none at all.
        """
        if not given.strip():
            raise InvalidUseError("--cgroup is empty", "give a cgroup's path or its folder")
        if self._mount is None:
            raise UnsupportedError(
                "no cgroup hierarchy here has the memory controller",
                "mount one, or leave out --cgroup to see the whole machine",
            )
        path = _cgroup_path(given, self._mounts)
        hierarchy = Hierarchy(self._mount, self._machine())
        if ".." in path.split("/") or not hierarchy.exists(path):
            raise NotFoundError(
                f"no cgroup {text.escape(given)} with memory files",
                f"look for it under {self._mount.folder}",
            )
        at_top = path == self._mount.root
        return None if at_top and hierarchy.scope(path).limit_kb is None else path

    def look(self, what_if: Mapping[int, int], only: str | None, alone: bool) -> Iterator[Ranking]:
        """Every scope, the machine first; with `alone` the cgroup `only`, or else the machine.

        NotFoundError where `what_if` names a process that is not there.
        """
        machine = self._machine()
        hierarchy = Hierarchy(self._mount, machine) if self._mount else None
        tasks = read_tasks(self._procfs, hierarchy.controller if hierarchy else None)
        missing = sorted(set(what_if) - {task.pid for task in tasks})
        if missing:
            raise NotFoundError(f"no process {missing[0]}", "give --adj a pid that is running")
        tasks = [adjusted(task, what_if) for task in tasks]
        if only is None:
            yield self._rank(self._system(machine), tasks, hierarchy)
        if hierarchy is None or (alone and only is None):
            return
        for path in [only] if only is not None else hierarchy.limited():
            scope = hierarchy.scope(path)
            inside = [task for task in tasks if _inside(task, path, scope.nested)]
            yield self._rank(scope, inside, hierarchy)

    def _rank(self, scope: Scope, tasks: Sequence[Task], hierarchy: Hierarchy | None) -> Ranking:
        candidates = rank(tasks, scope.total_kb // self._page_kb, self._page_kb)
        first = candidates[0] if candidates else None
        group = None
        if hierarchy and first and not first.shielded and first.task.memcg:
            group = hierarchy.group(first.task.memcg, scope.memcg)
        return Ranking(scope, candidates, group, self._policy(scope))

    def _policy(self, scope: Scope) -> str | None:
        panic = self._proc("sys/vm/panic_on_oom").strip()
        # check_panic_on_oom: 1 spares OOMs that a cgroup, a cpuset or a policy confines.
        if panic == "2" or (panic == "1" and scope.memcg is None):
            return "vm.panic_on_oom is set: the kernel panics instead"
        if scope.disabled:
            return "memory.oom_control is 1: nobody is killed, tasks wait for memory"
        if scope.memcg is None and self._proc("sys/vm/oom_kill_allocating_task").strip() == "1":
            return "vm.oom_kill_allocating_task is set: who asks for memory dies instead"
        return None

    def _machine(self) -> Machine:
        memory = parse_meminfo(self._proc("meminfo"))
        swappiness = self._proc("sys/vm/swappiness").strip()
        return Machine(
            ram_kb=memory.get("MemTotal", 0),
            swap_kb=memory.get("SwapTotal", 0),
            free_swap_kb=memory.get("SwapFree", 0),
            available_kb=memory.get("MemAvailable"),
            swappiness=int(swappiness) if swappiness.isdecimal() else 60,
        )

    def _system(self, machine: Machine) -> Scope:
        free_kb = machine.available_kb
        return Scope(
            memcg=None,
            limit_kb=machine.ram_kb,
            usage_kb=None if free_kb is None else machine.ram_kb - free_kb,
            total_kb=machine.ram_kb + machine.swap_kb,
            headroom_kb=free_kb,
            swap_kb=machine.swap_kb - machine.free_swap_kb,
            kills=parse_pairs(self._proc("vmstat")).get("oom_kill"),
            pressure=parse_pressure(self._proc("pressure/memory")),
        )

    def _proc(self, name: str) -> str:
        try:
            return text.decode((Path(self._procfs.root) / name).read_bytes())
        except OSError:
            return ""


def _cgroup_path(given: str, mounts: Sequence[Mount]) -> str:
    """A folder of any cgroup mount as a cgroup path; all else is a cgroup path already."""
    # The longest first: a mount may lie below another one.
    for mount in sorted(mounts, key=lambda mount: len(mount.folder.parts), reverse=True):
        folder = Path(given)
        if folder.is_relative_to(mount.folder):
            inner = folder.relative_to(mount.folder)
            return str(Path(mount.root) / inner)
    return str(Path("/") / given)


def _inside(task: Task, path: str, nested: bool) -> bool:
    if task.memcg is None:
        return False
    return task.memcg == path or (nested and task.memcg.startswith(f"{path.rstrip('/')}/"))
