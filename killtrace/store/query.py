"""Filters as SQL over one segment's rows.

A segment is skipped where its summary rules it out.  Within one, conditions on the ends are looked
up in the few places that the segment knows, and from there by index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from killtrace.filters import Filter
from killtrace.model import Process, Signal
from killtrace.store import codec


@dataclass(frozen=True)
class Segment:
    """What a segment's row tells; the row ids that belong to it are from `first` to `end` - 1."""

    id: int
    layout: str
    first_record: int
    end_record: int
    first_process: int
    end_process: int
    first_place: int
    end_place: int
    oldest_ns: int | None
    newest_ns: int | None
    types: int
    signals: int
    kinds: int


@dataclass
class Condition:
    """A WHERE clause in the making."""

    terms: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, term: str, *values: Any) -> None:
        """One more term that must hold."""
        self.terms.append(f"({term})")
        self.values += values

    @property
    def sql(self) -> str:
        """The clause."""
        return " AND ".join(self.terms)


@dataclass(frozen=True)
class Query:
    """What to look for: a filter, and times of wall clock, `since_ns` included, `until_ns` not.

    `attempts` says whether refused signals are wanted.  `targets_only`: the filter's names, users
    and places are those of the target; what was lost is then not told.
    """

    filter: Filter = field(default_factory=Filter)
    since_ns: int | None = None
    until_ns: int | None = None
    attempts: bool = True
    targets_only: bool = False

    def types(self) -> set[int]:
        """The types of records that can match."""
        types = {codec.SIGNAL, codec.DEATH, codec.ATTEMPT, codec.LOST}
        if self.filter.deaths_only:
            types = {codec.DEATH, codec.LOST}
        if not self.attempts:
            types.discard(codec.ATTEMPT)
        if self.targets_only:
            types.discard(codec.LOST)
        return types

    def may_hold(self, segment: Segment) -> bool:
        """Whether a segment's summary leaves room for a match."""
        if segment.oldest_ns is None or segment.newest_ns is None:
            return False
        if self.since_ns is not None and segment.newest_ns < self.since_ns:
            return False
        if self.until_ns is not None and segment.oldest_ns >= self.until_ns:
            return False
        types = _bits(self.types())
        if codec.LOST in self.types() and segment.types >> codec.LOST & 1:
            return True
        if not segment.types & types:
            return False
        wanted = self._kind_numbers(segment)
        if wanted is not None and not segment.kinds & _bits(wanted):
            # Refused signals count as the kind `process`, and carry no origin.
            return "process" in self.filter.origins and bool(segment.types >> codec.ATTEMPT & 1)
        # A death asked for by pid is shown whatever its signals were (killtrace/filters.py).
        signals = self.filter.signals
        return not signals or bool(self.filter.pids) or bool(segment.signals & _mask(signals))

    def condition(
        self, segment: Segment, places: Callable[[], Iterable[tuple[int, Process]]]
    ) -> Condition | None:
        """The WHERE clause for a segment's rows in `record`; None where nothing can match.

        `places()` reads the segment's places, as processes that ran in them.
        """
        ends = self._ends(segment, places)
        signal = self._signal(segment)
        both = Condition()
        both.add("record.id >= ? AND record.id < ?", segment.first_record, segment.end_record)
        types = self.types()
        both.add(f"type IN ({','.join(str(t) for t in sorted(types))})")
        if self.since_ns is not None:
            both.add("time_ns >= ?", self.since_ns)
        if self.until_ns is not None:
            both.add("time_ns < ?", self.until_ns)
        is_lost = f"type = {codec.LOST}"
        asks_for_lost = codec.LOST in types and bool(segment.types >> codec.LOST & 1)
        if ends is None:
            if not asks_for_lost:
                return None
            both.add(is_lost)
            return both
        terms = Condition(ends.terms + signal.terms, ends.values + signal.values)
        if terms.terms:
            if asks_for_lost:
                both.add(f"{is_lost} OR {terms.sql}", *terms.values)
            else:
                both.add(terms.sql, *terms.values)
        return both

    def _ends(
        self, segment: Segment, places: Callable[[], Iterable[tuple[int, Process]]]
    ) -> Condition | None:
        """The terms on target and sender; None where no place of the segment matches."""
        out = Condition()
        wanted = self.filter
        for column, pids in (("target", wanted.pids), ("sender", wanted.senders)):
            if pids:
                within, values = _within(segment)
                marks = ",".join("?" * len(pids))
                out.add(
                    f"{column} IN (SELECT id FROM process WHERE pid IN ({marks}) AND {within})",
                    *sorted(pids),
                    *values,
                )
        single = list(_single_filters(wanted))
        if not single:
            return out
        known = list(places())
        for one in single:
            matching = [number for number, process in known if one.wants(_probe(process))]
            if not matching:
                return None
            # Numbers of our own making: no need for placeholders, whose count is limited.
            numbers = ",".join(str(number) for number in matching)
            within, values = _within(segment)
            chosen = f"SELECT id FROM process WHERE place IN ({numbers}) AND {within}"
            if self.targets_only:
                out.add(f"target IN ({chosen})", *values)
            else:
                out.add(f"target IN ({chosen}) OR sender IN ({chosen})", *values, *values)
        return out

    def _signal(self, segment: Segment) -> Condition:
        """The terms on signals and kinds of origin."""
        out = Condition()
        signals = self.filter.signals
        if signals:
            term = "signals & ? <> 0"
            if self.filter.pids:
                # As Filter has it: a death with one signal, or none, is told to who asked by pid.
                one = "signals = 0 OR (signo > 0 AND signals = 1 << (signo - 1))"
                term += f" OR (type = {codec.DEATH} AND ({one}))"
            out.add(term, _mask(signals))
        kinds = self._kind_numbers(segment)
        if kinds is not None:
            numbers = ",".join(str(number) for number in sorted(kinds))
            term = f"kind IN ({numbers})"
            if "process" in self.filter.origins:
                term += f" OR type = {codec.ATTEMPT}"
            out.add(term)
        return out

    def _kind_numbers(self, segment: Segment) -> set[int] | None:
        origins = self.filter.origins
        if not origins:
            return None
        names = codec.kinds_of(segment.layout)
        return {number for number, name in enumerate(names) if name in origins}


def _single_filters(wanted: Filter) -> Iterator[Filter]:
    """One filter for each condition that either end may meet: they need not meet the same."""
    for name in ("comms", "uids", "cgroups", "units", "containers"):
        value = getattr(wanted, name)
        if value:
            yield replace(Filter(), **{name: value})


def _probe(process: Process) -> Signal:
    return Signal(0, 0, 0, "delivered", "process", None, process, codec.NO_ORIGIN)


def _within(segment: Segment) -> tuple[str, tuple[int, int]]:
    # The unary plus keeps SQLite from walking the segment's processes instead of the index.
    return "+id >= ? AND +id < ?", (segment.first_process, segment.end_process)


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


def _mask(signals: Iterable[int]) -> int:
    mask = 0
    for signo in signals:
        mask |= codec.signal_bit(signo)
    return mask
