"""Signals and what became of them: handled, ignored, blocked, too late, one after another."""

from __future__ import annotations

import os
import resource
import select
import signal
import tempfile
import threading
import time
from signal import SIGKILL, SIGQUIT, SIGTERM

from workloads import linux
from workloads.actors import (
    Gate,
    died_of,
    exited,
    fork,
    handling,
    ignoring,
    pause_for_ever,
    sender,
    threaded,
    until_zombie,
    wait,
    waiting,
)
from workloads.registry import Died, Sent, Truth, case

BLOCKED_FOR_S = 1.0


def _kill(victim: int, signo: int, result: str = "delivered") -> Sent:
    """Send a signal by kill(2) from a process of its own."""
    by = sender(lambda: os.kill(victim, signo))
    return Sent(signo, victim, "process", "SI_USER", by, result=result)


@case()
def handled() -> Truth:
    """a process that handles SIGTERM and exits with 7"""
    victim = handling(SIGTERM, 7)
    sent = _kill(victim, SIGTERM)
    died = exited(victim, 7, cause=SIGTERM)
    died.signals = [(SIGTERM, "delivered")]
    return Truth([sent], [died])


@case()
def handled_with_success() -> Truth:
    """a process that handles SIGTERM and exits with 0"""
    victim = handling(SIGTERM, 0)
    sent = _kill(victim, SIGTERM)
    return Truth([sent], [exited(victim, 0, cause=SIGTERM)])


@case()
def ignored() -> Truth:
    """a process that ignores SIGTERM, and ends by itself with 3"""
    go = Gate()

    def body() -> int:
        signal.signal(SIGTERM, signal.SIG_IGN)
        ready.open()
        go.wait()
        return 3

    ready = Gate()
    victim = fork(body)
    ready.wait()
    sent = _kill(victim, SIGTERM, "ignored")
    go.open()
    died = exited(victim, 3, cause=None)
    died.signals = [(SIGTERM, "ignored")]
    return Truth([sent], [died])


@case()
def blocked() -> Truth:
    """a process that blocks SIGTERM, and dies of it a second later"""
    go = Gate()

    def body() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {SIGTERM})
        ready.open()
        go.wait()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGTERM})

    ready = Gate()
    victim = fork(body)
    ready.wait()
    sent = _kill(victim, SIGTERM)
    since = time.monotonic_ns()
    select.select([], [], [], BLOCKED_FOR_S)
    at_least = time.monotonic_ns() - since
    go.open()
    died = died_of(victim, SIGTERM)
    died.at_least_ns = at_least
    return Truth([sent], [died])


@case()
def blocked_twice() -> Truth:
    """a second SIGTERM while the first one waits, blocked"""
    go = Gate()

    def body() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {SIGTERM})
        ready.open()
        go.wait()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGTERM})

    ready = Gate()
    victim = fork(body)
    ready.wait()
    sent = [_kill(victim, SIGTERM), _kill(victim, SIGTERM, "already_pending")]
    go.open()
    died = died_of(victim, SIGTERM)
    died.signals = [(SIGTERM, "delivered"), (SIGTERM, "already_pending")]
    return Truth(sent, [died])


@case()
def dead_already() -> Truth:
    """SIGTERM to a process that has exited with 4 and waits to be reaped"""
    victim = fork(lambda: 4)
    until_zombie(victim)
    sent = _kill(victim, SIGTERM, "ignored")
    exited(victim, 4)
    return Truth([sent], alive=[victim])


@case()
def killed_already() -> Truth:
    """SIGTERM to a process that SIGKILL has ended"""
    victim = waiting()
    first = _kill(victim, SIGKILL)
    until_zombie(victim)
    late = _kill(victim, SIGTERM, "ignored")
    died = died_of(victim, SIGKILL)
    died.signals = [(SIGKILL, "delivered")]
    return Truth([first, late], [died])


@case()
def dying_already() -> Truth:
    """SIGTERM to a process that is on its way out with status 5"""
    victim_pid, held, go = Gate(), Gate(), Gate()

    def tracer() -> int:
        leave = Gate()

        def body() -> int:
            leave.wait()
            return 5

        pid = fork(body)
        linux.ptrace(linux.PTRACE_SEIZE, pid, linux.PTRACE_O_TRACEEXIT)
        victim_pid.open(str(pid).encode())
        leave.open()
        os.waitpid(pid, 0)  # stopped inside exit(2)
        held.open()
        go.wait()
        linux.ptrace(linux.PTRACE_CONT, pid)
        return wait(pid).status or 0

    tracing = fork(tracer)
    victim = int(victim_pid.wait())
    held.wait()
    # Before 5.17 a single thread that exits leaves no mark of it yet: the kernel queues the signal.
    marked = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (5, 17)
    sent = _kill(victim, SIGTERM, "ignored" if marked else "delivered")
    go.open()
    exited(tracing, 5)
    died = Died(victim, None, 5, cause=None, signals=[(SIGTERM, sent.result)])
    return Truth([sent], [died])


@case()
def term_then_kill() -> Truth:
    """SIGTERM that is ignored, then SIGKILL"""
    victim = ignoring(SIGTERM)
    sent = [_kill(victim, SIGTERM, "ignored"), _kill(victim, SIGKILL)]
    died = died_of(victim, SIGKILL)
    died.signals = [(SIGTERM, "ignored"), (SIGKILL, "delivered")]
    return Truth(sent, [died])


@case()
def handled_then_kill() -> Truth:
    """SIGTERM that is handled and survived, then SIGKILL"""
    handled_it, ready = Gate(), Gate()

    def body() -> None:
        out, into = os.pipe()
        os.set_blocking(into, False)
        signal.set_wakeup_fd(into)
        signal.signal(SIGTERM, lambda *_: None)
        ready.open()
        os.read(out, 1)
        handled_it.open()
        pause_for_ever()

    victim = fork(body)
    ready.wait()
    first = _kill(victim, SIGTERM)
    handled_it.wait()
    last = _kill(victim, SIGKILL)
    died = died_of(victim, SIGKILL)
    died.signals = [(SIGTERM, "delivered"), (SIGKILL, "delivered")]
    return Truth([first, last], [died])


@case("core")
def core_dump() -> Truth:
    """SIGQUIT with a core file allowed"""
    with tempfile.TemporaryDirectory() as folder:

        def prepare() -> None:
            os.chdir(folder)
            hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
            resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

        victim = waiting(prepare)
        sent = _kill(victim, SIGQUIT)
        died = died_of(victim, SIGQUIT)
    return Truth([sent], [died])


@case()
def exec_ends_threads() -> Truth:
    """execve(2) that ends sibling threads: no kill"""
    victim = threaded(lambda: os.execvp("true", ["true"]))
    victim.go.open()
    exited(victim.pid, 0)
    return Truth(silent=[victim.pid, *victim.tids])


@case()
def exit_ends_threads() -> Truth:
    """exit_group(2) that ends sibling threads: no kill"""
    victim = threaded(lambda: 6)
    victim.go.open()
    exited(victim.pid, 6)
    return Truth(silent=[victim.pid, *victim.tids])


@case()
def kill_with_threads() -> Truth:
    """SIGKILL to a process of many threads: one signal, one death"""
    victim = threaded()
    sent = _kill(victim.pid, SIGKILL)
    died = died_of(victim.pid, SIGKILL)
    return Truth([sent], [died], silent=victim.tids)


@case()
def exec_in_thread_then_kill() -> Truth:
    """execve(2) in a thread that is not the first: the process goes on, and is killed later"""
    out, into = os.pipe()

    def then() -> None:
        os.set_inheritable(into, True)
        command = ["sh", "-c", f"echo ready >&{into}; exec sleep 1000"]
        threading.Thread(target=os.execvp, args=("sh", command)).start()
        os.read(os.pipe()[0], 1)

    victim = threaded(then)
    victim.go.open()
    os.read(out, 99)
    sent = _kill(victim.pid, SIGKILL)
    died = died_of(victim.pid, SIGKILL)
    died.signals = [(SIGKILL, "delivered")]
    return Truth([sent], [died])


@case()
def kill_without_leader() -> Truth:
    """SIGTERM to a process whose first thread has ended"""
    victim = threaded(lambda: linux.syscall("exit", 0))
    victim.go.open()
    until_first_thread_ended(victim.pid)
    sent = _kill(victim.pid, SIGTERM)
    died = died_of(victim.pid, SIGTERM)
    died.signals = [(SIGTERM, "delivered")]
    return Truth([sent], [died])


def until_first_thread_ended(pid: int) -> None:
    """Wait until the leader of a thread group is a zombie; nothing tells of it but /proc."""
    while True:
        with open(f"/proc/{pid}/task/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":
                return
        os.sched_yield()


@case("set_tid")
def pid_reused() -> Truth:
    """a pid that a second process gets at once: the first one's SIGTERM is no part of its story"""
    go, ready = Gate(), Gate()

    def body() -> int:
        signal.signal(SIGTERM, signal.SIG_IGN)
        ready.open()
        go.wait()
        return 3

    pid = fork(body)
    ready.wait()
    first = _kill(pid, SIGTERM, "ignored")
    go.open()
    ended = exited(pid, 3, cause=None)
    ended.signals = [(SIGTERM, "ignored")]
    if linux.clone_with_pid(pid) == 0:
        pause_for_ever()
    second = _kill(pid, SIGKILL)
    died = died_of(pid, SIGKILL)
    died.signals = [(SIGKILL, "delivered")]
    return Truth([first, second], [ended, died])
