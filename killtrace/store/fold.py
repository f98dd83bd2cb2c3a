"""Runs of identical signals as two records, with the count exact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from killtrace.model import Process, Record, Signal

# All of a signal but when it came and how often.
_content = attrgetter(*(f.name for f in fields(Signal) if f.name not in ("time_ns", "repeats")))


def fold(records: Iterable[Record]) -> list[Record]:
    """Fold each run of identical signals: the first stays, the rest become one record after it.

    The sum of 1 + repeats stays exact.  The folded record has the time, and the place in the
    list, of the run's last.
    """
    out: list[Record | None] = []
    first: dict[Any, int] = {}
    rest: dict[Any, int] = {}
    for record in records:
        if isinstance(record, Signal):
            key = _key(record)
            index = first.setdefault(key, len(out))
            if index != len(out) and _identical(out[index], record):
                earlier = rest.get(key)
                rest[key] = len(out)
                if earlier is not None:
                    record = _joined(out[earlier], record)
                    out[earlier] = None
        out.append(record)
    return [record for record in out if record is not None]


def _key(signal: Signal) -> Any:
    # A cheap key that tells nearly all apart; _identical decides.
    return (
        signal.signo,
        signal.result,
        _identity(signal.target),
        None if signal.sender is None else _identity(signal.sender),
        signal.origin.summary,
    )


def _identity(process: Process) -> tuple[int, int | None, int | None]:
    return process.pid, process.tid, process.start_time_ns


def _identical(one: Record | None, other: Signal) -> bool:
    return isinstance(one, Signal) and _content(one) == _content(other)


def _joined(earlier: Record | None, last: Signal) -> Signal:
    assert isinstance(earlier, Signal)
    return replace(last, repeats=earlier.repeats + 1 + last.repeats)
