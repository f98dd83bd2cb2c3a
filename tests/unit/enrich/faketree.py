"""A /proc in a temporary folder: what the enrich layer reads of one, and no more."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

TICKS = 5000


@dataclass
class FakeProc:
    root: Path
    start_ticks: dict[int, int] = field(default_factory=dict)

    def add(
        self,
        pid: int,
        comm: str = "sleep",
        *,
        ppid: int = 1,
        sid: int = 1,
        tty_nr: int = 0,
        flags: int = 0,
        start: int = TICKS,
        cmdline: bytes = b"sleep\x00100\x00",
        uid: int = 1000,
        ns_pids: str | None = None,
        cgroup: str = "0::/system.slice/cron.service\n",
        loginuid: str = "4294967295",
        sessionid: str = "4294967295",
        exe: str | None = "/usr/bin/sleep",
        status: str = "",
    ) -> Path:
        folder = self.root / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        rest = [
            "S",
            ppid,
            pid,
            sid,
            tty_nr,
            -1,
            flags,
            *[0] * 12,
            start,
            *[0] * 30,
        ]
        line = f"{pid} ({comm}) {' '.join(map(str, rest))}\n"
        (folder / "stat").write_bytes(line.encode("utf-8", "surrogateescape"))
        (folder / "status").write_text(
            f"Name:\t{comm}\nTgid:\t{pid}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"
            f"NSpid:\t{ns_pids or pid}\n{status}",
            errors="surrogateescape",
        )
        (folder / "cmdline").write_bytes(cmdline)
        (folder / "cgroup").write_text(cgroup)
        (folder / "loginuid").write_text(loginuid)
        (folder / "sessionid").write_text(sessionid)
        if exe is not None:
            link = folder / "exe"
            link.unlink(missing_ok=True)
            link.symlink_to(exe)
        return folder

    def add_fd(self, pid: int, fd: int, link: str, tty_index: int | None = None) -> None:
        folder = self.root / str(pid)
        (folder / "fd").mkdir(exist_ok=True)
        (folder / "fdinfo").mkdir(exist_ok=True)
        (folder / "fd" / str(fd)).symlink_to(link)
        info = "pos:\t0\nflags:\t02\n"
        if tty_index is not None:
            info += f"tty-index:\t{tty_index}\n"
        (folder / "fdinfo" / str(fd)).write_text(info)

    def remove(self, pid: int) -> None:
        folder = self.root / str(pid)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()


def utmp_entry(kind: int, pid: int, line: str, user: str, host: str, size: int = 384) -> bytes:
    head = struct.pack(
        "=hxxi32s4s32s256s", kind, pid, line.encode(), b"ts/0", user.encode(), host.encode()
    )
    return head.ljust(size, b"\0")
