"""Who holds the other end of a pseudoterminal: sshd, tmux, a terminal program."""

from __future__ import annotations

import ipaddress
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from killtrace import text
from killtrace.enrich.logins import Logins
from killtrace.enrich.procfs import ProcFs
from killtrace.enrich.users import Users
from killtrace.model import Ancestor, Process


@dataclass(frozen=True)
class Holder:
    """The process that holds a terminal's master, and who is logged in on the terminal.

    `gone`: the process has ended; it held the terminal when last seen.
    """

    process: Process
    user: str | None = None
    remote_host: str | None = None
    gone: bool = False


@dataclass(frozen=True)
class _Master:
    """One descriptor that is the master of a pseudoterminal."""

    pid: int
    start_ns: int
    fd: str


_PTS = "/dev/pts/"
_MASTER_LINKS = ("/dev/ptmx", "/dev/pts/ptmx")
_INDEX = re.compile(rb"^tty-index:\s*(\d+)", re.MULTILINE)
_SSHD = re.compile(r"sshd(-session)?")
_HOLDERS = re.compile(r"sshd(-session)?|tmux: server|tmux|screen|SCREEN|mosh-server|ttyd|script")
# A tty that nobody holds is not looked for again at once: a storm of Ctrl-C must stay cheap.
_MISS_S = 0.5
_TCP_ESTABLISHED = "01"


def parse_tcp(content: str) -> Iterator[tuple[int, str]]:
    """Sockets of /proc/net/tcp or tcp6 that are connected: (inode, remote address)."""
    for line in content.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _TCP_ESTABLISHED and fields[9].isdecimal():
            try:
                yield int(fields[9]), _address(fields[2].partition(":")[0])
            except ValueError:
                continue


def _address(hexadecimal: str) -> str:
    # Each 32-bit word is printed as the machine sees it: little endian wherever bcc runs but s390.
    words = bytes.fromhex(hexadecimal)
    packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


class Terminals:
    """Finds and remembers the holders of pseudoterminals.

    A look costs one pass over every process's descriptors, which fills in all terminals at once;
    after that a holder is only checked: same process, same descriptor, same terminal.
    """

    def __init__(
        self,
        procfs: ProcFs,
        logins: Logins,
        users: Users,
        monotonic: Callable[[], float] = time.monotonic,
        devices: Path = Path("/"),
    ) -> None:
        self._devices = devices
        self._procfs = procfs
        self._logins = logins
        self._users = users
        self._monotonic = monotonic
        self._masters: dict[str, list[_Master]] = {}
        self._holders: dict[tuple[str, int, int], Holder] = {}
        self._last: dict[str, Holder] = {}
        self._missed: dict[str, float] = {}
        # A thread learns of new terminals meanwhile (ttywatch.py).
        self._lock = threading.RLock()

    def learn(self, ttys: Sequence[str] = ()) -> None:
        """Look at the holders of these terminals again, and at those of all that are new."""
        with self._lock:
            self._scan()
            self._holders = {key: held for key, held in self._holders.items() if key[0] not in ttys}
            for tty in tuple(self._masters):
                if tty in ttys or tty not in self._last:
                    self.holder(tty)

    def forget(self, ttys: Sequence[str]) -> None:
        """These have just been made: what bore their names before is no more."""
        with self._lock:
            for tty in ttys:
                self._last.pop(tty, None)
                self._masters.pop(tty, None)
                self._missed.pop(tty, None)

    def holder(self, tty: str | None, of: int | None = None) -> Holder | None:
        """Who holds the master of `tty` ("/dev/pts/3"); None for other devices, or if unknown.

        `of`: a pid on that terminal.  Containers have a /dev/pts/0 of their own each; among
        several holders the one that is an ancestor of this process is taken.
        """
        if tty is None or not tty.startswith(_PTS):
            return None
        with self._lock:
            return self._holder(tty, of)

    def _holder(self, tty: str, of: int | None) -> Holder | None:
        alive = [master for master in self._masters.get(tty, ()) if self._still(master, tty)]
        if not alive and self._monotonic() >= self._missed.get(tty, 0.0):
            self._scan()
            alive = self._masters.get(tty, [])
        if not alive:
            self._missed[tty] = self._monotonic() + _MISS_S
            return self._last.get(tty)
        best = self._best(alive, tty, of)
        found = self._describe(best, tty)
        if found is not None:
            self._last[tty] = replace(found, gone=True)
        return found

    def _scan(self) -> None:
        masters: dict[str, list[_Master]] = {}
        for pid in self._procfs.pids():
            for fd in self._master_fds(pid):
                index = self._index(pid, fd)
                stat = self._procfs.stat(pid) if index is not None else None
                if stat is not None:
                    master = _Master(pid, stat.start_ns, fd)
                    masters.setdefault(f"{_PTS}{index}", []).append(master)
        self._masters = masters
        known = {(tty, m.pid, m.start_ns) for tty, held in masters.items() for m in held}
        self._holders = {key: held for key, held in self._holders.items() if key in known}

    def _master_fds(self, pid: int) -> list[str]:
        return [fd for fd, link in self._fds(pid) if link in _MASTER_LINKS]

    def _fds(self, pid: int) -> Iterator[tuple[str, str]]:
        folder = f"{self._procfs.root}/{pid}/fd"
        try:
            names = os.listdir(folder)  # noqa: PTH208 - a Path for each would cost more
        except OSError:
            return
        for name in names:
            try:
                yield name, os.readlink(f"{folder}/{name}")  # noqa: PTH115 - as above
            except OSError:
                continue

    def _index(self, pid: int, fd: str) -> int | None:
        match = _INDEX.search(self._procfs.read(pid, f"fdinfo/{fd}") or b"")
        return int(match[1]) if match else None

    def _still(self, master: _Master, tty: str) -> bool:
        stat = self._procfs.stat(master.pid)
        if stat is None or stat.start_ns != master.start_ns:
            return False
        index = self._index(master.pid, master.fd)
        return index is not None and tty == f"{_PTS}{index}"

    def _best(self, masters: list[_Master], tty: str, of: int | None) -> _Master:
        if len(masters) == 1:
            return masters[0]
        family = {step.pid for step in self._procfs.ancestors(of)} if of is not None else set()

        def rank(master: _Master) -> tuple[bool, bool, bool, int, int]:
            stat = self._procfs.stat(master.pid)
            title = " ".join(self._procfs.cmdline(master.pid) or ())
            on_it = stat is not None and self._procfs.tty_name(stat.tty_nr) == tty
            # sshd's session process, unlike its privileged half, has the terminal in its title.
            named = re.search(rf"@{re.escape(tty.removeprefix('/dev/'))}(?!\d)", title) is not None
            # Who inherited the descriptor from the holder is younger, or runs on the terminal.
            return (master.pid not in family, on_it, not named, master.start_ns, master.pid)

        return min(masters, key=rank)

    def _describe(self, master: _Master, tty: str) -> Holder | None:
        key = (tty, master.pid, master.start_ns)
        if key not in self._holders:
            process = self._procfs.process(master.pid)
            if process is None:
                return self._last.get(tty)
            process = replace(process, user=self._users.name(process.uid))
            login = self._logins.on(tty, process.cgroup)
            user = login.user if login else None
            host = login.host if login else None
            if host is None and _SSHD.fullmatch(process.comm or ""):
                host = self._peer(master.pid)
            user = user or self._users.name(process.loginuid) or self._owner(process, tty)
            found = Holder(process, user, host)
            if user is None:  # a login that is being made may be recorded in a moment
                return found
            self._holders[key] = found
        return self._holders[key]

    def _owner(self, holder: Process, tty: str) -> str | None:
        """Whom sshd has given the terminal to (pty_setowner in its sshpty.c)."""
        if not _SSHD.fullmatch(holder.comm or ""):
            return None
        try:
            return self._users.name((self._devices / tty.removeprefix("/")).stat().st_uid)
        except OSError:
            return None

    def _peer(self, pid: int) -> str | None:
        """The other end of sshd's own connection: known even where no login was recorded."""
        links = (link for _, link in self._fds(pid))
        inodes = {int(link[8:-1]) for link in links if re.fullmatch(r"socket:\[\d+\]", link)}
        return _only(
            {
                address
                for name in ("net/tcp", "net/tcp6")
                for inode, address in parse_tcp(text.decode(self._procfs.read(pid, name) or b""))
                if inode in inodes
            }
        )


def by_family(target: Process) -> Holder | None:
    """Who made the terminal of a process, where its holder is gone: its session's parent.

    Only of those that are known to keep the terminals that they make; None otherwise.
    """
    above = [Ancestor(target.pid, target.comm, target.cmdline), *target.ancestors]
    for leader, parent in pairwise(above):
        if leader.pid == target.sid and _HOLDERS.fullmatch(parent.comm or ""):
            made = Process(pid=parent.pid, comm=parent.comm, cmdline=parent.cmdline)
            return Holder(made, gone=True)
    return None


def _only(values: Iterable[str]) -> str | None:
    """The one value there is; a connection that sshd forwards would make two, and a guess."""
    found = list(values)
    return found[0] if len(found) == 1 else None
