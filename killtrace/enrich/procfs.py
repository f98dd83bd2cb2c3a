"""Processes as /proc shows them (proc(5)).  A process that vanished is None, not an error."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from killtrace import text
from killtrace.model import Ancestor, Process

# /proc/PID/stat counts in USER_HZ, which is 100 on every architecture but alpha and ia64.
TICK_NS = 10_000_000
_UNSET = 4294967295
_ANCESTORS_MAX = 32
_DELETED = " (deleted)"


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/PID/stat that killtrace needs; `start_ns` counts from boot."""

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    sid: int
    tty_nr: int
    flags: int
    start_ns: int


@dataclass(frozen=True)
class TtyDriver:
    """One line of /proc/tty/drivers: which device numbers are called what."""

    prefix: str
    major: int
    first: int
    last: int


def parse_stat(raw: bytes) -> Stat:
    """/proc/PID/stat; the name may hold spaces and parentheses.  ValueError for other text."""
    head, opening, rest = raw.partition(b" (")
    name, closing, tail = rest.rpartition(b") ")
    fields = tail.split()
    if not opening or not closing or len(fields) < 20:
        raise ValueError("not a line of /proc/PID/stat")
    return Stat(
        pid=int(head),
        comm=text.decode(name),
        state=fields[0].decode("ascii"),
        ppid=int(fields[1]),
        pgrp=int(fields[2]),
        sid=int(fields[3]),
        tty_nr=int(fields[4]),
        flags=int(fields[6]),
        start_ns=int(fields[19]) * TICK_NS,
    )


def parse_status(raw: bytes) -> dict[str, str]:
    """/proc/PID/status as a mapping of names to values, the space around them taken off."""
    pairs = (line.partition(":") for line in text.decode(raw).split("\n"))
    return {name: value.strip() for name, colon, value in pairs if colon}


@lru_cache(maxsize=1024)
def parse_cmdline(raw: bytes) -> tuple[str, ...]:
    """/proc/PID/cmdline as arguments; a title written over them may lack the last NUL."""
    if not raw:
        return ()
    body = raw[:-1] if raw.endswith(b"\0") else raw
    return tuple(text.decode(part) for part in body.split(b"\0"))


def parse_cgroups(raw: bytes) -> dict[str, str]:
    """/proc/PID/cgroup: each controller's path; "" is version 2, "name=systemd" systemd's own."""
    paths: dict[str, str] = {}
    for line in text.decode(raw).splitlines():
        _, first, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if first and second:
            # The kernel marks a version 2 cgroup that was removed under a process.
            path = path.removesuffix(_DELETED)
            for controller in controllers.split(","):
                paths[controller] = path
    return paths


def pick_cgroup(paths: Mapping[str, str]) -> str | None:
    """The path that tells most: version 2, else systemd's, else memory's, else the root."""
    if not paths:
        return None
    candidates = (paths.get(name) for name in ("", "name=systemd", "memory"))
    return next((path for path in candidates if path and path != "/"), "/")


def parse_tty_drivers(raw: bytes) -> tuple[TtyDriver, ...]:
    """/proc/tty/drivers; lines that have another form are left out."""
    drivers = []
    for line in text.decode(raw).splitlines():
        fields = line.split()
        if len(fields) >= 5 and re.fullmatch(r"\d+(-\d+)?", fields[-2]) and fields[-3].isdecimal():
            first, _, last = fields[-2].partition("-")
            drivers.append(TtyDriver(fields[-4], int(fields[-3]), int(first), int(last or first)))
    return tuple(drivers)


def tty_name(tty_nr: int, drivers: tuple[TtyDriver, ...]) -> str | None:
    """The terminal's device file by its number (new_encode_dev in the kernel), or None."""
    number = tty_nr & 0xFFFFFFFF
    major, minor = (number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)
    if number == 0:
        return None
    if 136 <= major <= 143:  # admin-guide/devices.txt: UNIX98 pseudoterminals
        return f"/dev/pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"/dev/tty{minor}" if minor < 64 else f"/dev/ttyS{minor - 64}"
    for driver in drivers:
        if driver.major == major and driver.first <= minor <= driver.last:
            alone = driver.first == driver.last
            return driver.prefix if alone else f"{driver.prefix}{minor - driver.first}"
    return None


class ProcFs:
    """Reads one /proc; `wall_offset_ns` turns time since boot into wall time (clock.py)."""

    def __init__(self, root: Path = Path("/proc"), wall_offset_ns: int = 0) -> None:
        self.root = root
        self._base = os.fspath(root)
        self.wall_offset_ns = wall_offset_ns
        self._drivers: tuple[TtyDriver, ...] | None = None

    def read(self, pid: int, name: str) -> bytes | None:
        """One file of one process; None if it vanished, or may not be read."""
        try:
            with open(f"{self._base}/{pid}/{name}", "rb") as file:
                return file.read()
        except OSError:  # ENOENT, ESRCH: gone; EACCES, EPERM: not ours to see
            return None

    def pids(self) -> Iterator[int]:
        """Every process, in the order of /proc."""
        try:
            names = os.listdir(self._base)  # noqa: PTH208 - a Path for each would cost more
        except OSError:
            return
        yield from (int(name) for name in names if name.isdecimal())

    def stat(self, pid: int) -> Stat | None:
        """/proc/PID/stat, or None."""
        raw = self.read(pid, "stat")
        try:
            return parse_stat(raw) if raw else None
        except ValueError:
            return None

    def status(self, pid: int) -> dict[str, str] | None:
        """/proc/PID/status, or None."""
        raw = self.read(pid, "status")
        return parse_status(raw) if raw else None

    def cmdline(self, pid: int) -> tuple[str, ...] | None:
        """The command line as it is now; () for kernel threads and zombies, None if gone."""
        raw = self.read(pid, "cmdline")
        return None if raw is None else parse_cmdline(raw)

    def exe(self, pid: int) -> str | None:
        """The path of the program, with " (deleted)" where the kernel says so."""
        try:
            return os.readlink(f"{self._base}/{pid}/exe")  # noqa: PTH115 - as in pids
        except OSError:
            return None

    def cgroups(self, pid: int) -> dict[str, str]:
        """The process's path in each hierarchy; empty if it vanished."""
        return parse_cgroups(self.read(pid, "cgroup") or b"")

    def cgroup(self, pid: int) -> str | None:
        """The path that tells most about the process."""
        return pick_cgroup(self.cgroups(pid))

    def loginuid(self, pid: int) -> int | None:
        """Who logged in, before any sudo; None where nobody did, or the kernel has no audit."""
        return self._unset_or(pid, "loginuid")

    def session_id(self, pid: int) -> int | None:
        """The audit session; None where there is none."""
        return self._unset_or(pid, "sessionid")

    def tty_name(self, tty_nr: int) -> str | None:
        """The terminal's device file, by /proc/PID/stat's number of it."""
        if self._drivers is None:
            try:
                raw = (self.root / "tty" / "drivers").read_bytes()
            except OSError:
                raw = b""
            self._drivers = parse_tty_drivers(raw)
        return tty_name(tty_nr, self._drivers)

    def ancestors(self, pid: int) -> tuple[Ancestor, ...]:
        """The parents, nearest first, with their command lines."""
        stat = self.stat(pid)
        return () if stat is None else self._ancestors_of(stat)

    def process(self, pid: int, *, ancestors: bool = True) -> Process | None:
        """Everything /proc tells of a process; None if it is gone, or its pid changed hands."""
        stat = self.stat(pid)
        status = self.status(pid) if stat else None
        if stat is None or status is None:
            return None
        cmdline, exe = self.cmdline(pid), self.exe(pid)
        loginuid, session_id, cgroup = self.loginuid(pid), self.session_id(pid), self.cgroup(pid)
        parents = self._ancestors_of(stat) if ancestors else ()
        again = self.stat(pid)
        if again is None or again.start_ns != stat.start_ns:
            return None
        ns_pids = status.get("NSpid", "").split()
        uids = status.get("Uid", "").split()
        return Process(
            pid=pid,
            ns_pid=int(ns_pids[-1]) if ns_pids else None,
            start_time_ns=stat.start_ns + self.wall_offset_ns,
            comm=stat.comm,
            exe=exe,
            cmdline=cmdline or None,
            ppid=stat.ppid,
            uid=int(uids[0]) if uids else None,
            loginuid=loginuid,
            session_id=session_id,
            sid=stat.sid,
            tty=self.tty_name(stat.tty_nr),
            cgroup=cgroup,
            ancestors=parents,
        )

    def _unset_or(self, pid: int, name: str) -> int | None:
        raw = (self.read(pid, name) or b"").strip()
        return int(raw) if raw.isdigit() and int(raw) != _UNSET else None

    def _ancestors_of(self, stat: Stat) -> tuple[Ancestor, ...]:
        steps: list[Ancestor] = []
        while stat.ppid > 0 and len(steps) < _ANCESTORS_MAX:
            parent = self.stat(stat.ppid)
            if parent is None:
                break
            steps.append(Ancestor(parent.pid, parent.comm, self.cmdline(parent.pid) or None))
            stat = parent
        return tuple(steps)
