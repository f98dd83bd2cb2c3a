"""Compiled programs are kept as they are, found only by their own, and trusted from nobody."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from killtrace.probe import cache, source
from killtrace.probe.programs import (
    PROG_RAW_TRACEPOINT,
    Compiled,
    MapSpec,
    ProgramsError,
    relocatable,
    relocated,
)


def instruction(op: int, registers: int, value: int) -> bytes:
    return struct.pack("=BBhi", op, registers, 0, value)


def load_map(descriptor: int) -> bytes:
    return instruction(0x18, 1 << 4 | 2, descriptor) + instruction(0, 0, 0)


CODE = instruction(0xB7, 1, 7) + load_map(5) + instruction(0xB7, 0, 0) + load_map(6)
PROGRAM = relocatable(PROG_RAW_TRACEPOINT, CODE, {5: "signals", 6: "deaths"})
COMPILED = Compiled({"signals": MapSpec(4, 4, 4, 2, 0)}, {"raw_tracepoint__x": PROGRAM})


def test_maps_are_named_and_found_again() -> None:
    assert PROGRAM.maps == ((1, "signals"), (4, "deaths"))
    again = relocated(PROGRAM, {"signals": 77, "deaths": 78})
    assert again == CODE.replace(load_map(5), load_map(77)).replace(load_map(6), load_map(78))


@pytest.mark.parametrize("code", [load_map(9), instruction(0x18, 2 << 4, 5) + bytes(8)])
def test_what_is_no_map_is_refused(code: bytes) -> None:
    with pytest.raises(ProgramsError):
        relocatable(PROG_RAW_TRACEPOINT, code, {5: "signals"})


def test_packed_and_unpacked() -> None:
    assert Compiled.unpack(COMPILED.pack()) == COMPILED


@given(st.binary(max_size=100))
def test_other_bytes_are_refused(junk: bytes) -> None:
    with pytest.raises(ProgramsError):
        Compiled.unpack(junk)


@given(st.integers(0, len(COMPILED.pack()) - 1))
def test_a_file_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ProgramsError):
        Compiled.unpack(COMPILED.pack()[:length])


def test_kept_and_found_again(tmp_path: Path) -> None:
    where = tmp_path / "cache" / "programs"
    assert cache.load(where, "a") is None
    cache.save(where, "a", COMPILED)
    assert cache.load(where, "a") == COMPILED
    assert where.stat().st_mode & 0o777 == 0o700
    assert cache.load(where, "b") is None
    cache.forget(where, "a")
    assert cache.load(where, "a") is None


def test_what_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    where = tmp_path / "programs"
    cache.save(where, "a", COMPILED)
    (where / "a").chmod(0o666)
    assert cache.load(where, "a") is None
    (where / "a").chmod(0o600)
    where.chmod(0o777)
    assert cache.load(where, "a") is None
    cache.save(where, "b", COMPILED)
    assert not (where / "b").exists()
    where.chmod(0o700)
    (where / "link").symlink_to(where / "a")
    assert cache.load(where, "a") is not None
    assert cache.load(where, "link") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_what_is_another_users_is_not_trusted(tmp_path: Path) -> None:
    where = tmp_path / "programs"
    cache.save(where, "a", COMPILED)
    os.chown(where / "a", 65534, 65534)
    assert cache.load(where, "a") is None


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    where = tmp_path / "programs"
    for number in range(40):
        cache.save(where, f"{number}", COMPILED)
        os.utime(where / f"{number}", (number, number))
    left = {path.name for path in where.iterdir()}
    assert left == {f"{number}" for number in range(8, 40)}


def test_a_folder_that_cant_be_made_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache.save(tmp_path / "file" / "programs", "a", COMPILED)
    assert cache.load(tmp_path / "file" / "programs", "a") is None


def test_the_key_holds_all_that_programs_depend_on(tmp_path: Path) -> None:
    options = source.Options(signal_mask=1)
    notes = tmp_path / "notes"
    keys = {cache.key(options), cache.key(options, notes)}
    notes.write_bytes(b"another build")
    keys.add(cache.key(options, notes))
    for changed in ({"signal_mask": 2}, {"only_targets": True}, {"failed": True}):
        keys.add(cache.key(replace(options, **changed)))  # type: ignore[arg-type]
    keys.add(cache.key(replace(options, exec_entries=256)))
    assert len(keys) == 7
    assert cache.key(options) == cache.key(replace(options))


def test_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KILLTRACE_CACHE", raising=False)
    assert cache.folder() == cache.DEFAULT_FOLDER
    monkeypatch.setenv("KILLTRACE_CACHE", "/somewhere")
    assert cache.folder() == Path("/somewhere")
    monkeypatch.setenv("KILLTRACE_CACHE", "")
    assert cache.folder() is None


@pytest.mark.parametrize(
    ("text", "cpus"), [("0\n", [0]), ("0-3\n", [0, 1, 2, 3]), ("0-1,4,6-7\n", [0, 1, 4, 6, 7])]
)
def test_lists_of_cpus(tmp_path: Path, text: str, cpus: list[int]) -> None:
    (tmp_path / "online").write_text(text)
    assert source.cpus(tmp_path / "online") == cpus
