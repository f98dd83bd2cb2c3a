"""Signals that a process sent, by every system call that sends one."""

from __future__ import annotations

import os
import signal
import threading
from signal import SIGABRT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM

from workloads import linux
from workloads.actors import (
    Gate,
    adopt,
    died_of,
    exited,
    fork,
    ignoring,
    pause_for_ever,
    sender,
    threaded,
    wait,
    waiting,
)
from workloads.registry import Died, Sent, Truth, case


def _by(syscall: str, group: int | None = None) -> dict[str, object]:
    return {"syscall": syscall, "group": group}


def _one(signo: int, victim: int, by: int, syscall: str, code: str, scope: str) -> Truth:
    sent = Sent(signo, victim, "process", code, by, scope=scope, detail=_by(syscall))
    return Truth([sent], [died_of(victim, signo)])


def _by_kill(signo: int) -> Truth:
    victim = waiting()
    by = sender(lambda: os.kill(victim, signo))
    return _one(signo, victim, by, "kill", "SI_USER", "process")


@case()
def kill() -> Truth:
    """kill(2), SIGTERM"""
    return _by_kill(SIGTERM)


@case()
def kill_sigkill() -> Truth:
    """kill(2), SIGKILL"""
    return _by_kill(SIGKILL)


@case()
def kill_sighup() -> Truth:
    """kill(2), SIGHUP: not a hangup"""
    return _by_kill(SIGHUP)


@case()
def kill_sigint() -> Truth:
    """kill(2), SIGINT: not a Ctrl-C"""
    return _by_kill(SIGINT)


@case()
def kill_sigquit() -> Truth:
    """kill(2), SIGQUIT"""
    return _by_kill(SIGQUIT)


@case(fatal=True)
def kill_realtime() -> Truth:
    """kill(2), a real-time signal"""
    return _by_kill(int(signal.SIGRTMIN) + 2)


@case()
def kill_by_thread() -> Truth:
    """kill(2) by a thread that is not the first of its process"""
    victim, tid = waiting(), Gate()

    def act() -> None:
        def thread() -> None:
            os.kill(victim, SIGTERM)
            tid.open(str(threading.get_native_id()).encode())

        other = threading.Thread(target=thread)
        other.start()
        other.join()

    by = sender(act)
    truth = _one(SIGTERM, victim, by, "kill", "SI_USER", "process")
    truth.sent[0].sender_tid = int(tid.wait())
    return truth


@case()
def kill_own_parent() -> Truth:
    """kill(2) by a child to its parent"""
    adopt()
    told = Gate()

    def act() -> None:
        told.open(str(os.getpid()).encode())
        os.kill(os.getppid(), SIGTERM)

    def parent() -> None:
        fork(act)
        pause_for_ever()

    victim = fork(parent)
    by = int(told.wait())
    truth = _one(SIGTERM, victim, by, "kill", "SI_USER", "process")
    exited(by, 0)
    return truth


@case()
def tkill() -> Truth:
    """tkill(2)"""
    victim = waiting()
    by = sender(lambda: linux.syscall("tkill", victim, int(SIGTERM)))
    return _one(SIGTERM, victim, by, "tkill", "SI_TKILL", "thread")


@case()
def tgkill() -> Truth:
    """tgkill(2)"""
    victim = waiting()
    by = sender(lambda: linux.syscall("tgkill", victim, victim, int(SIGTERM)))
    return _one(SIGTERM, victim, by, "tgkill", "SI_TKILL", "thread")


@case()
def tgkill_thread() -> Truth:
    """tgkill(2) to one thread of many: the process is named, and the thread"""
    victim = threaded()
    tid = victim.tids[-1]
    by = sender(lambda: linux.syscall("tgkill", victim.pid, tid, int(SIGTERM)))
    truth = _one(SIGTERM, victim.pid, by, "tgkill", "SI_TKILL", "thread")
    truth.sent[0].tid = tid
    return truth


@case()
def pidfd_send_signal() -> Truth:
    """pidfd_send_signal(2)"""
    victim = waiting()

    def act() -> None:
        descriptor = os.pidfd_open(victim)
        signal.pidfd_send_signal(descriptor, SIGTERM)

    by = sender(act)
    return _one(SIGTERM, victim, by, "pidfd_send_signal", "SI_USER", "process")


@case()
def rt_sigqueueinfo() -> Truth:
    """rt_sigqueueinfo(2), as sigqueue(3) uses it"""
    victim = waiting()

    def act() -> None:
        info = linux.siginfo(SIGTERM, linux.SI_QUEUE)
        linux.syscall("rt_sigqueueinfo", victim, int(SIGTERM), info)

    by = sender(act)
    return _one(SIGTERM, victim, by, "rt_sigqueueinfo", "SI_QUEUE", "process")


@case()
def rt_tgsigqueueinfo() -> Truth:
    """rt_tgsigqueueinfo(2)"""
    victim = waiting()

    def act() -> None:
        info = linux.siginfo(SIGTERM, linux.SI_QUEUE)
        linux.syscall("rt_tgsigqueueinfo", victim, victim, int(SIGTERM), info)

    by = sender(act)
    return _one(SIGTERM, victim, by, "rt_tgsigqueueinfo", "SI_QUEUE", "thread")


@case()
def killpg() -> Truth:
    """killpg(3): one call, three victims"""
    leader = waiting(lambda: os.setpgid(0, 0))
    group = [leader, *(waiting(lambda: os.setpgid(0, leader)) for _ in range(2))]
    by = sender(lambda: os.killpg(leader, SIGTERM))
    return Truth(
        [Sent(SIGTERM, pid, "process", "SI_USER", by, detail=_by("kill", leader)) for pid in group],
        [died_of(pid, SIGTERM) for pid in group],
    )


@case()
def kill_own_group() -> Truth:
    """kill(0, SIGTERM): the sender's own group, the sender among it"""
    leader = waiting(lambda: os.setpgid(0, 0))
    victims = [leader, waiting(lambda: os.setpgid(0, leader))]

    def act() -> None:
        os.setpgid(0, leader)
        signal.signal(SIGTERM, signal.SIG_IGN)
        os.kill(0, SIGTERM)

    by = sender(act)
    detail = _by("kill", leader)
    return Truth(
        [
            *(Sent(SIGTERM, pid, "process", "SI_USER", by, detail=detail) for pid in victims),
            Sent(SIGTERM, by, "process", "SI_USER", by, result="ignored", detail=detail),
        ],
        [died_of(pid, SIGTERM) for pid in victims],
    )


@case("pidns")
def kill_everyone() -> Truth:
    """kill(-1, SIGTERM) in a PID namespace of its own"""
    outer, inner, go = Gate(), Gate(), Gate()

    def act() -> None:
        go.wait()
        os.kill(-1, SIGTERM)

    def init() -> None:
        cast = [waiting(), waiting(), fork(act)]
        inner.open(" ".join(map(str, cast)).encode())
        for pid in cast:
            wait(pid)

    def keeper() -> None:
        linux.unshare(linux.CLONE_NEWPID)
        pid = fork(init)
        outer.open(str(pid).encode())
        exited(pid, 0)

    keeping = fork(keeper)
    first = int(outer.wait())
    inside = [int(word) for word in inner.wait().split()]
    by_ns = {linux.ns_pid(pid): pid for pid in linux.children(first)}
    *victims, by = (by_ns[pid] for pid in inside)
    go.open()
    exited(keeping, 0)
    detail = _by("kill", -1)
    return Truth(
        [Sent(SIGTERM, pid, "process", "SI_USER", by, detail=detail) for pid in victims],
        [Died(pid, SIGTERM, cause=SIGTERM) for pid in victims],
        alive=[first, by],
    )


@case()
def raise_() -> Truth:
    """raise(3): a process that signals itself"""
    victim = fork(lambda: linux.libc["raise"](int(SIGTERM)))
    return _one(SIGTERM, victim, victim, "tgkill", "SI_TKILL", "thread")


@case(fatal=True)
def abort() -> Truth:
    """abort(3): SIGABRT to oneself"""
    victim = fork(linux.libc.abort)
    return _one(SIGABRT, victim, victim, "tgkill", "SI_TKILL", "thread")


@case()
def many_at_once() -> Truth:
    """A thousand SIGTERM to a process that ignores them: all are counted"""
    victim = ignoring(SIGTERM)

    def act() -> None:
        for _ in range(1000):
            os.kill(victim, SIGTERM)

    by = sender(act)
    last = sender(lambda: os.kill(victim, SIGKILL))
    detail = _by("kill")
    return Truth(
        [
            Sent(
                SIGTERM,
                victim,
                "process",
                "SI_USER",
                by,
                result="ignored",
                detail=detail,
                count=1000,
            ),
            Sent(SIGKILL, victim, "process", "SI_USER", last, detail=detail),
        ],
        [died_of(victim, SIGKILL)],
    )
