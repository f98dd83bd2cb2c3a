"""A few calls of bpf(2) without bcc: the host's pid of this process, and what probes can attach.

Layouts: union bpf_attr, include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_TEST_RUN, _RAW_TRACEPOINT_OPEN = 5, 10, 17
_RAW_TRACEPOINT = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT
_ATTR_SIZE = 128

# struct proc_inum of the first PID namespace: PROC_PID_INIT_INO, include/linux/proc_ns.h.
_INITIAL_PID_NS = 0xEFFFFFFC


def _instruction(code: int, dst: int, value: int) -> bytes:
    return struct.pack("=BBhi", code, dst, 0, value)


_RETURN_0 = _instruction(0xB7, 0, 0) + _instruction(0x95, 0, 0)
# call bpf_get_current_pid_tgid; r0 >>= 32; exit
_RETURN_TGID = _instruction(0x85, 0, 14) + _instruction(0x77, 0, 32) + _instruction(0x95, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(command: int, attr: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2): the result; OSError where the kernel refuses, ENOSYS on other architectures."""
    buffer = ctypes.create_string_buffer(attr, _ATTR_SIZE) if isinstance(attr, bytes) else attr
    number = _SYSCALL.get(platform.machine(), -1)
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_long(command), buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


@contextmanager
def _program(instructions: bytes) -> Iterator[int]:
    """A loaded raw tracepoint program's descriptor."""
    text = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack(
        "=IIQQ",
        _RAW_TRACEPOINT,
        len(instructions) // 8,
        ctypes.addressof(text),
        ctypes.addressof(license_text),
    )
    descriptor = call(_PROG_LOAD, attr)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_raw_tracepoint(name: str) -> None:
    """Attach a program that does nothing, and take it away; OSError where that can't be done."""
    text = ctypes.create_string_buffer(name.encode())
    with _program(_RETURN_0) as program:
        os.close(call(_RAW_TRACEPOINT_OPEN, struct.pack("=QI4x", ctypes.addressof(text), program)))


def in_initial_pid_namespace(proc: Path = Path("/proc")) -> bool:
    """Whether pids are the host's own; False where that can't be read."""
    try:
        return (proc / "self/ns/pid").stat().st_ino == _INITIAL_PID_NS
    except OSError:
        return False


def host_tgid() -> int:
    """This process's pid in the initial PID namespace, asked of the kernel by a program.

    OSError where the kernel has no test runs of raw tracepoints (before 5.10: 1b4d60ec162f).
    """
    if in_initial_pid_namespace():
        return os.getpid()
    with _program(_RETURN_TGID) as program:
        attr = ctypes.create_string_buffer(struct.pack("=II", program, 0), _ATTR_SIZE)
        call(_PROG_TEST_RUN, attr)
        return int(struct.unpack_from("=I", attr.raw, 4)[0])
