"""The store's tables, their versions, and the way from an older version to this one.

Every record is cut into parts that repeat and parts that don't.  Processes, the places they ran in
(name, user, cgroup, unit, container), their lineages and the origins of signals are written once
a segment and referred to by number.  Parts are JSON arrays whose fields the segment's `layout`
names, so that a field that a later version adds needs no migration.

A segment is a run of records: numbers of one segment never refer to another, so the oldest can be
deleted by ranges of row ids, and a query skips the segments that can't hold an answer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

# "ktrk", shown by file(1): SQLite's application_id says whose database this is.
APPLICATION_ID = 0x6B74726B

_VERSION_1 = (
    """
    CREATE TABLE segment (
        id INTEGER PRIMARY KEY,
        layout TEXT NOT NULL,           -- JSON: the fields of each part, the kinds of origins
        first_record INTEGER NOT NULL,  -- row ids: where this segment begins in each table
        first_process INTEGER NOT NULL,
        first_place INTEGER NOT NULL,
        first_lineage INTEGER NOT NULL,
        first_origin INTEGER NOT NULL,
        records INTEGER NOT NULL,
        oldest_ns INTEGER,              -- the records' own times, wall clock
        newest_ns INTEGER,
        types INTEGER NOT NULL,         -- bits of record types, signals and kinds that occur
        signals INTEGER NOT NULL,
        kinds INTEGER NOT NULL
    )
    """,
    "CREATE TABLE place (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE lineage (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE origin (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    """
    CREATE TABLE process (
        id INTEGER PRIMARY KEY,
        pid INTEGER NOT NULL,
        place INTEGER NOT NULL,
        lineage INTEGER NOT NULL,
        body TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE record (
        id INTEGER PRIMARY KEY,
        time_ns INTEGER NOT NULL,
        type INTEGER NOT NULL,          -- 0 signal, 1 death, 2 attempt, 3 lost
        signo INTEGER NOT NULL,         -- a death's: of its exit, 0 where there is none
        signals INTEGER NOT NULL,       -- bit n - 1 for each signal n; a death's: of its story
        repeats INTEGER NOT NULL,
        target INTEGER,                 -- process.id; a death's own process
        sender INTEGER,                 -- process.id; a death's: of its cause
        kind INTEGER,                   -- of its origin, or of its cause's
        origin INTEGER,                 -- origin.id
        body TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE armed (
        id INTEGER PRIMARY KEY,
        boot_id TEXT,
        began_ns INTEGER NOT NULL,
        last_ns INTEGER NOT NULL,       -- the last sign of life
        ended TEXT,                     -- why it ended; NULL where the recorder never said
        scope TEXT NOT NULL             -- JSON: the signals and filters that it was armed for
    )
    """,
    "CREATE INDEX process_pid ON process (pid)",
    "CREATE INDEX process_place ON process (place)",
    "CREATE INDEX record_target ON record (target) WHERE target IS NOT NULL",
    "CREATE INDEX record_sender ON record (sender) WHERE sender IS NOT NULL",
)

# One entry a version: the statements that make it of the version before.
MIGRATIONS: Sequence[Sequence[str]] = (_VERSION_1,)
VERSION = len(MIGRATIONS)


class NewerStoreError(Exception):
    """The store was made by a later killtrace, whose version of the schema this one can't know."""


class ForeignStoreError(Exception):
    """An SQLite database, but not of killtrace."""


# What passes by itself, or when someone makes room; every other fault is in the file.
_PASSING = (
    "database or disk is full",
    "disk i/o error",
    "database is locked",
    "database table is locked",
    "unable to open database file",
    "attempt to write a readonly database",
    "interrupted",
    "out of memory",
)


# What SQLite raises; its message may quote damaged text, which then is no UTF-8.
FAULTS = (sqlite3.Error, UnicodeDecodeError)


def is_broken(error: Exception) -> bool:
    """Whether one of FAULTS means that the store's content is damaged.

    By SQLite's message (sqlite3_errstr): Python 3.10 doesn't hand out the result code.
    """
    return not str(error).lower().startswith(_PASSING)


def check(connection: sqlite3.Connection) -> int:
    """The schema's version, 0 for an empty file.

    ForeignStoreError, NewerStoreError; sqlite3.DatabaseError where the file is no database.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise ForeignStoreError
    if version > VERSION:
        raise NewerStoreError
    return version if tables else 0


def migrate(
    connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS
) -> None:
    """Bring the store to this version, each step a transaction of its own.

    The connection must be in autocommit mode (isolation_level None).
    """
    version = check(connection)
    if version == 0:
        # Only an empty file takes this; free pages can then be given back without a VACUUM.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for number, statements in enumerate(migrations, start=1):
        if number <= version:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
