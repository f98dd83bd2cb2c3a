"""Records as rows of the store, and back again, with nothing lost.

The schema's docstring says why a record is cut into parts.  Pure: numbers are handed out here,
rows are handed over to the writer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any

from killtrace.model import (
    ORIGIN_KINDS,
    Ancestor,
    Attempt,
    Cause,
    Container,
    Death,
    Exit,
    Lost,
    Origin,
    Process,
    Record,
    Signal,
    SignalBrief,
)

SIGNAL, DEATH, ATTEMPT, LOST = range(4)

_PLACE = ("comm", "uid", "user", "cgroup", "unit", "container")
_LINEAGE = ("ppid", "loginuid", "session_id", "sid", "tty", "ancestors")


def _names(cls: type, *elsewhere: str) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls) if f.name not in elsewhere)


# What each part holds; the rest of a record stands in columns.  A segment keeps its own copy.
LAYOUT: Mapping[str, tuple[str, ...]] = {
    "place": _PLACE,
    "lineage": _LINEAGE,
    "process": _names(Process, "pid", *_PLACE, *_LINEAGE),
    "origin": _names(Origin, "kind"),
    "signal": _names(Signal, "time_ns", "signo", "sender", "target", "origin", "repeats"),
    "death": _names(Death, "time_ns", "process"),
    "attempt": _names(Attempt, "time_ns", "signo", "sender", "target"),
    "lost": _names(Lost, "time_ns"),
    "exit": _names(Exit),
    "cause": _names(Cause, "sender", "origin"),
    "brief": _names(SignalBrief),
    "container": _names(Container),
    "ancestor": _names(Ancestor),
    "kinds": ORIGIN_KINDS,
}
_GETTERS: Mapping[type, Callable[[Any], Any]] = {
    Exit: attrgetter(*LAYOUT["exit"]),
    Cause: attrgetter(*LAYOUT["cause"]),
    SignalBrief: attrgetter(*LAYOUT["brief"]),
    Container: attrgetter(*LAYOUT["container"]),
    Ancestor: attrgetter(*LAYOUT["ancestor"]),
}
_place_of = attrgetter(*LAYOUT["place"])
_lineage_of = attrgetter(*LAYOUT["lineage"])
_process_of = attrgetter(*LAYOUT["process"])
_origin_of = attrgetter(*LAYOUT["origin"])
_signal_of = attrgetter(*LAYOUT["signal"])
_death_of = attrgetter(*LAYOUT["death"])
_attempt_of = attrgetter(*LAYOUT["attempt"])
_lost_of = attrgetter(*LAYOUT["lost"])
_KIND_NUMBERS = {kind: number for number, kind in enumerate(ORIGIN_KINDS)}
# A process inside an origin's fields: its row's id under this key.
_REFERENCE = "$process"

# Stands where a filter is asked about a process alone.
NO_ORIGIN = Origin("kernel", "")

RecordRow = tuple[
    int, int, int, int, int, int, "int | None", "int | None", "int | None", "int | None", str
]


def layout_text() -> str:
    """The layout that this version writes, as a segment keeps it."""
    return json.dumps({name: list(names) for name, names in LAYOUT.items()})


def kinds_of(layout: str) -> Sequence[str]:
    """The kinds of origins by their numbers, of a segment's layout; DecodeError."""
    names: Sequence[str] = _checked(lambda: json.loads(layout)["kinds"])
    return names


def signal_bit(signo: int) -> int:
    """Bit n - 1 for signal n, in the signed 64 bits that SQLite has."""
    bit = 1 << (signo - 1) if 0 < signo <= 64 else 0
    return bit - (1 << 64) if bit >> 63 else bit


@dataclass
class Numbers:
    """The next free row id of each table."""

    record: int = 1
    process: int = 1
    place: int = 1
    lineage: int = 1
    origin: int = 1


@dataclass
class Rows:
    """Rows to insert, in the order of the tables' columns."""

    places: list[tuple[int, str]] = field(default_factory=list)
    lineages: list[tuple[int, str]] = field(default_factory=list)
    origins: list[tuple[int, str]] = field(default_factory=list)
    processes: list[tuple[int, int, int, int, str]] = field(default_factory=list)
    records: list[RecordRow] = field(default_factory=list)


class Encoder:
    """Turns records into rows; one for each segment, since it remembers what was written."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.rows = Rows()
        self._json = json.JSONEncoder(
            separators=(",", ":"), check_circular=False, default=self._plain
        ).encode
        self._places: dict[Any, int] = {}
        self._lineages: dict[Any, int] = {}
        self._origins: dict[tuple[int, str], int] = {}
        self._processes: dict[tuple[int, int | None, int | None], tuple[Process, int]] = {}
        # A death's cause has the very origin of its signal; ids of live objects are unique.
        self._recent_origins: dict[int, tuple[Origin, int]] = {}

    def take_rows(self) -> Rows:
        """The rows since the last call."""
        rows, self.rows = self.rows, Rows()
        self._recent_origins.clear()
        return rows

    def forget_beyond(self, limit: int) -> None:
        """Forget what is remembered of each part where it is more than `limit`."""
        for remembered in (self._places, self._lineages, self._origins, self._processes):
            if len(remembered) > limit:
                remembered.clear()

    def encode(self, record: Record) -> None:
        """Add the rows of one record."""
        number = self.numbers.record
        self.numbers.record = number + 1
        self.rows.records.append((number, *self._record(record)))

    def _record(self, record: Record) -> tuple[Any, ...]:
        if isinstance(record, Signal):
            return self._signal(record)
        if isinstance(record, Death):
            return self._death(record)
        if isinstance(record, Attempt):
            return (
                record.time_ns,
                ATTEMPT,
                record.signo,
                signal_bit(record.signo),
                0,
                None if record.target is None else self.process(record.target),
                self.process(record.sender),
                None,
                None,
                self._json(_attempt_of(record)),
            )
        # Its count stands with the repeats, so that a sum of 1 + repeats is exact for it, too.
        body = self._json(_lost_of(record))
        return (record.time_ns, LOST, 0, 0, record.count - 1, None, None, None, None, body)

    def _signal(self, record: Signal) -> tuple[Any, ...]:
        return (
            record.time_ns,
            SIGNAL,
            record.signo,
            signal_bit(record.signo),
            record.repeats,
            self.process(record.target),
            None if record.sender is None else self.process(record.sender),
            _KIND_NUMBERS[record.origin.kind],
            self._origin(record.origin),
            self._json(_signal_of(record)),
        )

    def _death(self, record: Death) -> tuple[Any, ...]:
        signo = record.exit.signal or 0
        story = signal_bit(signo)
        for brief in record.signals:
            story |= signal_bit(brief.signo)
        sender = kind = origin = None
        if record.cause is not None:
            if record.cause.sender is not None:
                sender = self.process(record.cause.sender)
            kind = _KIND_NUMBERS[record.cause.origin.kind]
            origin = self._origin(record.cause.origin)
        target = self.process(record.process)
        body = self._json(_death_of(record))
        return (record.time_ns, DEATH, signo, story, 0, target, sender, kind, origin, body)

    def process(self, process: Process) -> int:
        """The number of a process record, written now unless this segment has its equal."""
        key = (process.pid, process.tid, process.start_time_ns)
        known = self._processes.get(key)
        if known is not None and (known[0] is process or known[0] == process):
            return known[1]
        number = self.numbers.process
        self.numbers.process = number + 1
        self._processes[key] = (process, number)
        place, lineage = self._place(process), self._lineage(process)
        body = self._json(_process_of(process))
        self.rows.processes.append((number, process.pid, place, lineage, body))
        return number

    def _place(self, process: Process) -> int:
        # The program's whole name: comm is cut at 15 characters, and filters match either.
        program = process.cmdline[0].rpartition("/")[2] if process.cmdline else None
        key = (*_place_of(process), program)
        number = self._places.get(key)
        if number is None:
            number = self._places[key] = self.numbers.place
            self.numbers.place = number + 1
            self.rows.places.append((number, self._json(key)))
        return number

    def _lineage(self, process: Process) -> int:
        key = _lineage_of(process)
        number = self._lineages.get(key)
        if number is None:
            number = self._lineages[key] = self.numbers.lineage
            self.numbers.lineage = number + 1
            self.rows.lineages.append((number, self._json(key)))
        return number

    def _origin(self, origin: Origin) -> int:
        recent = self._recent_origins.get(id(origin))
        if recent is not None:
            return recent[1]
        key = (_KIND_NUMBERS[origin.kind], self._json(_origin_of(origin)))
        number = self._origins.get(key)
        if number is None:
            number = self._origins[key] = self.numbers.origin
            self.numbers.origin = number + 1
            self.rows.origins.append((number, key[1]))
        self._recent_origins[id(origin)] = (origin, number)
        return number

    def _plain(self, value: Any) -> Any:
        getter = _GETTERS.get(type(value))
        if getter is not None:
            return getter(value)
        if isinstance(value, Process):
            return {_REFERENCE: self.process(value)}
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"{type(value).__name__} is no part of a record")


# --- back again ------------------------------------------------------------------------------


class DecodeError(Exception):
    """A row that is not what killtrace writes: the file was damaged."""


def check_times(*times_ns: Any) -> None:
    """DecodeError for what is no time that this world has."""
    for time_ns in times_ns:
        if not isinstance(time_ns, int) or not 0 <= time_ns < 1 << 62:
            raise DecodeError(f"{time_ns!r} is no time")


Layout = Mapping[str, Sequence[str]]
Fetch = Callable[[str, int], "tuple[Any, ...] | None"]


class Decoder:
    """Turns rows of one segment back into records.

    `fetch(table, id)` gives the row of a part without its id: process (pid, place, lineage, body),
    place, lineage and origin (body,).
    """

    def __init__(self, layout: str, fetch: Fetch) -> None:
        self._layout: Layout = _checked(json.loads, layout)
        self._fetch = fetch
        self._places: dict[int, Mapping[str, Any]] = {}
        self._lineages: dict[int, Mapping[str, Any]] = {}
        self._processes: dict[int, Process] = {}
        self._origins: dict[int, Origin] = {}

    def kind_name(self, number: int) -> str:
        """The kind of origin behind its number in this segment."""
        return self._layout["kinds"][number]

    def decode(self, row: RecordRow) -> Record:
        """The record of a row; DecodeError for a damaged one."""
        record: Record = _checked(self._decode, row)
        return record

    def place(self, body: str) -> Process:
        """A process that ran in a place, with nothing but its place: for filters."""
        process: Process = _checked(self._place_process, _checked(json.loads, body))
        return process

    def _decode(self, row: RecordRow) -> Record:
        _, time_ns, type_, signo, _, repeats, target, sender, kind, origin, body = row
        check_times(time_ns)
        values = json.loads(body)
        if type_ == SIGNAL:
            assert target is not None
            return Signal(
                time_ns=time_ns,
                signo=signo,
                sender=self._process_or_none(sender),
                target=self._process(target),
                origin=self._origin(kind, origin),
                repeats=repeats,
                **self._named("signal", values, Signal),
            )
        if type_ == DEATH:
            return self._death(time_ns, target, sender, kind, origin, values)
        if type_ == ATTEMPT:
            assert sender is not None
            return Attempt(
                time_ns=time_ns,
                signo=signo,
                sender=self._process(sender),
                target=self._process_or_none(target),
                **self._named("attempt", values, Attempt),
            )
        return Lost(time_ns=time_ns, **self._named("lost", values, Lost))

    def _death(
        self,
        time_ns: int,
        target: int | None,
        sender: int | None,
        kind: int | None,
        origin: int | None,
        values: Any,
    ) -> Death:
        assert target is not None
        named = self._named("death", values, Death)
        named["exit"] = Exit(**self._named("exit", named["exit"], Exit))
        named["signals"] = tuple(
            SignalBrief(**self._named("brief", brief, SignalBrief)) for brief in named["signals"]
        )
        if named["cause"] is not None:
            named["cause"] = Cause(
                sender=self._process_or_none(sender),
                origin=self._origin(kind, origin),
                **self._named("cause", named["cause"], Cause),
            )
        return Death(time_ns=time_ns, process=self._process(target), **named)

    def _named(self, part: str, values: Any, cls: type) -> dict[str, Any]:
        """The values of a part by name, without those that this version does not know."""
        known = cls.__dataclass_fields__  # type: ignore[attr-defined]
        names = self._layout[part]
        return {n: value for n, value in zip(names, values, strict=True) if n in known}

    def _process_or_none(self, number: int | None) -> Process | None:
        return None if number is None else self._process(number)

    def _process(self, number: int) -> Process:
        known = self._processes.get(number)
        if known is None:
            pid, place, lineage, body = self._part("process", number)
            named = self._named("process", json.loads(body), Process)
            if named.get("cmdline") is not None:
                named["cmdline"] = tuple(named["cmdline"])
            known = Process(pid=pid, **self._place(place), **self._lineage(lineage), **named)
            self._processes[number] = known
        return known

    def _place(self, number: int) -> Mapping[str, Any]:
        known = self._places.get(number)
        if known is None:
            values = json.loads(self._part("place", number)[0])
            known = self._places[number] = self._place_fields(values)
        return known

    def _place_fields(self, values: Any) -> Mapping[str, Any]:
        named = self._named("place", values[:-1], Process)
        if named.get("container") is not None:
            named["container"] = Container(
                **self._named("container", named["container"], Container)
            )
        return named

    def _place_process(self, values: Any) -> Process:
        program = values[-1]
        cmdline = None if program is None else (program,)
        return Process(pid=0, cmdline=cmdline, **self._place_fields(values))

    def _lineage(self, number: int) -> Mapping[str, Any]:
        known = self._lineages.get(number)
        if known is None:
            values = json.loads(self._part("lineage", number)[0])
            named = self._named("lineage", values, Process)
            named["ancestors"] = tuple(self._ancestor(step) for step in named["ancestors"])
            known = self._lineages[number] = named
        return known

    def _ancestor(self, values: Any) -> Ancestor:
        ancestor = Ancestor(**self._named("ancestor", values, Ancestor))
        if ancestor.cmdline is not None:
            return replace(ancestor, cmdline=tuple(ancestor.cmdline))
        return ancestor

    def _origin(self, kind: int | None, number: int | None) -> Origin:
        assert kind is not None and number is not None
        known = self._origins.get(number)
        if known is None:
            named = self._named("origin", json.loads(self._part("origin", number)[0]), Origin)
            named["detail"] = {key: self._detail(v) for key, v in named["detail"].items()}
            known = self._origins[number] = Origin(kind=self.kind_name(kind), **named)
        return known

    def _detail(self, value: Any) -> Any:
        if isinstance(value, dict) and _REFERENCE in value:
            return self._process(value[_REFERENCE])
        return value

    def _part(self, table: str, number: int) -> tuple[Any, ...]:
        row = self._fetch(table, number)
        if row is None:
            raise DecodeError(f"{table} {number} is missing")
        return row


def _checked(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise DecodeError(f"{type(error).__name__}: {error}") from error
    except RecursionError as error:
        raise DecodeError("nested too deep") from error
