"""Moves the write-ahead log into the database, beside the writer: it never waits for the disk."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from killtrace.store import files


class Checkpointer:
    """A thread that checkpoints when the log has grown; passively: it never blocks the writer.

    SQLite drops the interpreter's lock for the whole of it, the fsync(2) included.
    """

    def __init__(self, path: Path, wal_bytes: int) -> None:
        """Begin; `wal_bytes` is how long the log may be."""
        self._wal_bytes = wal_bytes
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._due = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """Checkpoint soon, if the log is long."""
        try:
            if self._wal.stat().st_size >= self._wal_bytes:
                self._due.set()
        except OSError:
            pass

    def close(self) -> None:
        """End the thread."""
        self._ending = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while True:
            self._due.wait()
            self._due.clear()
            if self._ending:
                break
            # A full disk or a damaged page: the log stays, and the writer meets the same and tells.
            try:
                connection = connection or files.connect(self._path)
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error:
                pass
        if connection is not None:
            connection.close()
