"""Learns who holds a terminal as soon as it is made: it may be gone with its last process.

devpts tells of new terminals by inotify(7) (fsnotify_create in devpts_pty_new, fs/devpts/inode.c).
A thread sleeps until then: no new terminal, no work.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_IN_CLOEXEC, _IN_CREATE = 0o2000000, 0x100
_EVENT = struct.Struct("=iIII")  # struct inotify_event: wd, mask, cookie, len; then the name
# The holder has its descriptor a moment after the terminal is made, its login is recorded later.
_LOOKS_S = (0.002, 0.03, 0.3, 2.0)
# A look costs a pass over all descriptors: it takes no more than a tenth of a CPU.
_REST = 9
_MOST_DUE = 256


def new_names(data: bytes) -> list[str]:
    """The names in a read of inotify events."""
    names, at = [], 0
    while at + _EVENT.size <= len(data):
        length = _EVENT.unpack_from(data, at)[3]
        name = data[at + _EVENT.size : at + _EVENT.size + length].split(b"\0", 1)[0]
        names.append(os.fsdecode(name))
        at += _EVENT.size + length
    return names


class TerminalWatch:
    """Calls `made` with the names of terminals that are made, and `look` some times after that."""

    def __init__(
        self,
        made: Callable[[Sequence[str]], object],
        look: Callable[[Sequence[str]], object],
        folder: Path = Path("/dev/pts"),
    ) -> None:
        self._made = made
        self._look = look
        self._folder = folder

    def start(self) -> bool:
        """Begin to watch; False where the machine has no such folder, or no inotify to give."""
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = libc.inotify_init1(_IN_CLOEXEC)
        path = os.fsencode(self._folder)
        if descriptor < 0 or libc.inotify_add_watch(descriptor, path, _IN_CREATE) < 0:
            return False
        self._descriptor = descriptor
        threading.Thread(target=self._run, name="terminals", daemon=True).start()
        return True

    def _run(self) -> None:
        self._look(())
        due: dict[str, list[float]] = {}
        rested = 0.0
        while True:
            next_s = max(min((times[0] for times in due.values()), default=0.0), rested)
            wait_s = max(next_s - time.monotonic(), 0.0) if due else None
            if select.select([self._descriptor], [], [], wait_s)[0]:
                self._take_new(due)
                continue
            began = time.monotonic()
            ripe = [path for path, times in due.items() if times[0] <= began]
            if ripe:
                self._look(ripe)
            for path in ripe:
                due[path] = [at for at in due[path] if at > began]
                if not due[path]:
                    del due[path]
            ended = time.monotonic()
            rested = ended + _REST * (ended - began)

    def _take_new(self, due: dict[str, list[float]]) -> None:
        names = new_names(os.read(self._descriptor, 65536))
        paths = [str(self._folder / name) for name in names if name.isdecimal()]
        self._made(paths)
        now = time.monotonic()
        for path in paths if len(due) < _MOST_DUE else ():
            due[path] = [now + after for after in _LOOKS_S]
