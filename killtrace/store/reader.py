"""Answers questions from a store; the package's docstring says how it is used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from killtrace.errors import KilltraceError, NotFoundError, NotPermittedError
from killtrace.filters import Filter
from killtrace.model import Death, Process, Record, Signal
from killtrace.store import codec, files, schema
from killtrace.store.query import Query, Segment

_COLUMNS = "id, time_ns, type, signo, signals, repeats, target, sender, kind, origin, body"
_CHUNK = 5000
_PARTS = {
    "process": "SELECT pid, place, lineage, body FROM process WHERE id = ?",
    "place": "SELECT body FROM place WHERE id = ?",
    "lineage": "SELECT body FROM lineage WHERE id = ?",
    "origin": "SELECT body FROM origin WHERE id = ?",
}
_SEGMENTS = """
    SELECT id, layout, first_record, first_record + records, first_process,
           lead(first_process, 1, 1 << 62) OVER later, first_place,
           lead(first_place, 1, 1 << 62) OVER later,
           oldest_ns, newest_ns, types, signals, kinds
    FROM segment WINDOW later AS (ORDER BY id) ORDER BY id
"""


_GROUPS = """
    SELECT type, signo, kind, t.place, s.place,
           date(time_ns / 1000000000, 'unixepoch', 'localtime'), count(*), sum(1 + repeats)
    FROM record LEFT JOIN process t ON t.id = target LEFT JOIN process s ON s.id = sender
    WHERE {} GROUP BY 1, 2, 3, 4, 5, 6
"""


class BrokenStoreError(KilltraceError):
    """The store's content is damaged, or is no store."""


@dataclass(frozen=True)
class ArmedSpan:
    """A time in which the recorder was armed; wall clock, nanoseconds.

    `ended` says why it ended: "stopped", "reopened", "clock changed"; None where it never said,
    being killed or without power, or where it still runs.  `scope` is JSON: what for.
    """

    boot_id: str | None
    began_ns: int
    last_ns: int
    ended: str | None
    scope: str


@dataclass(frozen=True)
class Gap:
    """A time in which nothing was recorded, between two spans or before and after them all.

    `began_ns` None: since ever; `ended_ns` None: until now.  `reason` is a sentence's end, like
    "the recorder was stopped".
    """

    began_ns: int | None
    ended_ns: int | None
    reason: str


@dataclass(frozen=True)
class Group:
    """Events that are alike; `count` of them.

    `type` is codec.SIGNAL, DEATH, ATTEMPT or LOST; the ends carry only where they ran (name, user,
    cgroup, unit, container); `day` is YYYY-MM-DD of local time.
    """

    type: int
    signo: int
    kind: str | None
    target: Process | None
    sender: Process | None
    day: str
    count: int


@dataclass(frozen=True)
class Target:
    """Whose deaths are asked for; what is set must all hold.  Names and units are globs."""

    pid: int | None = None
    comm: str | None = None
    unit: str | None = None
    container: str | None = None

    def as_filter(self) -> Filter:
        """The conditions on the target as a Filter."""
        return Filter(
            pids=frozenset() if self.pid is None else frozenset({self.pid}),
            comms=() if self.comm is None else (self.comm,),
            units=() if self.unit is None else (self.unit,),
            containers=() if self.container is None else (self.container,),
            deaths_only=True,
        )


_ALL, _ANY = Query(), Target()


def open_store(path: Path = files.DEFAULT_PATH) -> Store:
    """Open a store to read from it.

    NotFoundError (3) where there is none, NotPermittedError (77) where it may not be read,
    BrokenStoreError (1) where it is damaged or no store.
    """
    try:
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise NotFoundError(
            f"nothing was recorded: there is no store at {path}",
            "start the recorder with `sudo killtrace record --install`",
        ) from None
    except PermissionError:
        raise NotPermittedError(
            f"the store {path} is for root and the group {files.READERS_GROUP}",
            f"run it with sudo, or as a member of {files.READERS_GROUP}",
        ) from None
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    files.refuse_foreign(path)
    with _sound(path):
        connection = files.connect_to_read(path)
        try:
            version = schema.check(connection)
        except schema.NewerStoreError as error:
            raise BrokenStoreError(
                f"the store {path} was made by a later version of killtrace", "update killtrace"
            ) from error
        except schema.ForeignStoreError as error:
            raise files.foreign(path) from error
        return Store(connection, path, version)


def _broken(path: Path, fault: str) -> BrokenStoreError:
    return BrokenStoreError(
        f"the store {path} can't be read ({fault})",
        "the recorder sets a broken store aside when it starts; `sqlite3 STORE .recover` may help",
    )


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn what a damaged file does to SQLite and to the decoder into one error."""
    try:
        yield
    except (*schema.FAULTS, codec.DecodeError, OverflowError) as error:
        raise _broken(path, str(error)) from error


class Store:
    """A store, open for reading; a recorder may write to it meanwhile.

    Every query reads in small steps, each a snapshot of its own, so that a slow reader does not
    hold up the recorder's upkeep.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, version: int) -> None:
        self._connection = connection
        self._path = path
        self._version = version
        self._decoder: tuple[int, codec.Decoder] | None = None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # --- questions ---------------------------------------------------------------------------

    def records(self, query: Query = _ALL) -> Iterator[Record]:
        """The records that a query asks for, in the order in which they were recorded."""
        with _sound(self._path):
            for segment, row in self._rows(query):
                record = self._decode(segment, row)
                if query.targets_only or query.filter.wants(record):
                    yield record

    def deaths(
        self,
        target: Target = _ANY,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
        limit: int | None = None,
    ) -> list[Death]:
        """The deaths of processes that match a target, newest first, at most `limit`."""
        query = Query(target.as_filter(), since_ns, until_ns, targets_only=True)
        found: list[Death] = []
        with _sound(self._path):
            for segment, row in self._rows(query, newest_first=True, limit=limit):
                record = self._decode(segment, row)
                assert isinstance(record, Death)
                found.append(record)
                if limit is not None and len(found) >= limit:
                    break
        return found

    def signals_to(
        self, process: Process, *, until_ns: int | None = None, limit: int | None = None
    ) -> list[Signal]:
        """The signals to a process (its pid and start time), newest first, at most `limit`.

        `until_ns`: those before it only, such as a death's time.
        """
        query = Query(Filter(pids=frozenset({process.pid})), until_ns=until_ns, targets_only=True)
        found: list[Signal] = []
        with _sound(self._path):
            for segment, row in self._rows(query, newest_first=True):
                record = self._decode(segment, row)
                if not isinstance(record, Signal) or not _is_same(record.target, process):
                    continue
                found.append(record)
                if limit is not None and len(found) >= limit:
                    break
        return found

    def armed(self) -> list[ArmedSpan]:
        """When a recorder was armed, oldest first."""
        with _sound(self._path):
            rows = self._all(
                "SELECT boot_id, began_ns, last_ns, ended, scope FROM armed ORDER BY id"
            )
            for row in rows:
                codec.check_times(row[1], row[2])
            return [ArmedSpan(*row) for row in rows]

    def gaps(self, *, running: bool | None = None) -> list[Gap]:
        """When nothing was recorded, oldest first; the last one is open unless a recorder runs.

        `running` says whether one does; None: it is asked of the lock.
        """
        spans = self.armed()
        if not spans:
            return [Gap(None, None, "no recorder was ever armed")]
        gaps = [Gap(None, spans[0].began_ns, "nothing is kept from before")]
        for before, after in pairwise(spans):
            if before.ended not in ("clock changed", "reopened"):
                gaps.append(Gap(before.last_ns, after.began_ns, _reason(before, after)))
        if not (files.is_locked(self._path) if running is None else running):
            gaps.append(Gap(spans[-1].last_ns, None, _reason(spans[-1], None)))
        return gaps

    def span(self) -> tuple[int, int] | None:
        """The times of the oldest and of the newest record; None for an empty store."""
        with _sound(self._path):
            oldest, newest = self._all("SELECT min(oldest_ns), max(newest_ns) FROM segment")[0]
            if oldest is None:
                return None
            codec.check_times(oldest, newest)
            return oldest, newest

    def count(self) -> int:
        """How many records there are."""
        with _sound(self._path):
            return int(self._all("SELECT total(records) FROM segment")[0][0])

    def grouped(self, query: Query = _ALL) -> Iterator[Group]:
        """What a query asks for, counted in groups; the same group may come several times."""
        with _sound(self._path):
            for segment, sql, values in self._selections(query):
                decoder = self._decoder_of(segment)
                places = dict(self._places_reader(segment)())
                for row in self._all(_GROUPS.format(sql), values):
                    type_, signo, kind, target, sender, day, count, sum_ = row
                    if not isinstance(signo, int) or not isinstance(day, str):
                        raise codec.DecodeError("a record's columns are damaged")
                    yield Group(
                        type_,
                        signo,
                        None if kind is None else decoder.kind_name(kind),
                        places.get(target),
                        places.get(sender),
                        day,
                        count if type_ in (codec.DEATH, codec.ATTEMPT) else sum_,
                    )

    # --- rows --------------------------------------------------------------------------------

    def _all(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def segments(self) -> list[Segment]:
        """All segments, oldest first."""
        return [Segment(*row) for row in self._all(_SEGMENTS)]

    def _selections(
        self, query: Query, newest_first: bool = False
    ) -> Iterator[tuple[Segment, str, list[Any]]]:
        segments = self.segments()
        for segment in reversed(segments) if newest_first else segments:
            if not query.may_hold(segment):
                continue
            condition = query.condition(segment, self._places_reader(segment))
            if condition is not None:
                yield segment, condition.sql, condition.values

    def _places_reader(self, segment: Segment) -> Callable[[], Iterator[tuple[int, Process]]]:
        def read() -> Iterator[tuple[int, Process]]:
            decoder = self._decoder_of(segment)
            rows = self._all(
                "SELECT id, body FROM place WHERE id >= ? AND id < ?",
                (segment.first_place, segment.end_place),
            )
            return ((number, decoder.place(body)) for number, body in rows)

        return read

    def _rows(
        self, query: Query, *, newest_first: bool = False, limit: int | None = None
    ) -> Iterator[tuple[Segment, codec.RecordRow]]:
        chunk = _CHUNK if limit is None else min(limit, _CHUNK)
        for segment, sql, values in self._selections(query, newest_first):
            edge = None
            while True:
                beyond = "" if edge is None else f"AND record.id {'<' if newest_first else '>'} ?"
                order = "DESC" if newest_first else "ASC"
                rows = self._all(
                    f"SELECT {_COLUMNS} FROM record WHERE {sql} {beyond}"
                    f" ORDER BY record.id {order} LIMIT {chunk}",
                    values if edge is None else [*values, edge],
                )
                yield from ((segment, row) for row in rows)
                if len(rows) < chunk:
                    break
                edge = rows[-1][0]

    def _decode(self, segment: Segment, row: codec.RecordRow) -> Record:
        return self._decoder_of(segment).decode(row)

    def _decoder_of(self, segment: Segment) -> codec.Decoder:
        if self._decoder is None or self._decoder[0] != segment.id:
            self._decoder = (segment.id, codec.Decoder(segment.layout, self._fetch))
        return self._decoder[1]

    def _fetch(self, table: str, number: int) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(_PARTS[table], (number,)).fetchone()
        return row


def _is_same(one: Process, other: Process) -> bool:
    return one.pid == other.pid and one.start_time_ns == other.start_time_ns


def _reason(before: ArmedSpan, after: ArmedSpan | None) -> str:
    if before.ended is not None:
        return "the recorder was stopped"
    if after is not None and after.boot_id != before.boot_id:
        return "the machine went down without stopping the recorder"
    return "the recorder was killed, or failed"
