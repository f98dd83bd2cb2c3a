"""Signals that the kernel sends by itself, whoever happens to be running."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
import tty
from collections.abc import Callable
from signal import SIGALRM, SIGKILL, SIGPIPE, SIGSEGV, SIGSYS, SIGTERM

from workloads import linux
from workloads.actors import (
    Gate,
    died_of,
    end,
    exited,
    fork,
    pause_for_ever,
    sender,
    temporary_cgroup,
    waiting,
)
from workloads.features import cgroup2_root
from workloads.registry import Died, Sent, Truth, case


def _spin() -> None:
    while True:
        pass


def _of(signo: int, victim: int, kind: str, code: str, **more: object) -> Truth:
    """One signal with no sender, and the death of it."""
    sent = Sent(signo, victim, kind, code, **more)  # type: ignore[arg-type]
    return Truth([sent], [died_of(victim, signo)])


@case("pidns")
def pid_namespace() -> Truth:
    """the init of a PID namespace ends, and all in it with it"""
    outer, inner, go = Gate(), Gate(), Gate()

    def init() -> None:
        waiting()
        inner.open()
        go.wait()

    def keeper() -> None:
        linux.unshare(linux.CLONE_NEWPID)
        pid = fork(init)
        outer.open(str(pid).encode())
        exited(pid, 0)

    keeping = fork(keeper)
    first = int(outer.wait())
    inner.wait()
    (victim,) = linux.children(first)
    go.open()
    exited(keeping, 0)
    sent = Sent(SIGKILL, victim, "pid-namespace", "SI_KERNEL", detail={"init": {"pid": first}})
    return Truth([sent], [Died(victim, SIGKILL, cause=SIGKILL)], silent=[first, keeping])


@case("cgroup_kill")
def cgroup_kill() -> Truth:
    """a write to cgroup.kill"""
    folder = temporary_cgroup(cgroup2_root(), "kill")
    victims = [waiting(), waiting()]
    for pid in victims:
        (folder / "cgroup.procs").write_text(str(pid))
    by = sender(lambda: (folder / "cgroup.kill").write_text("1") and None)
    died = [died_of(pid, SIGKILL) for pid in victims]
    folder.rmdir()
    detail = {"cgroup": f"/{folder.name}"}
    return Truth(
        [
            Sent(SIGKILL, pid, "cgroup-kill", "SI_USER", by, scope="thread", detail=detail)
            for pid in victims
        ],
        died,
    )


@case()
def cpu_limit() -> Truth:
    """RLIMIT_CPU's hard limit"""

    def body() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        _spin()

    return _of(SIGKILL, fork(body), "cpu-limit", "SI_KERNEL", detail={"limit_s": 1})


@case("realtime")
def realtime_limit() -> Truth:
    """RLIMIT_RTTIME's hard limit"""

    def body() -> None:
        resource.setrlimit(15, (200_000, 200_000))  # RLIMIT_RTTIME, microseconds
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        _spin()

    truth = _of(SIGKILL, fork(body), "cpu-limit", "SI_KERNEL")
    truth.sent[0].again = True
    return truth


def _arm_posix_timer(signo: int) -> None:
    timer = ctypes.c_int()
    linux.syscall("timer_create", 1, linux.sigevent(signo), ctypes.byref(timer))
    # it_interval 0; it_value 50 ms
    when = ctypes.create_string_buffer(struct.pack("=qqqq", 0, 0, 0, 50_000_000))
    linux.syscall("timer_settime", timer.value, 0, when, None)


def _while_another_spins(arm: Callable[[], object]) -> tuple[int, int]:
    """A child that arms a timer and waits, on a CPU that another process keeps busy; and that."""
    cpu = min(os.sched_getaffinity(0))
    spinning, go = Gate(), Gate()

    def spin() -> None:
        os.sched_setaffinity(0, {cpu})
        spinning.open()
        _spin()

    def body() -> None:
        os.sched_setaffinity(0, {cpu})
        go.wait()
        arm()
        pause_for_ever()

    victim = fork(body)
    busy = fork(spin)
    spinning.wait()
    go.open()
    return victim, busy


def _timer(arm: Callable[[], object], signo: int, code: str) -> Truth:
    victim, busy = _while_another_spins(arm)
    truth = _of(signo, victim, "timer", code)
    end([busy])
    return truth


@case()
def posix_timer() -> Truth:
    """timer_create(2) with SIGTERM: the process that it interrupts is not to blame"""
    return _timer(lambda: _arm_posix_timer(SIGTERM), SIGTERM, "SI_TIMER")


@case(fatal=True)
def setitimer() -> Truth:
    """setitimer(2), real time: SIGALRM"""
    return _timer(lambda: signal.setitimer(signal.ITIMER_REAL, 0.05), SIGALRM, "SI_KERNEL")


@case(fatal=True)
def setitimer_virtual() -> Truth:
    """setitimer(2), the process's own CPU time: SIGVTALRM"""

    def body() -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.05)
        _spin()

    return _of(signal.SIGVTALRM, fork(body), "timer", "SI_KERNEL")


@case(fatal=True)
def alarm() -> Truth:
    """alarm(2)"""

    def body() -> None:
        signal.alarm(1)
        pause_for_ever()

    return _of(SIGALRM, fork(body), "timer", "SI_KERNEL")


def _signal_on_input(descriptor: int, signo: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signo)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)


def _fd_signal(read: int, write: int) -> Truth:
    victim = waiting(lambda: _signal_on_input(read, SIGTERM))
    sender(lambda: os.write(write, b"x") and None)
    return _of(SIGTERM, victim, "fd-signal", "1")  # POLL_IN: SIGTERM has no codes of its own


@case()
def fd_signal_pipe() -> Truth:
    """F_SETSIG on a pipe: the writer is not to blame"""
    return _fd_signal(*os.pipe())


@case()
def fd_signal_socket() -> Truth:
    """F_SETSIG on a socket"""
    ours, theirs = socket.socketpair()
    return _fd_signal(ours.fileno(), theirs.fileno())


@case()
def fd_signal_terminal() -> Truth:
    """F_SETSIG on a terminal"""
    master, slave = os.openpty()
    tty.setraw(slave)
    return _fd_signal(slave, master)


@case("mqueue")
def mq_notify() -> Truth:
    """mq_notify(3) with SIGTERM: the process that sent the message is not to blame"""
    name = ctypes.c_char_p(f"killtrace-{os.getpid()}".encode())
    queue = linux.syscall("mq_open", name, os.O_RDWR | os.O_CREAT, 0o600, None)
    linux.syscall("mq_unlink", name)
    victim = waiting(lambda: linux.syscall("mq_notify", queue, linux.sigevent(SIGTERM)))
    sender(lambda: linux.syscall("mq_timedsend", queue, ctypes.c_char_p(b"x"), 1, 0, None))
    return _of(SIGTERM, victim, "fd-signal", "SI_MESGQ")


@case()
def tracer_exit() -> Truth:
    """PTRACE_O_EXITKILL: a debugger that ends, and its process with it"""
    victim = waiting()
    by = sender(lambda: linux.ptrace(linux.PTRACE_SEIZE, victim, linux.PTRACE_O_EXITKILL))
    detail = {"tracer": {"pid": by}}
    truth = _of(SIGKILL, victim, "tracer-exit", "SI_KERNEL", scope="thread", detail=detail)
    truth.silent.append(by)
    return truth


@case()
def ptrace_kill() -> Truth:
    """PTRACE_KILL: a debugger that kills its process"""
    victim = waiting()

    def act() -> None:
        linux.ptrace(linux.PTRACE_ATTACH, victim)
        os.waitpid(victim, 0)
        linux.ptrace(linux.PTRACE_KILL, victim)

    by = sender(act)
    return _of(
        SIGKILL,
        victim,
        "process",
        "SI_USER",
        sender=by,
        scope="thread",
        detail={"syscall": "ptrace", "group": None},
    )


@case(fatal=True)
def sigpipe() -> Truth:
    """SIGPIPE: a write to a pipe that nobody reads"""

    def body() -> None:
        read, write = os.pipe()
        os.close(read)
        os.write(write, b"x")

    return _of(SIGPIPE, fork(body), "kernel", "SI_USER", scope="thread")


@case(fatal=True)
def sigsegv() -> Truth:
    """SIGSEGV: a read of unmapped memory"""
    return _of(SIGSEGV, fork(lambda: ctypes.string_at(8)), "kernel", "1", scope="thread")


@case(fatal=True)
def sigbus() -> Truth:
    """SIGBUS: a mapping beyond its file's end"""

    def body() -> None:
        descriptor = os.memfd_create("empty")
        os.ftruncate(descriptor, 4096)
        pages = mmap.mmap(descriptor, 4096)
        os.ftruncate(descriptor, 0)
        pages[0]

    return _of(signal.SIGBUS, fork(body), "kernel", "2", scope="thread")


@case("seccomp_event", fatal=True)
def seccomp() -> Truth:
    """a system call that a seccomp filter forbids"""
    return _of(SIGSYS, fork(_break_seccomp), "kernel", "1", scope="thread")


def _break_seccomp() -> None:
    # BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS: every system call from now on
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x80000000), 8)
    filters = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(program)), 16)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_SECCOMP, 2, ctypes.addressof(filters))
    os.getppid()


@case("bpf_send_signal")
def bpf_send_signal() -> Truth:
    """a BPF program that sends SIGTERM: the process that ran it is not to blame"""
    go = Gate()

    def body() -> None:
        go.wait()
        pause_for_ever()

    victim = fork(body)
    program = linux.bpf_program(_signal_from_bpf(victim, SIGTERM))
    link = linux.attach_raw_tracepoint(program, "sys_enter")
    go.open()
    died = died_of(victim, SIGTERM)
    os.close(link)
    # The signal comes with the first system call after the gate, and no second one is reached.
    return Truth([Sent(SIGTERM, victim, "bpf", "SI_KERNEL")], [died])


def _signal_from_bpf(pid: int, signo: int) -> bytes:
    """if (bpf_get_current_pid_tgid() >> 32 == pid) bpf_send_signal(signo); return 0"""

    def instruction(code: int, dst: int, src: int, offset: int, value: int) -> bytes:
        return struct.pack("=BBhi", code, src << 4 | dst, offset, value)

    return b"".join(
        (
            instruction(0x85, 0, 0, 0, 14),  # call bpf_get_current_pid_tgid
            instruction(0x77, 0, 0, 0, 32),  # r0 >>= 32
            instruction(0x55, 0, 0, 2, pid),  # if r0 != pid skip two
            instruction(0xB7, 1, 0, 0, signo),  # r1 = signo
            instruction(0x85, 0, 0, 0, 109),  # call bpf_send_signal
            instruction(0xB7, 0, 0, 0, 0),  # r0 = 0
            instruction(0x95, 0, 0, 0, 0),  # exit
        )
    )
