"""The errors that end killtrace, each with its exit status and the mend."""

from __future__ import annotations


class KilltraceError(Exception):
    """A fault that ends the command: one line for the user, and what to do about it.

    `what` says what is wrong, `mend` what to do; both without a full stop.  `exit_status` is the
    one that the contract gives (sysexits.h numbers where there is one).
    """

    exit_status = 1

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


class InvalidUseError(KilltraceError):
    """The command line makes no sense (exit 2)."""

    exit_status = 2


class NotFoundError(KilltraceError):
    """No such target, or nothing was found (exit 3)."""

    exit_status = 3


class UnsupportedError(KilltraceError):
    """The kernel or the machine lacks what is needed (exit 69, EX_UNAVAILABLE)."""

    exit_status = 69


class OutputError(KilltraceError):
    """Records could not be written (exit 74, EX_IOERR)."""

    exit_status = 74


class NotPermittedError(KilltraceError):
    """The user may not do this (exit 77, EX_NOPERM)."""

    exit_status = 77


class TimedOutError(KilltraceError):
    """`--timeout` ran out (exit 124, as timeout(1))."""

    exit_status = 124
