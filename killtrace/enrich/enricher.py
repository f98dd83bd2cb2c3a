"""Completes process records: what the kernel could not say is read from /proc and from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from killtrace.enrich import cgroup
from killtrace.enrich.containers import Containers
from killtrace.enrich.logins import Logins
from killtrace.enrich.procfs import TICK_NS, ProcFs
from killtrace.enrich.tty import Terminals
from killtrace.enrich.users import Users
from killtrace.model import Process

# What /proc may add to a record.  A command line comes with its mark of being cut, see complete.
_FROM_PROC = (
    "ns_pid",
    "comm",
    "exe",
    "ppid",
    "uid",
    "loginuid",
    "session_id",
    "sid",
    "tty",
    "cgroup",
    "ancestors",
)


class Enricher:
    """Adds user, unit, container, and what /proc still has; no field that is set is changed."""

    def __init__(self, procfs: ProcFs, users: Users, containers: Containers) -> None:
        self.procfs = procfs
        self.users = users
        self.containers = containers

    def place(self, process: Process) -> Process:
        """The record with user, unit and container: from its uid and cgroup, without /proc."""
        changes: dict[str, Any] = {}
        if process.user is None and process.uid is not None:
            changes["user"] = self.users.name(process.uid)
        if process.cgroup is not None and process.unit is None and process.container is None:
            place = cgroup.place(process.cgroup)
            changes["unit"] = place.unit
            changes["container"] = self.containers.describe(place)
        return replace(process, **changes) if changes else process

    def complete(self, process: Process) -> Process:
        """The record with everything; /proc is used only while it shows the very same process."""
        stat = self.procfs.stat(process.pid)  # first, being cheap: most are gone by now
        if stat is None or not self._same(process, stat.start_ns + self.procfs.wall_offset_ns):
            return self.place(process)
        current = self.procfs.process(process.pid, ancestors=not process.ancestors)
        if current is None or not self._same(process, current.start_time_ns):
            return self.place(process)
        changes = {
            name: getattr(current, name)
            for name in _FROM_PROC
            if getattr(process, name) in (None, ())
        }
        if process.start_time_ns is None:
            changes["start_time_ns"] = current.start_time_ns
        if process.cmdline is None:
            changes["cmdline"] = current.cmdline
        return self.place(replace(process, **changes))

    def find(self, pid: int, *, ancestors: bool = True) -> Process | None:
        """The complete record of a process that is running now, or None."""
        process = self.procfs.process(pid, ancestors=ancestors)
        return None if process is None else self.place(process)

    def _same(self, process: Process, seen_ns: int | None) -> bool:
        """Whether the start time that /proc shows, which is cut to whole ticks, is the record's."""
        if process.start_time_ns is None or seen_ns is None:
            return process.start_time_ns is None
        # One tick of tolerance: both were turned into wall time, each with its own rounding.
        return -TICK_NS <= process.start_time_ns - seen_ns < 2 * TICK_NS


def open_enricher(
    wall_offset_ns: int, proc: Path = Path("/proc"), root: Path = Path("/")
) -> Enricher:
    """The enricher of this machine, or of a folder that looks like one."""
    users = Users(root / "etc/passwd")
    return Enricher(ProcFs(proc, wall_offset_ns), users, Containers(root, users.home))


def open_terminals(enricher: Enricher, root: Path = Path("/")) -> Terminals:
    """The terminals that go with an enricher."""
    logins = Logins(root / "run/utmp", root / "run/systemd/sessions")
    return Terminals(enricher.procfs, logins, enricher.users)
