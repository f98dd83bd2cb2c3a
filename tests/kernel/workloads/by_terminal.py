"""Signals of a terminal's keys, of its end, and of sessions and groups that fall apart."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from collections.abc import Callable
from signal import SIGHUP, SIGINT, SIGKILL, SIGQUIT

from workloads import linux
from workloads.actors import (
    Gate,
    adopt,
    died_of,
    exited,
    fork,
    pause_for_ever,
    wait,
    waiting,
)
from workloads.registry import Died, Sent, Truth, case


class Terminal:
    """A pseudo terminal; `master` and `slave` are descriptors, `name` is /dev/pts/N."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.name = os.ttyname(self.slave)

    def take(self) -> None:
        """Make the calling process the leader of a new session on this terminal."""
        os.close(self.master)
        os.setsid()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        # A session leader may then give the terminal to another group without being stopped.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)


def _foreground(terminal: Terminal, ended: Gate) -> Callable[[], int]:
    """A session leader with one foreground process of another group, which it reaps."""

    def leader() -> int:
        terminal.take()
        victim = waiting(lambda: os.setpgid(0, 0))
        os.tcsetpgrp(terminal.slave, victim)
        ended.open(str(victim).encode())
        died = wait(victim)
        return died.signo or 0

    return leader


def _key(key: bytes, signo: int, name: str) -> Truth:
    terminal, told = Terminal(), Gate()
    leader = fork(_foreground(terminal, told))
    victim = int(told.wait())
    os.write(terminal.master, key)
    exited(leader, signo)
    sent = Sent(signo, victim, "terminal", "SI_KERNEL", detail={"tty": terminal.name, "key": name})
    return Truth([sent], [Died(victim, signo, cause=signo)], alive=[leader])


@case()
def ctrl_c() -> Truth:
    """Ctrl-C on a pseudo terminal"""
    return _key(b"\x03", SIGINT, "Ctrl-C")


@case()
def ctrl_backslash() -> Truth:
    """Ctrl-\\ on a pseudo terminal"""
    return _key(b"\x1c", SIGQUIT, "Ctrl-\\")


@case()
def ctrl_c_handled() -> Truth:
    """Ctrl-C to a process that handles it and exits with 130"""
    terminal, ready = Terminal(), Gate()

    def leader() -> int:
        terminal.take()
        out, into = os.pipe()
        os.set_blocking(into, False)
        signal.set_wakeup_fd(into)
        signal.signal(SIGINT, lambda *_: None)
        ready.open()
        os.read(out, 1)
        return 130

    victim = fork(leader)
    ready.wait()
    os.write(terminal.master, b"\x03")
    detail = {"tty": terminal.name, "key": "Ctrl-C"}
    sent = Sent(SIGINT, victim, "terminal", "SI_KERNEL", detail=detail)
    return Truth([sent], [exited(victim, 130, cause=SIGINT)])


@case()
def hangup() -> Truth:
    """a terminal that closed, as a lost ssh connection does"""
    terminal, ready = Terminal(), Gate()

    def leader() -> None:
        terminal.take()
        ready.open()
        pause_for_ever()

    victim = fork(leader)
    ready.wait()
    os.close(terminal.slave)
    os.close(terminal.master)
    sent = Sent(SIGHUP, victim, "hangup", "SI_KERNEL", detail={"tty": terminal.name})
    # A leader that dies hangs up its foreground group, which is itself: it is dying already.
    own = Sent(SIGHUP, victim, "session-exit", "SI_KERNEL", result=None)
    return Truth([sent, own], [died_of(victim, SIGHUP)])


@case()
def session_exit() -> Truth:
    """a session leader that exits while another group holds the terminal"""
    adopt()
    terminal, told = Terminal(), Gate()

    def leader() -> None:
        terminal.take()
        victim = waiting(lambda: os.setpgid(0, 0))
        os.tcsetpgrp(terminal.slave, victim)
        told.open(str(victim).encode())

    leading = fork(leader)
    victim = int(told.wait())
    exited(leading, 0)
    sent = Sent(SIGHUP, victim, "session-exit", "SI_KERNEL", detail={"leader": {"pid": leading}})
    return Truth([sent], [died_of(victim, SIGHUP)], alive=[leading])


@case()
def orphaned_group() -> Truth:
    """a stopped process group whose last parent of the session exits"""
    adopt()
    told = Gate()

    def parent() -> None:
        os.setsid()
        victim = fork(_stop_in_own_group)
        os.waitpid(victim, os.WUNTRACED)
        told.open(str(victim).encode())

    leaving = fork(parent)
    victim = int(told.wait())
    exited(leaving, 0)
    sent = Sent(SIGHUP, victim, "orphaned-group", "SI_KERNEL")
    return Truth([sent], [died_of(victim, SIGHUP)], silent=[leaving])


def _stop_in_own_group() -> None:
    os.setpgid(0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    pause_for_ever()


def _parent_death(signo: int, leave: Callable[[], object]) -> tuple[int, int, Truth]:
    adopt()
    told, go = Gate(), Gate()

    def parent() -> object:
        child = waiting(lambda: linux.prctl(linux.PR_SET_PDEATHSIG, signo))
        told.open(str(child).encode())
        go.wait()
        return leave()

    leaving = fork(parent)
    victim = int(told.wait())
    go.open()
    wait(leaving)
    sent = Sent(signo, victim, "parent-death", "SI_USER", detail={"parent": {"pid": leaving}})
    return leaving, victim, Truth([sent], [died_of(victim, signo)])


@case()
def parent_death() -> Truth:
    """PR_SET_PDEATHSIG with SIGKILL, the parent exits by itself"""
    leaving, _, truth = _parent_death(SIGKILL, lambda: 0)
    truth.silent.append(leaving)
    return truth


@case()
def parent_death_sigterm() -> Truth:
    """PR_SET_PDEATHSIG with SIGTERM, the parent exits with 5"""
    leaving, _, truth = _parent_death(signal.SIGTERM, lambda: 5)
    truth.silent.append(leaving)
    return truth


@case()
def parent_death_after_kill() -> Truth:
    """PR_SET_PDEATHSIG whose parent is itself killed: two deaths, two origins"""
    leaving, _, truth = _parent_death(SIGKILL, lambda: os.kill(os.getpid(), signal.SIGTERM))
    truth.sent.append(
        Sent(signal.SIGTERM, leaving, "process", "SI_USER", leaving, detail={"syscall": "kill"})
    )
    truth.died.append(Died(leaving, signal.SIGTERM, cause=signal.SIGTERM))
    return truth
