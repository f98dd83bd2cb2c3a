"""Counts of what was recorded: by origin, sender, victim, unit, signal, and per day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from killtrace import signames
from killtrace.model import Process
from killtrace.store import codec
from killtrace.store.reader import Group


@dataclass(frozen=True)
class Row:
    """How often one value occurs; `value` is None where there is none, or it is not known.

    For the signal of a death that was none, and the sender where no process is to blame.
    """

    by: str
    value: str | None
    signals: int
    deaths: int
    refused: int


def _comm(process: Process | None) -> str | None:
    return None if process is None else process.comm


def _unit(process: Process | None) -> str | None:
    return None if process is None else process.unit


_BY: dict[str, Callable[[Group], str | None]] = {
    "origin": lambda group: group.kind,
    "signal": lambda group: signames.name(group.signo) if group.signo else None,
    "sender": lambda group: _comm(group.sender),
    "victim": lambda group: _comm(group.target),
    "unit": lambda group: _unit(group.target),
    "day": lambda group: group.day,
}
SUBJECTS = tuple(_BY)


class Stats:
    """The sums of all groups."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self.lost = 0
        self._counts: dict[str, dict[str | None, Counter[int]]] = {by: {} for by in _BY}
        for group in groups:
            if group.type == codec.LOST:
                self.lost += group.count
                continue
            for by, value_of in _BY.items():
                counter = self._counts[by].setdefault(value_of(group), Counter())
                counter[group.type] += group.count

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.lost or self._counts["day"])

    def rows(self, by: str) -> Iterator[Row]:
        """The rows of one subject: days in order, all else by how often it occurs."""
        rows = [
            Row(by, value, counter[codec.SIGNAL], counter[codec.DEATH], counter[codec.ATTEMPT])
            for value, counter in self._counts[by].items()
        ]
        if by == "day":
            return iter(sorted(rows, key=lambda row: row.value or ""))
        return iter(
            sorted(
                rows,
                key=lambda row: (-row.signals - row.refused, -row.deaths, row.value or ""),
            )
        )
