"""What is told of a run: which ends are worth a line, and the line.

Pure: deaths in, lines out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from killtrace import signames, text
from killtrace.model import Cause, Death, Process
from killtrace.run.follower import VIA
from killtrace.sinks.table import chain_text, origin_text, span

# A run that kills without end must not fill the memory: its beginning and its end are told.
_KEPT_FIRST, _KEPT_LAST = 100, 100
_COMMAND_WIDTH = 48


@dataclass(frozen=True)
class End:
    """One death of the run."""

    death: Death
    is_command: bool


def worth_telling(end: End) -> bool:
    """Whether a run in which this happened did not go well.

    A descendant that exits with a status is its parent's concern, and a writer whose reader went
    away (`yes | head`) is a pipe that works.
    """
    exit_, cause = end.death.exit, end.death.cause
    if exit_.signal is not None:
        return end.is_command or exit_.signal != signames.number("SIGPIPE")
    if end.is_command:
        return exit_.status != 0
    return cause is not None and exit_.status == 128 + cause.signo


class Story:
    """Collects what is worth telling, in bounds; `own_tgid` is killtrace's pid."""

    def __init__(self, own_tgid: int) -> None:
        self._own_tgid = own_tgid
        self._first: list[End] = []
        self._last: deque[End] = deque(maxlen=_KEPT_LAST)
        self.left_out = 0

    def add(self, end: End) -> None:
        """Take in one end; the command's own comes once and is never left out."""
        if len(self._first) < _KEPT_FIRST:
            self._first.append(end)
            return
        if len(self._last) == _KEPT_LAST:
            self.left_out += 1
        self._last.append(end)

    def ends(self) -> list[End]:
        """What was kept, oldest first."""
        return [*self._first, *self._last]

    def lines(self, lost: int = 0) -> Iterator[str]:
        """The run in words, a line an end; `lost` events never came."""
        ends = self.ends()
        for end in ends[: len(self._first)]:
            yield sentence(end, self._own_tgid, ends, lost)
        if self.left_out:
            yield f"{self.left_out} more were killed; --summary json --summary-file PATH tells all"
        for end in ends[len(self._first) :]:
            yield sentence(end, self._own_tgid, ends, lost)
        if lost:
            yield f"{lost} events were lost: more may have happened than is told here"


def sentence(end: End, own_tgid: int, others: Sequence[End] = (), lost: int = 0) -> str:
    """How one process ended, and by whom or what."""
    death = _within(end.death, own_tgid)
    ran = ""
    if death.process.start_time_ns is not None:
        ran = f" after running {span(max(death.time_ns - death.process.start_time_ns, 0))}"
    who = _who(death.process)
    if death.exit.signal is not None:
        core = ", core dumped" if death.exit.core_dumped else ""
        what = f"died of {signames.name(death.exit.signal)}{ran}{core}"
        return f"{who} {what}: {_why(death)}{_before(death)}"
    what = f"exited with status {death.exit.status}{ran}"
    if death.cause is None:
        return f"{who} {what}, {_by_itself(death, others, lost)}"
    name = signames.name(death.cause.signo)
    after = "" if death.elapsed_ns is None else f" {span(death.elapsed_ns)} before"
    return f"{who} {what}, having handled {name}{after}: {_why(death)}{_before(death)}"


def _within(death: Death, own_tgid: int) -> Death:
    """With a sender of this run shown up to the run: who started killtrace is no news."""
    cause = death.cause
    if cause is None or cause.sender is None:
        return death
    steps = cause.sender.ancestors
    pids = [step.pid for step in steps]
    if own_tgid not in pids:
        return death
    sender = replace(cause.sender, ancestors=steps[: pids.index(own_tgid)])
    return replace(death, cause=replace(cause, sender=sender))


def _who(process: Process) -> str:
    inside = ""
    if process.ns_pid not in (None, process.pid):
        inside = f" ({process.ns_pid} in its PID namespace)"
    return f"{process.pid}{inside} {text.command(process.cmdline, process.comm, _COMMAND_WIDTH)}"


def _why(death: Death) -> str:
    cause = death.cause
    if cause is None:
        return "the kernel told of no signal (a seccomp filter does so on some kernels)"
    said = _by(cause, death.process)
    return said if cause.origin.certain else f"probably {said}"


def _by(cause: Cause, target: Process) -> str:
    sender, origin = cause.sender, cause.origin
    if origin.kind != "process" or sender is None:
        return origin_text(origin, sender)
    requester = origin.detail.get("requester")
    if origin.detail.get("via") == VIA and isinstance(requester, Process):
        return f"sent by {chain_text(requester)}, by way of killtrace"
    if sender.pid == target.pid:
        call = origin.detail.get("syscall")
        return "it sent it to itself" + (f" with {call}(2)" if call else "")
    return f"sent by {origin_text(origin, sender)}"


def _before(death: Death) -> str:
    """The signals that came before the one that counted: a SIGTERM before the SIGKILL."""
    if death.cause is None:
        return ""
    sender = death.cause.sender
    # Who handles a signal to tidy up sends it to itself again in the end, as it should.
    raised = sender is not None and sender.pid == death.process.pid
    earlier = []
    for brief in death.signals:
        name = signames.name(brief.signo)
        is_other = brief.signo != death.cause.signo or (
            raised and brief.sender_pid != death.process.pid
        )
        is_other = is_other and brief.time_ns <= death.cause.time_ns
        if is_other and name in signames.DEFAULT_SIGNALS:
            comm = text.escape(brief.sender_comm or "")
            who = f" from {brief.sender_pid} {comm}"
            if brief.sender_pid is None:
                who = f" ({brief.origin_kind})"
            since = span(death.cause.time_ns - brief.time_ns)
            ignored = ", which it ignored" if brief.result == "ignored" else ""
            earlier.append(f"{name}{who} {since} before{ignored}")
    shown = ", ".join(earlier[-3:])
    return f"; it had had {shown}" if shown else ""


def _by_itself(death: Death, others: Sequence[End], lost: int) -> str:
    """A status above 128 says that a child died of a signal, or seems to (a shell's $?)."""
    signo = (death.exit.status or 0) - 128
    if not 1 <= signo <= 64:
        return "by itself"
    name = signames.name(signo)
    died = [other.death.process for other in others if other.death.exit.signal == signo]
    if died:
        return f"which is 128 + {signo}: {died[-1].pid} died of {name}"
    if lost:
        return f"which is 128 + {signo}"
    return f"by itself: no {name} reached it or anything that it started"
