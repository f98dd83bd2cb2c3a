"""Which records are shown: the filters that live, record and history share.

Pure.  What the kernel can filter it has filtered before (killtrace/probe/source.py, Options).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from killtrace.model import Attempt, Death, Lost, Process, Record, Signal


@dataclass(frozen=True)
class Filter:
    """Conditions that must all hold; within one condition, any of its values will do.

    `pids` are targets, `senders` senders, both tgids; `comms`, `users`, `units`, `containers` and
    `cgroups` match either end; comms and units are globs; a cgroup matches its subtree.
    """

    pids: frozenset[int] = frozenset()
    senders: frozenset[int] = frozenset()
    signals: frozenset[int] = frozenset()
    comms: tuple[str, ...] = ()
    uids: frozenset[int] = frozenset()
    cgroups: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    origins: frozenset[str] = frozenset()
    deaths_only: bool = False

    def wants(self, record: Record) -> bool:
        """Whether a record is to be shown.  What was lost always is."""
        if isinstance(record, Lost):
            return True
        if self.deaths_only and not isinstance(record, Death):
            return False
        return self._by_ends(record) and self._by_signal(record)

    def _by_ends(self, record: Signal | Death | Attempt) -> bool:
        target, sender = ends(record)
        if self.pids and (target is None or target.pid not in self.pids):
            return False
        if self.senders and (sender is None or sender.pid not in self.senders):
            return False
        both = [end for end in (target, sender) if end is not None]
        return all(
            (
                not self.comms or any(comm_matches(end, self.comms) for end in both),
                not self.uids or any(end.uid in self.uids for end in both),
                not self.cgroups or any(_in_cgroup(end, self.cgroups) for end in both),
                not self.units or any(_in_unit(end, self.units) for end in both),
                not self.containers or any(_in_container(end, self.containers) for end in both),
            )
        )

    def _by_signal(self, record: Signal | Death | Attempt) -> bool:
        if isinstance(record, Death):
            signos = {brief.signo for brief in record.signals} | {record.exit.signal}
            kinds = set() if record.cause is None else {record.cause.origin.kind}
        else:
            signos = {record.signo}
            kinds = {record.origin.kind} if isinstance(record, Signal) else {"process"}
        # An asked-for death (by pid) is told though no signal of these reached it.
        asked_for = bool(self.pids) and isinstance(record, Death) and len(signos) == 1
        if self.signals and not self.signals & signos and not asked_for:
            return False
        return not self.origins or bool(self.origins & kinds)


def ends(record: Signal | Death | Attempt) -> tuple[Process | None, Process | None]:
    """(target, sender) of a record; a death's sender is its cause's."""
    if isinstance(record, Death):
        return record.process, None if record.cause is None else record.cause.sender
    return record.target, record.sender


def comm_matches(process: Process, globs: tuple[str, ...]) -> bool:
    """Whether the name, or the program's file name, matches one of the globs.

    The kernel cuts comm at 15 characters (TASK_COMM_LEN); the program's name is whole.
    """
    names = {process.comm or ""}
    if process.cmdline:
        names.add(process.cmdline[0].rpartition("/")[2])
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def _in_cgroup(process: Process, cgroups: tuple[str, ...]) -> bool:
    path = process.cgroup
    return path is not None and any(
        path == cgroup or path.startswith(cgroup.rstrip("/") + "/") for cgroup in cgroups
    )


def _in_unit(process: Process, units: tuple[str, ...]) -> bool:
    unit = process.unit
    return unit is not None and any(
        fnmatchcase(unit, glob) or fnmatchcase(unit, f"{glob}.service") for glob in units
    )


def _in_container(process: Process, wanted: tuple[str, ...]) -> bool:
    container = process.container
    if container is None:
        return False
    names = list(_container_names(container.name, container.id, container.pod))
    return any(
        fnmatchcase(name, glob)
        or (len(glob) >= 4 and name == container.id and name.startswith(glob))
        for name in names
        for glob in wanted
    )


def _container_names(*names: str | None) -> Iterator[str]:
    return (name for name in names if name)
