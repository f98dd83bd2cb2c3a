"""The map of command lines, read as a whole: what was executed of late."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator

from killtrace import decode
from killtrace.probe import syscalls

_LOOKUP_BATCH = 24  # BPF_MAP_LOOKUP_BATCH, since 5.6; hash tables go bucket by bucket
_ROOM = 256
ENTRY = struct.Struct("<" + decode.codes(decode.EXEC_FIELDS))


class ExecMap:
    """Walks the map `execs`; one walk at a time, and nothing kept of it but a buffer."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._keys = (ctypes.c_uint32 * _ROOM)()
        self._values = ctypes.create_string_buffer(_ROOM * ENTRY.size)
        self._token = ctypes.create_string_buffer(8)

    def walk(self) -> Iterator[tuple[int, memoryview]]:
        """Each (tgid, struct kt_exec): a view that the next step overwrites.

        OSError where the kernel has no such call.  What changes meanwhile may be seen or not.
        """
        begin, view = 0, memoryview(self._values)
        places = [ctypes.addressof(each) for each in (self._token, self._keys, self._values)]
        while True:
            attr = syscalls.attribute(
                struct.pack("=QQQQIIQQ", begin, *places, _ROOM, self._descriptor, 0, 0)
            )
            last = False
            try:
                syscalls.bpf(_LOOKUP_BATCH, attr)
            except FileNotFoundError:
                last = True
            count = struct.unpack_from("=I", attr, 32)[0]
            for index in range(count):
                yield self._keys[index], view[index * ENTRY.size : (index + 1) * ENTRY.size]
            if last:
                return
            begin = ctypes.addressof(self._token)
