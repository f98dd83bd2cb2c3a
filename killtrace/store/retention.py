"""Keeps a store within an age and a size, a little at a time, while records flow."""

from __future__ import annotations

import sqlite3

# Rows and pages of one step: some ten milliseconds of work.
_ROWS, _PAGES = 4000, 1000
_FUTURE_NS = 24 * 3600 * 1_000_000_000
_TABLES = ("record", "process", "place", "lineage", "origin")
# Free pages are used again; beyond this share of the file they are given back.
_SPARE = 0.05


class Retention:
    """Deletes whole segments, oldest first: by age, and where the store is too large.

    `retain_ns` and `max_bytes` are None for no bound.  The newest segment is never deleted.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        retain_ns: int | None,
        max_bytes: int | None,
    ) -> None:
        self._connection = connection
        self._retain_ns = retain_ns
        self._max_bytes = max_bytes
        self.is_cornered = False
        self.has_more = False
        self._garbage: dict[str, int] = {}
        self._find_garbage()

    def step(self, now_ns: int) -> None:
        """Do a bounded part of the work; `now_ns` is wall clock.

        `has_more` says afterwards that more is to do, `is_cornered` that the store is too large
        and has only one segment: it needs a new one.
        """
        self.is_cornered = False
        if self._garbage:
            self._delete_some()
            self.has_more = True
        elif self._too_old(now_ns) or self._too_large():
            self.has_more = self._drop_oldest()
            self.is_cornered = not self.has_more
        else:
            self.has_more = self._give_back()

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0] or 0)

    def _too_old(self, now_ns: int) -> bool:
        if self._retain_ns is None:
            return False
        # A time in the future was written while the clock was wrong: the next segments then tell
        # how old the first one is.
        ends = self._connection.execute(
            "SELECT newest_ns FROM segment WHERE newest_ns <= ? ORDER BY id LIMIT 1",
            (now_ns + _FUTURE_NS,),
        ).fetchone()
        segments = self._number("SELECT count(*) FROM segment")
        return ends is not None and segments > 1 and int(ends[0]) < now_ns - self._retain_ns

    def _too_large(self) -> bool:
        if self._max_bytes is None:
            return False
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._number("PRAGMA page_size") > self._max_bytes

    def _drop_oldest(self) -> bool:
        connection = self._connection
        rows = connection.execute("SELECT id FROM segment ORDER BY id LIMIT 2").fetchall()
        if len(rows) < 2:
            return False
        # Readers know of no record without its segment: it is gone for them at once.
        connection.execute("DELETE FROM segment WHERE id = ?", rows[0])
        self._find_garbage()
        self._drop_armed()
        return True

    def _drop_armed(self) -> None:
        """Forget when the recorder was armed, before the oldest record that is left."""
        oldest = self._number("SELECT min(oldest_ns) FROM segment")
        self._connection.execute(
            "DELETE FROM armed WHERE last_ns < ? AND id < (SELECT max(id) FROM armed)", (oldest,)
        )

    def _find_garbage(self) -> None:
        """What lies before the first segment: from now, or from before a crash."""
        row = self._connection.execute(
            "SELECT first_record, first_process, first_place, first_lineage, first_origin"
            " FROM segment ORDER BY id LIMIT 1"
        ).fetchone()
        if row is None:
            return
        for table, first in zip(_TABLES, row, strict=True):
            oldest = self._number(f"SELECT min(id) FROM {table}")
            if 0 < oldest < first:
                self._garbage[table] = first

    def _delete_some(self) -> None:
        table, first = next(iter(self._garbage.items()))
        oldest = self._number(f"SELECT min(id) FROM {table}") or first
        end = min(oldest + _ROWS, first)
        self._connection.execute(f"DELETE FROM {table} WHERE id < ?", (end,))
        if end >= first:
            del self._garbage[table]

    def _give_back(self) -> bool:
        free = self._number("PRAGMA freelist_count")
        if free <= _PAGES:
            return False
        pages = self._number("PRAGMA page_count")
        size = pages * self._number("PRAGMA page_size")
        above = self._max_bytes is not None and size > self._max_bytes
        if not above and free <= pages * _SPARE:
            return False
        # Each step of the statement frees one page: it must be run to its end.
        self._connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
        return True
