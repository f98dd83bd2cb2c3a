"""Job control around a command: what a shell does for its job, from within the job.

killtrace stands in the command's own process group, so a terminal's keys reach both.  It blocks
what would end it and takes these signals one by one, with who sent them (sigwaitinfo(2)): what the
command got as well is dropped, what was meant for killtrace alone is passed on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from killtrace.errors import KilltraceError
from killtrace.run.child import Inheritance

_PASSED_ON = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)
# killtrace stops when the command has stopped, not when it was asked to: it may refuse.
_STOPS = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
_SI_KERNEL = 0x80

# A signal that killtrace just got -> whether the command got the same, from the same sender.
Covered = Callable[[int], bool]


class StoppedBeforeStartError(KilltraceError):
    """A signal came before the command was started: exit 128 + its number."""

    def __init__(self, signo: int) -> None:
        super().__init__(
            f"{signal.Signals(signo).name} came before the command was started", "start it again"
        )
        self.exit_status = 128 + signo


class Job:
    """This process's side of a job; made before anything else is done for it."""

    def __init__(self, given: Inheritance) -> None:
        self._passed_on = _PASSED_ON - given.ignored
        self.changed = frozenset(self._passed_on | _STOPS | {signal.SIGCHLD})
        signal.pthread_sigmask(signal.SIG_BLOCK, self._passed_on | {signal.SIGCHLD})
        # Ignored, it would have the kernel reap the command, and its status with it.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for signo in _STOPS:
            signal.signal(signo, signal.SIG_IGN)

    def check_not_interrupted(self) -> None:
        """Raise where a signal came that would have ended this process by now."""
        for signo in sorted(signal.sigpending() & self._passed_on):
            raise StoppedBeforeStartError(signo)

    def attend(self, command: int, covered: Covered) -> int:
        """Attend to the job until the command has ended; returns what wait(2) tells of it."""
        waited_for = self._passed_on | {signal.SIGCHLD}
        while True:
            info = signal.sigwaitinfo(waited_for)
            if info.si_signo != signal.SIGCHLD:
                self._pass_on(command, info, covered)
                continue
            status = self._reap(command)
            if status is not None:
                return status

    def _reap(self, command: int) -> int | None:
        """Take in all that children have to tell; as PID 1 of a container, strangers' too."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return None
            if pid != command:
                continue
            if not os.WIFSTOPPED(status):
                return status
            _stop_too(command, os.WSTOPSIG(status))

    def _pass_on(self, command: int, info: signal.struct_siginfo, covered: Covered) -> None:
        if info.si_code == _SI_KERNEL:
            # A terminal's signals go to the group; a hangup goes to the session's leader alone.
            alone = info.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
        else:
            alone = not covered(info.si_signo)
        if alone:
            _send(command, info.si_signo)


def _stop_too(command: int, signo: int) -> None:
    """Stop as the command did, so that the shell sees its job stopped; continue it afterwards.

    A command that was sent SIGSTOP was stopped by itself (some do, on Ctrl-Z) or by someone who
    means it alone: only a shell that waits for the foreground job must hear of it.  In an orphaned
    process group no shell is there to continue anyone, and the kernel drops the signal.
    """
    if signo == signal.SIGSTOP:
        if not _in_foreground():
            return
        signo = signal.SIGTSTP
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})
    signal.signal(signo, signal.SIG_DFL)
    os.kill(os.getpid(), signo)
    signal.signal(signo, signal.SIG_IGN)
    # Blocked, a SIGCONT continues all the same, and is left to tell that there was a stop at all.
    if signal.sigtimedwait({signal.SIGCONT}, 0) is not None:
        _send(command, signal.SIGCONT)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCONT})


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _send(command: int, signo: int) -> None:
    try:
        os.kill(command, signo)
    except OSError:  # it changed its user, and killtrace has no CAP_KILL; or it has just ended
        pass
