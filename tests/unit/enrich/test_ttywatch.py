"""New terminals are noticed: the events of inotify, and the looks that follow one."""

from __future__ import annotations

import queue
import struct
from pathlib import Path

from killtrace.enrich.ttywatch import TerminalWatch, new_names


def event(name: bytes, room: int) -> bytes:
    return struct.pack("=iIII", 1, 0x100, 0, room) + name.ljust(room, b"\0")


def test_new_names() -> None:
    assert new_names(event(b"3", 16) + event(b"12", 16) + event(b"", 0)) == ["3", "12", ""]
    assert new_names(b"") == [] and new_names(b"\0" * 7) == []


def test_a_new_terminal_is_looked_at_more_than_once(tmp_path: Path) -> None:
    told: queue.Queue[tuple[str, list[str]]] = queue.Queue()
    watch = TerminalWatch(
        lambda names: told.put(("made", list(names))),
        lambda names: told.put(("look", list(names))),
        tmp_path,
    )
    assert watch.start()
    assert told.get(timeout=10) == ("look", [])
    (tmp_path / "ptmx").touch()
    assert told.get(timeout=10) == ("made", [])
    (tmp_path / "7").touch()
    seven = [str(tmp_path / "7")]
    assert told.get(timeout=10) == ("made", seven)
    assert [told.get(timeout=10) for _ in range(3)] == [("look", seven)] * 3


def test_no_such_folder(tmp_path: Path) -> None:
    assert not TerminalWatch(print, print, tmp_path / "none").start()
