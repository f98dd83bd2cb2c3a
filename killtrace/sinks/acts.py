"""Signals that one call sent to many, gathered into one act.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from killtrace import text
from killtrace.model import Death, Record, Signal

# One call reaches all its targets within microseconds; a preempted one takes longer.
_ACT_NS = 50_000_000
_MOST_HELD = 4096
_NAMED, _NAME_WIDTH = 8, 32


class Acts:
    """Holds back the signals of one act, and the deaths that come meanwhile, until it is over."""

    def __init__(self) -> None:
        self._signals: list[Signal] = []
        self._deaths: list[Death] = []

    def take(self, record: Record) -> bool:
        """Hold a record back if it belongs to the act under way, or begins one; else False.

        False with an act under way means that it is over: `release` it first, then ask again.
        """
        if isinstance(record, Death) and self._signals and len(self._deaths) < _MOST_HELD:
            self._deaths.append(record)
            return True
        if not isinstance(record, Signal) or not _reached_many(record):
            return False
        if self._signals and not self._continues(record):
            return False
        self._signals.append(record)
        return True

    def release(self) -> Iterator[list[Signal] | Death]:
        """The act, then the deaths; nothing where there is no act."""
        signals, deaths = self._signals, self._deaths
        self._signals, self._deaths = [], []
        if signals:
            yield signals
        yield from deaths

    def _continues(self, record: Signal) -> bool:
        first = self._signals[0]
        return (
            _act_of(record) == _act_of(first)
            and abs(record.time_ns - first.time_ns) <= _ACT_NS
            and len(self._signals) < _MOST_HELD
        )


def _reached_many(record: Signal) -> bool:
    named = record.origin.detail.get("group") is not None and record.sender is not None
    return named and record.repeats == 0


def _act_of(record: Signal) -> tuple[object, ...]:
    sender = record.sender
    end = None if sender is None else (sender.pid, sender.tid, sender.start_time_ns)
    return end, record.signo, record.origin.detail.get("group")


def victims(signals: Sequence[Signal], notes: Sequence[str]) -> str:
    """12372 sleep 5, 12371 timeout 0.1 sleep 5 (ignored), and 3 more."""
    names = []
    for signal, note in zip(signals[:_NAMED], notes, strict=False):
        target = signal.target
        name = f"{target.pid} {text.command(target.cmdline, target.comm, _NAME_WIDTH)}"
        names.append(f"{name} ({note})" if note else name)
    more = len(signals) - len(names)
    return ", ".join(names) + (f", and {more} more" if more else "")
