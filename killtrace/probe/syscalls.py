"""System calls that Python lacks: bpf(2), perf_event_open(2), and a poll(2) that signals end."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
from collections.abc import Sequence

_BPF = {"x86_64": 321, "aarch64": 280}
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_FLAG_FD_CLOEXEC = 8
# All of union bpf_attr that any call here needs; the kernel takes any size, zeros beyond it.
_ATTR_SIZE = 144
_POLLIN = 1

Buffer = ctypes.Array[ctypes.c_char]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(numbers: dict[str, int], *arguments: object) -> int:
    number = numbers.get(platform.machine(), -1)
    wide = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    result = _libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def attribute(packed: bytes) -> Buffer:
    """A union bpf_attr that begins with these bytes, to be used again and again."""
    return ctypes.create_string_buffer(packed, _ATTR_SIZE)


def bpf(command: int, attr: Buffer) -> int:
    """OSError where the kernel refuses; FileNotFoundError: there is no such entry."""
    return _call(_BPF, command, attr, len(attr))


def bpf_making(command: int, attr: Buffer) -> int:
    """Call bpf(2) for a new map or program.

    Kernels before 5.11 count these as locked memory: where that is the limit, it is lifted.
    """
    try:
        return bpf(command, attr)
    except PermissionError:
        limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, limit)
        except (OSError, ValueError):
            pass
        return bpf(command, attr)


def perf_event_open(attr: bytes, cpu: int) -> int:
    """An event of all processes on one CPU; OSError where the kernel refuses."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    return _call(_PERF_EVENT_OPEN, buffer, -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Poll:
    """Polls descriptors, for reading.  Python's own goes on after a signal was handled."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._count = len(descriptors)
        self._array = (_PollFd * self._count)(*(_PollFd(fd, _POLLIN, 0) for fd in descriptors))

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until one is readable (True), a signal comes, or time is over (False)."""
        ready = _libc.poll(self._array, ctypes.c_ulong(self._count), ctypes.c_int(timeout_ms))
        if ready < 0 and ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return bool(ready > 0)
