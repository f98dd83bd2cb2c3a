"""One CPU's perf buffer, read by copying: a whole buffer at a time, however many records it holds.

Layout: perf_event_open(2), struct perf_event_mmap_page and struct perf_event_header.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import threading
from collections.abc import Iterator

from killtrace.probe import syscalls

_TYPE_SOFTWARE, _COUNT_SW_BPF_OUTPUT, _SAMPLE_RAW = 1, 10, 1 << 10
_RECORD_SAMPLE = 9
_HEAD, _TAIL = 1024, 1032
# struct perf_event_attr up to config2 (PERF_ATTR_SIZE_VER1).
_ATTR = struct.Struct("=IIQQQQQIIQQ")
_HEADER = struct.Struct("=IHHI")  # perf_event_header, and the raw sample's size
_NEVER = 1 << 30


def open_event(kind: int, *, cpu: int = 0, wakeup_events: int = 0, config1: int = 0) -> int:
    """An event of a kind (perf_event_attr.type): of programs' output, or of a dynamic kind."""
    config, period, sample = (
        (_COUNT_SW_BPF_OUTPUT, 1, _SAMPLE_RAW) if kind == _TYPE_SOFTWARE else (0, 0, 0)
    )
    attr = (kind, _ATTR.size, config, period, sample, 0, 0, wakeup_events, 0, config1, 0)
    return syscalls.perf_event_open(_ATTR.pack(*attr), cpu)


class Ring:
    """The buffer of one CPU, `pages` (a power of two) long.

    `announces`: each record in it makes `fd` readable; without, nobody is woken.
    """

    def __init__(self, cpu: int, pages: int, *, announces: bool = False) -> None:
        self.announces = announces
        wakeup = 1 if announces else _NEVER
        self.fd = open_event(_TYPE_SOFTWARE, cpu=cpu, wakeup_events=wakeup)
        page = mmap.PAGESIZE
        try:
            self._map = mmap.mmap(self.fd, (pages + 1) * page)
        except OSError:
            os.close(self.fd)
            raise
        self._size, self._start = pages * page, page
        # Whole words, read and written at once: the kernel looks at them meanwhile.
        self._head = ctypes.c_uint64.from_buffer(self._map, _HEAD)
        self._tail = ctypes.c_uint64.from_buffer(self._map, _TAIL)
        self._lock = threading.Lock()

    def take(self) -> bytes:
        """All that stands in the buffer, as it stands there, which is then free again."""
        head, tail = self._head.value, self._tail.value
        if head == tail:
            return b""
        self._barrier()
        begin, end = self._start + tail % self._size, self._start + head % self._size
        if begin < end:
            taken = self._map[begin:end]
        else:
            taken = self._map[begin : self._start + self._size] + self._map[self._start : end]
        self._barrier()
        self._tail.value = head
        return taken

    def _barrier(self) -> None:
        """Order what is before and after: taking a lock does, twice does both ways."""
        with self._lock:
            pass
        with self._lock:
            pass

    def close(self) -> None:
        """Unmap and close."""
        del self._head, self._tail
        self._map.close()
        os.close(self.fd)


def samples(taken: bytes) -> Iterator[bytes]:
    """The records in what `Ring.take` gave; what the kernel put between them is passed over.

    A record is followed by up to 7 bytes of padding.  Nothing is made of a record cut short.
    """
    position, end, unpack = 0, len(taken), _HEADER.unpack_from
    while position + _HEADER.size <= end:
        kind, _, size, length = unpack(taken, position)
        if size < 8:
            return
        if kind == _RECORD_SAMPLE:
            yield taken[position + 12 : position + 12 + length]
        position += size
