"""The recorder's promises: nothing due is lost, whatever happens to the clock and the disk."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_fakes import NOW_NS, Bench, S, death, kills, process, signal

from killtrace.errors import KilltraceError, NotPermittedError, OutputError
from killtrace.model import Lost, Record, Signal
from killtrace.store import files, schema
from killtrace.store.files import StoreBusyError
from killtrace.store.fold import fold
from killtrace.store.query import Query
from killtrace.store.reader import open_store
from killtrace.store.recorder import Recorder
from killtrace.store.schema import MIGRATIONS

DAY = 86400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "killtrace.db"


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    made = Bench(path)
    yield made
    if made.recorder._lock._fd >= 0:
        made.recorder.close()


def content(path: Path) -> list[Record]:
    with open_store(path) as store:
        return list(store.records())


def total(records: list[Record]) -> int:
    """Signals, repeats counted."""
    return sum(1 + record.repeats for record in records if isinstance(record, Signal))


# --- batches ---------------------------------------------------------------------------------


def test_records_are_written_within_a_tenth_of_a_second(path: Path) -> None:
    bench = Bench(path)
    bench.recorder.write(signal())
    bench.recorder.tick()
    assert content(path) == []
    assert bench.recorder.wait_ms(1000) <= 101
    bench.pause(0.1)
    assert content(path) == [signal()]
    bench.recorder.close()


def test_an_idle_recorder_waits_long(bench: Bench) -> None:
    bench.pause(0.5)
    assert bench.recorder.wait_ms(1000) > 400


def test_a_storm_is_written_without_a_tick(path: Path) -> None:
    bench = Bench(path)
    for record in kills(5000):
        assert bench.recorder.write(record)
    assert len(content(path)) >= 8000
    bench.recorder.close()
    assert content(path) == list(kills(5000))


def test_closing_writes_what_waits(path: Path) -> None:
    bench = Bench(path)
    bench.recorder.write(signal())
    assert bench.recorder.close() == 0
    assert content(path) == [signal()]


def test_files_are_for_root_and_the_readers_only(bench: Bench, path: Path) -> None:
    bench.write(signal())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o640, file


# --- identical signals -----------------------------------------------------------------------


def test_the_first_of_a_run_stays_and_the_rest_is_one_record(bench: Bench, path: Path) -> None:
    run = [signal(0, time_ns=NOW_NS + n) for n in range(500)]
    bench.write(*run)
    assert content(path) == [run[0], replace(run[-1], repeats=498)]


@given(
    st.lists(
        st.builds(
            lambda number, signo, repeats, at: signal(
                number, signo=signo, repeats=repeats, time_ns=at
            ),
            st.integers(0, 2),
            st.sampled_from([9, 15]),
            st.integers(0, 3),
            st.integers(NOW_NS, NOW_NS + 100),
        ),
        max_size=30,
    )
)
def test_folding_never_changes_a_count(records: list[Signal]) -> None:
    def sums(some: list[Record]) -> dict[object, int]:
        out: dict[object, int] = {}
        for one in some:
            assert isinstance(one, Signal)
            key = (one.signo, one.target.pid)
            out[key] = out.get(key, 0) + 1 + one.repeats
        return out

    folded = fold(records)
    assert sums(folded) == sums(list(records))
    assert len(folded) <= 2 * len(sums(folded))


def test_what_differs_in_anything_is_not_folded() -> None:
    first = signal()
    others = [
        replace(first, code=-6),
        replace(first, result="ignored"),
        replace(first, scope="thread"),
        replace(first, sender=None),
        replace(first, target=replace(first.target, uid=0)),
        replace(first, origin=replace(first.origin, certain=False)),
    ]
    assert fold([first, *others]) == [first, *others]


# --- armed or not ----------------------------------------------------------------------------


def test_a_stop_is_a_gap(path: Path) -> None:
    bench = Bench(path)
    bench.pause(60)
    bench.recorder.close()
    bench.clock.sleep(600)
    bench.start()
    with open_store(path) as store:
        spans, gaps = store.armed(), store.gaps()
    assert [(s.began_ns - NOW_NS, s.last_ns - NOW_NS, s.ended) for s in spans] == [
        (0, 60 * S, "stopped"),
        (660 * S, 660 * S, None),
    ]
    assert [(gap.began_ns, gap.ended_ns, gap.reason) for gap in gaps] == [
        (None, NOW_NS, "nothing is kept from before"),
        (NOW_NS + 60 * S, NOW_NS + 660 * S, "the recorder was stopped"),
    ]
    bench.recorder.close()
    with open_store(path) as store:
        assert store.gaps()[-1].ended_ns is None


def test_an_idle_recorder_gives_signs_of_life(bench: Bench, path: Path) -> None:
    for _ in range(30):
        bench.pause(1)
    with open_store(path) as store:
        (span,) = store.armed()
    assert NOW_NS + 25 * S <= span.last_ns <= NOW_NS + 30 * S


def test_a_recorder_that_was_killed_leaves_a_gap_from_its_last_sign_of_life(path: Path) -> None:
    child = os.fork()
    if child == 0:
        bench = Bench(path)
        bench.pause(20)
        os._exit(0)  # as suddenly as kill -9
    os.waitpid(child, 0)
    with open_store(path) as store:
        assert store.gaps()[-1].reason == "the recorder was killed, or failed"
        assert store.gaps()[-1].began_ns == NOW_NS + 20 * S
        assert store.armed()[0].boot_id == Path("/proc/sys/kernel/random/boot_id").read_text()[:36]


def test_a_reboot_is_told_from_a_kill(path: Path) -> None:
    Bench(path).recorder.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE armed SET ended = NULL, boot_id = 'another'")
    connection.commit()
    connection.close()
    bench = Bench(path)
    with open_store(path) as store:
        assert "machine went down" in store.gaps()[1].reason
    bench.recorder.close()


def test_not_armed_until_it_is_said(path: Path) -> None:
    recorder = Recorder(path, tell=print)
    recorder.close()
    with open_store(path) as store:
        assert store.armed() == []
        assert [gap.reason for gap in store.gaps()] == ["no recorder was ever armed"]


# --- clocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-400 * DAY, -3600, 3600, 400 * DAY])
def test_a_clock_that_jumps(path: Path, jump_s: int) -> None:
    bench = Bench(path, retain_ns=30 * DAY * S)
    bench.write(signal(0, time_ns=bench.clock.wall_ns()))
    before_ns = bench.clock.wall_ns()
    bench.clock.offset += jump_s * S
    bench.pause(1)
    bench.write(signal(1, time_ns=bench.clock.wall_ns()))
    for _ in range(10):
        bench.pause(1)
    assert [record.time_ns - NOW_NS for record in content(path)] == [
        0,
        bench.clock.wall_ns() - NOW_NS - int(10.2 * S),
    ], "a wrong clock deletes nothing"
    assert any("clock jumped" in line for line in bench.told)
    with open_store(path) as store:
        first, second = store.armed()
        assert len(store.gaps()) == 1, "a change of the clock is no gap"
    assert first.ended == "clock changed"
    assert abs(first.last_ns - before_ns) <= 2 * S
    assert abs(second.began_ns - (before_ns + jump_s * S)) <= 2 * S
    bench.recorder.close()


def test_a_clock_that_jumped_ahead_and_stays_there_deletes_in_the_end(path: Path) -> None:
    bench = Bench(path, retain_ns=30 * DAY * S)
    bench.write(signal(0))
    bench.clock.offset += 400 * DAY * S
    bench.pause(1)
    bench.write(signal(1, time_ns=bench.clock.wall_ns()))
    for _ in range(4000):
        bench.pause(1)
    assert len(content(path)) == 1
    bench.recorder.close()


def test_ntps_small_steps_are_no_jump(bench: Bench) -> None:
    for _ in range(100):
        bench.clock.offset += S // 2
        bench.pause(1)
    assert bench.told == []


# --- retention -------------------------------------------------------------------------------


def test_old_records_go_and_young_ones_stay(path: Path) -> None:
    bench = Bench(path, retain_ns=30 * DAY * S)
    for day in range(40):
        now_ns = bench.clock.wall_ns()
        sent = signal(day, time_ns=now_ns)
        bench.write(sent, death(sent))
        for _ in range(5):
            bench.pause(DAY / 5)
    for _ in range(100):
        bench.pause(1)
    ages = [(bench.clock.wall_ns() - record.time_ns) / S / DAY for record in content(path)]
    assert 28 <= max(ages) <= 32
    with open_store(path) as store:
        assert store.count() == len(ages)
    bench.recorder.close()
    left = sqlite3.connect(path)
    for table in ("record", "process", "origin", "place", "lineage"):
        rows = left.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        assert rows <= len(ages) * 2, table


def test_a_size_is_kept_while_records_flow(path: Path) -> None:
    limit = 4 << 20
    bench = Bench(path, max_bytes=limit)
    largest = 0
    for round_ in range(100):
        bench.write(*kills(400, first=round_ * 400))
        for _ in range(4):
            bench.pause(0.3)
        largest = max(largest, path.stat().st_size)
    assert largest < limit * 1.5
    for _ in range(50):
        bench.pause(1)
    assert path.stat().st_size <= limit * 1.1
    records = content(path)
    assert records[-1] == list(kills(1, first=39_999))[1]
    assert len(records) > 5000, "no more goes than must"
    bench.recorder.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_deleting_goes_on_after_a_crash(path: Path) -> None:
    bench = Bench(path)
    bench.write(*kills(100))
    bench.recorder._writer.new_segment()  # type: ignore[union-attr]
    bench.write(*kills(5, first=100))
    bench.recorder.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DELETE FROM segment WHERE id = 1")  # where a crash may leave it
    connection.close()
    assert content(path) == list(kills(5, first=100))
    bench.start()
    for _ in range(20):
        bench.pause(1)
    bench.recorder.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM record").fetchone()[0] == 10
    assert content(path) == list(kills(5, first=100))


# --- disks -----------------------------------------------------------------------------------


def test_a_full_disk_is_told_counted_and_survived(path: Path) -> None:
    bench = Bench(path)
    bench.write(*kills(100))
    connection = bench.recorder._writer.connection  # type: ignore[union-attr]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    written = 200
    for round_ in range(1, 30):
        for record in kills(1000, first=round_ * 1000):
            bench.recorder.write(record)
            written += 1
        bench.pause(2)
    assert [line for line in bench.told if "can't write" in line] == bench.told
    assert len(bench.told) == 1, "told once"
    connection.execute("PRAGMA max_page_count = 1000000")
    for _ in range(3):
        bench.pause(2)
    records = content(path)
    lost = sum(record.count for record in records if isinstance(record, Lost))
    assert lost > 0
    assert {record.buffer for record in records if isinstance(record, Lost)} == {"store"}
    assert len(records) - 1 + lost == written
    assert "again" in bench.told[-1]
    assert str(lost) in bench.told[-1]
    assert bench.recorder.close() == 0


def test_what_is_left_unwritten_at_the_end_is_told(path: Path) -> None:
    bench = Bench(path)
    bench.write(signal(0))
    bench.recorder._writer.connection.execute("PRAGMA query_only = ON")  # type: ignore[union-attr]
    bench.write(*kills(3, first=1))
    assert bench.recorder.close() == 6
    assert "6 records could not be written" in bench.told[-1]


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            os._exit(_try_to_record(tmp_path / "k.db"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77
    else:
        tmp_path.chmod(0o500)
        assert _try_to_record(tmp_path / "k.db") == 77


def _try_to_record(path: Path) -> int:
    try:
        Recorder(path)
    except NotPermittedError as error:
        return error.exit_status
    return 0


def test_two_recorders(bench: Bench, path: Path) -> None:
    with pytest.raises(StoreBusyError, match=f"pid {os.getpid()}"):
        Recorder(path)
    bench.recorder.close()
    bench.start()


def test_a_store_that_is_moved_away_gets_a_new_one(path: Path) -> None:
    bench = Bench(path)
    bench.write(*kills(2))
    moved = path.with_name("moved.db")
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).rename(moved.with_name(moved.name + suffix))
    bench.write(*kills(3, first=2))
    assert content(path) == list(kills(3, first=2))
    assert content(moved) == list(kills(2))
    bench.recorder.close()


def test_hangup_opens_the_store_anew(path: Path) -> None:
    bench = Bench(path)
    bench.recorder.write(signal(0))
    bench.recorder.reopen()
    bench.write(signal(1))
    assert content(path) == [signal(0), signal(1)]
    with open_store(path) as store:
        assert [span.ended for span in store.armed()] == ["reopened", None]
        assert len(store.gaps()) == 1
    bench.recorder.close()


# --- stores that are broken ------------------------------------------------------------------


def _old_store(path: Path) -> None:
    bench = Bench(path)
    bench.write(*kills(300))
    bench.recorder.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"\xff" * len(content),
        lambda content: content[:100],
        lambda content: b"SQLite format 3\0" + b"\xee" * 8192,
        lambda content: content[:8192] + b"\x55" * 4096 + content[12288:],
        lambda content: content[:20] + b"\xff" * 80 + content[100:],
    ],
)
def test_a_broken_store_is_set_aside(path: Path, damage: object) -> None:
    _old_store(path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    damaged = path.read_bytes()
    bench = Bench(path)
    assert len(bench.told) == 1
    assert "broken" in bench.told[0]
    assert "set aside as" in bench.told[0]
    bench.write(*kills(2))
    bench.recorder.close()
    assert content(path) == list(kills(2))
    (aside,) = path.parent.glob("killtrace.db.corrupt-*")
    assert aside.read_bytes() == damaged


@pytest.mark.parametrize("seed", range(40))
def test_bytes_overwritten_at_random_stop_no_recorder(path: Path, seed: int) -> None:
    _old_store(path)
    damaged = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for _ in range(chance.choice([1, 30, 1000])):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    path.write_bytes(damaged)
    try:
        bench = Bench(path, retain_ns=DAY * S)
    except OutputError as error:
        # The one byte that says which version, or whose database, it is.
        assert "later version" in str(error) or "not a store" in str(error)
        return
    for number in range(20):
        bench.write(*kills(20, first=1000 + number * 20))
        bench.pause(3)
    assert bench.recorder.close() == 0
    if path.with_name("killtrace.db.corrupt-0").exists():
        assert any("set aside" in line for line in bench.told)
    try:
        kept = content(path)
    except KilltraceError:
        return  # what was damaged was old
    assert kept[-1] == list(kills(1, first=1399))[1]


def test_three_that_were_set_aside_are_kept(path: Path) -> None:
    _old_store(path)
    for number in range(5):
        path.write_bytes(b"SQLite format 3\0" + bytes([number]) * 5000)
        os.utime(path, ns=(number, number))
        Bench(path).recorder.close()
    aside = sorted(file.read_bytes()[16] for file in path.parent.glob("*.corrupt-*"))
    assert aside == [2, 3, 4]


def test_a_file_that_never_was_a_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0:root:/root:/bin/bash\n")
    for _ in range(2):
        with pytest.raises(OutputError, match="not a store"):
            Recorder(path)
    assert [file.name for file in tmp_path.iterdir()] == ["passwd"]


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(OutputError, match="not a store"):
        Recorder(path)
    assert path.read_bytes() == before


def test_a_store_of_a_later_version_is_left_alone(path: Path) -> None:
    _old_store(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    with pytest.raises(OutputError, match="later version"):
        Recorder(path)
    assert not list(path.parent.glob("*.corrupt-*"))


# --- versions --------------------------------------------------------------------------------


def test_a_store_of_an_earlier_version_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(connection)
    later = (*MIGRATIONS, ("ALTER TABLE armed ADD COLUMN colour TEXT", "CREATE TABLE extra (x)"))
    schema.migrate(connection, later)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(later)
    connection.execute("SELECT colour FROM armed, extra").fetchall()


def test_a_migration_that_fails_leaves_the_version_before(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "k.db", isolation_level=None)
    schema.migrate(connection)
    later = (*MIGRATIONS, ("CREATE TABLE extra (x)", "CREATE TABLE record (x)"))
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection, later)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("SELECT * FROM extra")


# --- secrets ---------------------------------------------------------------------------------


def test_redacted_records_hold_no_secret_in_any_byte_of_the_store(path: Path) -> None:
    bench = Bench(path, redact=True)
    secret = "hunter2-very-secret"
    target = process(7, "mysqld", f"--password={secret}", title=f"mysqld: {secret}")
    sent = signal(0, target=target)
    bench.write(sent, death(sent))
    bench.recorder.close()
    assert b"--password=***" in path.read_bytes()
    assert secret.encode() not in path.read_bytes()


def test_scope_and_boot_are_kept(path: Path) -> None:
    recorder = Recorder(path)
    recorder.arm(json.dumps({"signals": ["SIGTERM"]}))
    recorder.close()
    with open_store(path) as store:
        assert json.loads(store.armed()[0].scope) == {"signals": ["SIGTERM"]}
        assert list(store.records(Query(since_ns=1))) == []
        assert files.is_locked(path) is False
