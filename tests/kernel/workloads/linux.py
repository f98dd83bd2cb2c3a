"""System calls that Python has no name for, by number, through libc's syscall(2)."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from pathlib import Path

# From the kernel's asm/unistd.h of each architecture.
_NUMBERS = {
    "x86_64": {
        "exit": 60,
        "tkill": 200,
        "timer_create": 222,
        "timer_settime": 223,
        "tgkill": 234,
        "rt_sigqueueinfo": 129,
        "mq_open": 240,
        "mq_unlink": 241,
        "mq_timedsend": 242,
        "mq_notify": 244,
        "rt_tgsigqueueinfo": 297,
        "bpf": 321,
        "pidfd_send_signal": 424,
        "clone3": 435,
    },
    "aarch64": {
        "exit": 93,
        "tkill": 130,
        "timer_create": 107,
        "timer_settime": 110,
        "tgkill": 131,
        "rt_sigqueueinfo": 138,
        "mq_open": 180,
        "mq_unlink": 181,
        "mq_timedsend": 182,
        "mq_notify": 184,
        "rt_tgsigqueueinfo": 240,
        "bpf": 280,
        "pidfd_send_signal": 424,
        "clone3": 435,
    },
}[platform.machine()]

SI_QUEUE = -1
CLONE_NEWPID = 0x20000000
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PTRACE_KILL = 8
PTRACE_CONT = 7
PTRACE_ATTACH = 16
PTRACE_SEIZE = 0x4206
PTRACE_O_TRACEEXIT = 0x40
PTRACE_O_EXITKILL = 0x100000

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def checked(result: int) -> int:
    """The result of a call that sets errno; OSError where it failed."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def syscall(name: str, *args: object) -> int:
    """Make a system call; integers are passed as long, buffers as pointers."""
    passed = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return checked(libc.syscall(ctypes.c_long(_NUMBERS[name]), *passed))


def prctl(option: int, *args: int) -> None:
    checked(libc.prctl(option, *[ctypes.c_ulong(arg) for arg in args], 0, 0, 0))


def set_name(name: bytes) -> None:
    """Set the calling thread's comm, 15 bytes of it."""
    checked(libc.prctl(PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0))


def ptrace(request: int, pid: int, data: int = 0) -> None:
    checked(libc.ptrace(request, pid, None, data))


def unshare(flags: int) -> None:
    checked(libc.unshare(flags))


def siginfo(signo: int, code: int) -> ctypes.Array[ctypes.c_char]:
    """A siginfo_t of 128 bytes as a sender fills it in (si_pid and si_uid its own)."""
    head = struct.pack("=iiiiii", signo, 0, code, 0, os.getpid(), os.getuid())
    return ctypes.create_string_buffer(head, 128)


def sigevent(signo: int) -> ctypes.Array[ctypes.c_char]:
    """A struct sigevent that asks for a signal to the whole process (SIGEV_SIGNAL)."""
    return ctypes.create_string_buffer(struct.pack("=qii", 0, signo, 0), 64)


def clone_with_pid(pid: int) -> int:
    """fork(2) with a chosen pid (clone3's set_tid, Linux 5.5): 0 in the child, as fork does.

    OSError EEXIST while the pid is in use.
    """
    wanted = ctypes.c_int(pid)
    # flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, its size
    args = struct.pack(
        "=10Q", 0, 0, 0, 0, int(signal.SIGCHLD), 0, 0, 0, ctypes.addressof(wanted), 1
    )
    buffer = ctypes.create_string_buffer(args, len(args))
    return syscall("clone3", buffer, len(args))


def children(pid: int) -> list[int]:
    """The pids whose parent `pid` is, in order of age, as /proc shows them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text("utf-8", "replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
            fields = stat.rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append((int(fields[19]), int(entry.name)))
    return [child for _, child in sorted(found)]


def ns_pid(pid: int) -> int:
    """The pid in the process's own namespace (NSpid of /proc/PID/status)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise LookupError(f"no NSpid for {pid}")


def bpf_program(instructions: bytes) -> int:
    """Load a raw tracepoint program and return its descriptor."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"GPL")
    # BPF_PROG_TYPE_RAW_TRACEPOINT is 17; log level, size and buffer are left empty.
    attr = struct.pack(
        "=IIQQIIQI",
        17,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        0,
        0,
        0,
        0,
    )
    return _bpf(5, attr)


def attach_raw_tracepoint(program: int, name: str) -> int:
    """Attach a program; it stays attached until the returned descriptor is closed."""
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(17, struct.pack("=QI4x", ctypes.addressof(text), program))


def _bpf(command: int, attr: bytes) -> int:
    return syscall("bpf", command, ctypes.create_string_buffer(attr, 128), 128)
