"""The store's files: who may read them, one recorder at a time, setting aside what is broken."""

from __future__ import annotations

import fcntl
import grp
import os
import sqlite3
import time
from pathlib import Path

from killtrace.errors import KilltraceError, NotPermittedError, OutputError
from killtrace.store import schema

DEFAULT_PATH = Path("/var/lib/killtrace/killtrace.db")
READERS_GROUP = "adm"
_FOLDER_MODE, _FILE_MODE = 0o750, 0o640
_KEPT_ASIDE = 3
_LOCK_TRIES, _LOCK_PAUSE_S = 5, 0.02
# SQLite's own names for the write-ahead log and its index.
_COMPANIONS = ("", "-wal", "-shm")


class StoreBusyError(KilltraceError):
    """Another recorder writes to this store."""


def make_folder(path: Path) -> None:
    """Make the folder of a store, root:adm 0750; one that is there stays as it is."""
    folder = path.parent
    try:
        if folder.is_dir():
            return
        folder.mkdir(mode=_FOLDER_MODE, parents=True)
        folder.chmod(_FOLDER_MODE)
        _give_to_readers(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def make_file(path: Path) -> None:
    """Make an empty store with its mode, which SQLite then gives to the files beside it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
        path.chmod(_FILE_MODE)
        _give_to_readers(path)
    except FileExistsError:
        return
    except OSError as error:
        raise _unwritable(path, error) from error


def _give_to_readers(path: Path) -> None:
    if os.geteuid() != 0:
        return
    try:
        os.chown(path, 0, grp.getgrnam(READERS_GROUP).gr_gid)
    except (KeyError, OSError):
        # No such group here, or a file system without owners: root alone may read, then.
        pass


def _unwritable(path: Path, error: OSError) -> KilltraceError:
    kind = NotPermittedError if isinstance(error, PermissionError) else OutputError
    return kind(
        f"the store can't be made at {path} ({error.strerror})",
        "run it with sudo, or give --store a path that can be written",
    )


def foreign(path: Path) -> KilltraceError:
    """The error for a file that is no store of killtrace: it is left alone."""
    return OutputError(f"{path} is not a store of killtrace", "give --store another path")


def refuse_foreign(path: Path) -> None:
    """Raise OutputError where a file at `path` never was a store.

    A broken store is set aside, and another file must not be: one has SQLite's header left, or
    a lock beside it from an earlier recorder.
    """
    try:
        if _lock_name(path).exists():
            return
        with open(path, "rb") as file:
            head = file.read(72)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(path, error) from error
    ours = schema.APPLICATION_ID.to_bytes(4, "big")
    if head and not head.startswith(b"SQLite format 3\0") and head[68:72] != ours:
        raise foreign(path)


def _lock_name(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


class Lock:
    """The right to write to a store, held until the process ends (flock(2)).

    It is a file of its own: closing any descriptor of the database itself would drop SQLite's
    locks on it (fcntl(2), "Advisory record locking").
    """

    def __init__(self, path: Path) -> None:
        """Take the lock of the store at `path`; StoreBusyError where another has it."""
        name = _lock_name(path)
        try:
            self._fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        except OSError as error:
            raise _unwritable(name, error) from error
        if not self._take():
            owner = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreBusyError(
                f"another recorder (pid {owner}) writes to {path}",
                "stop it, or give --store another path",
            )
        _give_to_readers(name)
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the pid is only for the message above

    def _take(self) -> bool:
        """Whether the lock was had; is_locked holds it for a moment, so one try is not enough."""
        for attempt in range(_LOCK_TRIES):
            if attempt:
                time.sleep(_LOCK_PAUSE_S)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            return True
        return False

    def release(self) -> None:
        """Give it up; the file stays, since removing it would race with the next recorder."""
        os.close(self._fd)


def set_aside(path: Path, now_ns: int) -> Path:
    """Rename a broken store and what belongs to it; returns the new name.

    The three newest that were set aside are kept.  OutputError where it can't be renamed.
    """
    aside = path.with_name(f"{path.name}.corrupt-{now_ns // 1_000_000_000}")
    number = 0
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{now_ns // 1_000_000_000}.{number}")
    try:
        for suffix in _COMPANIONS:
            old = path.with_name(path.name + suffix)
            if old.exists():
                old.rename(aside.with_name(aside.name + suffix))
        old_ones = sorted(
            (
                p
                for p in path.parent.glob(f"{path.name}.corrupt-*")
                if not p.name.endswith(("-wal", "-shm"))
            ),
            key=lambda p: p.stat().st_mtime_ns,
        )
        for old in old_ones[:-_KEPT_ASIDE]:
            if old != aside:
                for suffix in _COMPANIONS:
                    old.with_name(old.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"the broken store {path} can't be set aside ({error.strerror})",
            "remove it, or give --store another path",
        ) from error
    return aside


def size_bytes(path: Path) -> int:
    """What the store takes on the disk, its write-ahead log included."""
    total = 0
    for suffix in _COMPANIONS[:2]:
        try:
            total += path.with_name(path.name + suffix).stat().st_size
        except OSError:
            pass
    return total


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, to notice that the file was moved or removed; None: it is gone."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino


def connect(path: Path) -> sqlite3.Connection:
    """Open a store for writing, in autocommit mode."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=2.0, check_same_thread=False)
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a store for reading, as whoever may read its files.

    Who may write to them opens them as a writer does, and so leaves no empty log behind.  Who may
    not needs the log and its index to be there; where nobody has the store open, they are not,
    and the file is read as it lies (`immutable`, sqlite.org/uri.html).
    """
    wal = path.with_name(path.name + "-wal")
    modes = ["mode=ro", "mode=ro&immutable=1"] if wal.exists() else ["mode=ro&immutable=1"]
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        modes.insert(0, "mode=rw")
    for mode in modes:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, timeout=2.0
        )
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if mode == modes[-1]:
                raise
        else:
            break
    return connection


def is_locked(path: Path) -> bool:
    """Whether a recorder has the store at `path` now; False where that can't be seen."""
    try:
        fd = os.open(_lock_name(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
