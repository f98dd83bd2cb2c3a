"""The running kernel's log, followed for OOM reports: who else was there, what was asked for."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from killtrace.text import decode

if TYPE_CHECKING:
    from killtrace.evidence.kernel_log import OomKill, Parser

_KEPT = 256
# The report is printed around the kill; a record is judged some 6 ms after it.
_PATIENCE_S = 0.1
_LOOK_S = 0.01
_RECORD_MAX = 8192


class KernelLog:
    """Follows /dev/kmsg (Documentation/ABI/testing/dev-kmsg) from now on; absent is no fault."""

    def __init__(self, path: Path = Path("/dev/kmsg")) -> None:
        self._parser: Parser | None = None
        self._kills: deque[OomKill] = deque(maxlen=_KEPT)
        try:
            self._fd: int | None = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._fd = None

    def kill_of(self, pid: int) -> OomKill | None:
        """The latest OOM kill of a pid that the log tells of; waits a little for its line."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._fd is not None:
            self._drain(self._fd)
            for kill in reversed(self._kills):
                if kill.pid == pid:
                    return kill
            if time.monotonic() >= deadline:
                return None
            time.sleep(_LOOK_S)
        return None

    def _drain(self, fd: int) -> None:
        # Imported here: most runs see no OOM kill.
        from killtrace.evidence.kernel_log import KernelLine, OomKill, Parser

        parser = self._parser = self._parser or Parser()
        while True:
            try:
                record = os.read(fd, _RECORD_MAX)
            except BrokenPipeError:  # EPIPE: lines were overwritten; go on with what is there
                continue
            except OSError:  # EAGAIN: that is all
                return
            if not record:
                return
            event = parser.feed(KernelLine(_text(record)))
            if isinstance(event, OomKill):
                self._kills.append(event)

    def close(self) -> None:
        """Let go of the log."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _text(record: bytes) -> str:
    """The first line of a record "priority,sequence,us,flags;text": what follows are properties."""
    return decode(record.partition(b";")[2].partition(b"\n")[0])
