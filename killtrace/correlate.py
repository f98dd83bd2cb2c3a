"""Joins signals to the deaths that they caused.

Pure.  A process is (tgid, start time).  What wait(2) tells of its end, and which signals reached
it, decide the cause:

- it died of signal S: the last S that was delivered (a later one finds it dying: "ignored");
- it exited: the last signal that it handled, if that was not long ago;
- else it ended by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from killtrace.decode import DISPOSITION_HANDLED, RawDeath
from killtrace.model import Cause, Death, Exit, Process, Signal, SignalBrief

# A process that handled a signal and exits within this was asked to by it (systemd's
# DefaultTimeoutStopSec, the longest grace in common use, is 90 s).
HANDLED_WINDOW_NS = 120 * 1_000_000_000
# A storm's story is told by its beginning and its end.
_KEPT_FIRST, _KEPT_LAST = 16, 48
_MAX_TARGETS = 50_000


@dataclass
class _Told:
    signal: Signal
    handled: bool


@dataclass
class _Story:
    first: list[_Told] = field(default_factory=list)
    last: list[_Told] = field(default_factory=list)

    def add(self, told: _Told) -> None:
        if len(self.first) < _KEPT_FIRST:
            self.first.append(told)
            return
        self.last.append(told)
        if len(self.last) > _KEPT_LAST:
            # The last one that was delivered may be the cause: it stays.
            index = 0 if self.last[0].signal.result != "delivered" else 1
            del self.last[index]

    def all(self) -> list[_Told]:
        # The rest of a run is told late: what came in between stands before it in the lists.
        return sorted(self.first + self.last, key=lambda told: told.signal.time_ns)


class Correlator:
    """Remembers the signals of each living target, and tells its death with them."""

    def __init__(self) -> None:
        self._stories: OrderedDict[tuple[int, int], _Story] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stories)

    def signal(self, key: tuple[int, int], signal: Signal, disposition: int) -> None:
        """Remember a signal to the process `key` (tgid, start time since boot)."""
        story = self._stories.get(key)
        if story is None:
            story = self._stories[key] = _Story()
            if len(self._stories) > _MAX_TARGETS:
                self._stories.popitem(last=False)
        story.add(_Told(signal, disposition == DISPOSITION_HANDLED))

    def death(self, raw: RawDeath, process: Process, time_ns: int) -> Death:
        """The death of a process, with all that is known to have led to it; `time_ns` is wall."""
        story = self._stories.pop((raw.process.tgid, raw.process.start_time_ns), _Story())
        told = story.all()
        end = exit_of(raw.exit_code)
        found = cause_of(end, told, time_ns)
        cause = None
        if found is not None:
            cause = Cause(found.signo, found.time_ns, found.sender, found.origin)
        return Death(
            time_ns=time_ns,
            process=process,
            exit=end,
            cause=cause,
            signals=tuple(_brief(item.signal) for item in told),
            elapsed_ns=None if cause is None else max(time_ns - cause.time_ns, 0),
        )


def exit_of(code: int) -> Exit:
    """What wait(2) makes of a kernel exit code: W_EXITCODE, include/uapi/asm-generic/wait.h."""
    signo = code & 0x7F
    if signo:
        return Exit(signo, None, bool(code & 0x80))
    return Exit(None, code >> 8 & 0xFF, False)


def cause_of(end: Exit, told: Sequence[_Told], death_ns: int) -> Signal | None:
    """The signal that ended a process, or None: it ended by itself."""
    if end.signal is not None:
        same = [item.signal for item in told if item.signal.signo == end.signal]
        delivered = [signal for signal in same if signal.result == "delivered"]
        found = delivered or same
        return found[-1] if found else None
    for item in reversed(told):
        if item.signal.result == "delivered" and item.handled:
            recent = death_ns - item.signal.time_ns <= HANDLED_WINDOW_NS
            says_so = end.status == 128 + item.signal.signo
            return item.signal if recent or says_so else None
    return None


def _brief(signal: Signal) -> SignalBrief:
    sender = signal.sender
    return SignalBrief(
        signo=signal.signo,
        time_ns=signal.time_ns,
        result=signal.result,
        sender_pid=None if sender is None else sender.pid,
        sender_comm=None if sender is None else sender.comm,
        origin_kind=signal.origin.kind,
        repeats=signal.repeats,
    )
