"""Writes batches of records into an open store; every batch is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from killtrace.model import Record
from killtrace.store import codec, schema

# Segments are what retention deletes and what queries skip: some ten megabytes each.
SEGMENT_RECORDS = 50_000
# Parts that are remembered; beyond that they are written again, which costs only space.
_REMEMBERED = 16_384

_INSERT_SEGMENT = "INSERT INTO segment VALUES (?,?,?,?,?,?,?,0,NULL,NULL,0,0,0)"
_UPDATE_SEGMENT = """
    UPDATE segment SET records = ?, oldest_ns = ?, newest_ns = ?, types = ?, signals = ?, kinds = ?
    WHERE id = ?
"""
_INSERT_ARMED = "INSERT INTO armed (boot_id, began_ns, last_ns, scope) VALUES (?,?,?,?)"


@dataclass(frozen=True)
class Armed:
    """A time in which the recorder ran; written with every batch, so its end is known too.

    `scope` is JSON: what it was armed for.  Times are wall clock.
    """

    boot_id: str | None
    began_ns: int
    scope: str


@dataclass
class _Segment:
    id: int
    records: int = 0
    oldest_ns: int | None = None
    newest_ns: int | None = None
    types: int = 0
    signals: int = 0
    kinds: int = 0

    def add(self, rows: Sequence[codec.RecordRow]) -> None:
        self.records += len(rows)
        for row in rows:
            self.types |= 1 << row[2]
            self.signals |= row[4]
            if row[8] is not None:
                self.kinds |= 1 << row[8]
        times = [row[1] for row in rows]
        if times:
            self.oldest_ns = min(times if self.oldest_ns is None else [self.oldest_ns, *times])
            self.newest_ns = max(times if self.newest_ns is None else [self.newest_ns, *times])


class Writer:
    """One connection's writing side; raises sqlite3.Error, and is then ready for another try."""

    def __init__(
        self, connection: sqlite3.Connection, *, segment_records: int = SEGMENT_RECORDS
    ) -> None:
        self._segment_records = segment_records
        schema.migrate(connection)
        self.connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        # A process that is killed loses nothing that was committed; a machine that loses power
        # loses what was not yet checkpointed, and the store stays sound (sqlite.org/wal.html).
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA journal_size_limit = 8388608")
        connection.execute("PRAGMA cache_size = -8192")
        self._armed: Armed | None = None
        self._armed_id: int | None = None
        self._segment: _Segment | None = None
        self._encoder = codec.Encoder(codec.Numbers())

    # --- armed or not ------------------------------------------------------------------------

    def arm(self, armed: Armed | None) -> None:
        """From the next batch on, the recorder counts as armed since `armed.began_ns`, or not."""
        self._armed, self._armed_id = armed, None

    def disarm(self, now_ns: int, reason: str) -> None:
        """Write down that the recorder is no longer armed, and why."""
        if self._armed_id is not None:
            self.connection.execute(
                "UPDATE armed SET last_ns = max(last_ns, ?), ended = ? WHERE id = ?",
                (now_ns, reason, self._armed_id),
            )
        self._armed = self._armed_id = None

    def _sign_of_life(self, now_ns: int) -> int | None:
        armed = self._armed
        if armed is None:
            return None
        if self._armed_id is None:
            values = (armed.boot_id, armed.began_ns, max(now_ns, armed.began_ns), armed.scope)
            return self.connection.execute(_INSERT_ARMED, values).lastrowid
        self.connection.execute(
            "UPDATE armed SET last_ns = max(last_ns, ?) WHERE id = ?", (now_ns, self._armed_id)
        )
        return self._armed_id

    # --- batches -----------------------------------------------------------------------------

    def new_segment(self) -> None:
        """Let the next batch begin a segment."""
        self._segment = None

    def write(self, records: Sequence[Record], now_ns: int) -> None:
        """Write a batch and a sign of life: all of it, or on sqlite3.Error none."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if records:
                self._insert(records)
            armed_id = self._sign_of_life(now_ns)
            connection.execute("COMMIT")
        except BaseException:
            # What the encoder remembers as written is not: a new segment forgets it all.
            self._segment = None
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._armed_id = armed_id
        if self._segment is not None and self._segment.records >= self._segment_records:
            self._segment = None

    def _insert(self, records: Sequence[Record]) -> None:
        segment = self._segment or self._begin_segment()
        encoder = self._encoder
        for record in records:
            encoder.encode(record)
        rows = encoder.take_rows()
        many = self.connection.executemany
        many("INSERT INTO place VALUES (?,?)", rows.places)
        many("INSERT INTO lineage VALUES (?,?)", rows.lineages)
        many("INSERT INTO origin VALUES (?,?)", rows.origins)
        many("INSERT INTO process VALUES (?,?,?,?,?)", rows.processes)
        many("INSERT INTO record VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows.records)
        segment.add(rows.records)
        self.connection.execute(
            _UPDATE_SEGMENT,
            (
                segment.records,
                segment.oldest_ns,
                segment.newest_ns,
                segment.types,
                segment.signals,
                segment.kinds,
                segment.id,
            ),
        )
        encoder.forget_beyond(_REMEMBERED)

    def _begin_segment(self) -> _Segment:
        """A segment that begins behind everything that is there."""
        row = self.connection.execute(
            "SELECT id, first_record + records, first_process, first_place, first_lineage,"
            " first_origin FROM segment ORDER BY id DESC LIMIT 1"
        ).fetchone() or (0, 1, 1, 1, 1, 1)
        last = {
            table: self.connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0] or 0
            for table in ("record", "process", "place", "lineage", "origin")
        }
        numbers = codec.Numbers(
            record=max(row[1], last["record"] + 1),
            process=max(row[2], last["process"] + 1),
            place=max(row[3], last["place"] + 1),
            lineage=max(row[4], last["lineage"] + 1),
            origin=max(row[5], last["origin"] + 1),
        )
        self.connection.execute(
            _INSERT_SEGMENT,
            (
                row[0] + 1,
                codec.layout_text(),
                numbers.record,
                numbers.process,
                numbers.place,
                numbers.lineage,
                numbers.origin,
            ),
        )
        self._encoder = codec.Encoder(numbers)
        self._segment = _Segment(row[0] + 1)
        return self._segment
