"""What the store finds by index is what the live filter would have shown."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_fakes import NOW_NS, RECORDS, SENT, Bench, S, death, kills, process, signal

from killtrace.errors import NotFoundError, OutputError
from killtrace.filters import Filter
from killtrace.model import Attempt, Container, Death, Lost, Origin, Process, Record, Signal
from killtrace.store import codec, files, schema
from killtrace.store.query import Query
from killtrace.store.reader import BrokenStoreError, Store, Target, open_store
from killtrace.store.stats import Stats
from killtrace.store.writer import Writer


def stored(path: Path, records: Sequence[Record], per_segment: int = 3) -> Store:
    """A store of these records, in many small segments."""
    connection = sqlite3.connect(path, isolation_level=None)
    writer = Writer(connection, segment_records=per_segment)
    for record in records:
        writer.write([record], NOW_NS)
    connection.close()
    return open_store(path)


def _sets(values: list[object]) -> st.SearchStrategy[frozenset[object]]:
    return st.just(frozenset()) | st.frozensets(st.sampled_from(values), min_size=1, max_size=2)


def _tuples(values: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.just(()) | st.lists(st.sampled_from(values), min_size=1, max_size=2).map(tuple)


FILTERS = st.builds(
    Filter,
    pids=_sets([0, 1, 2]),
    senders=_sets([0, 1, 2]),
    signals=_sets([1, 9, 15, 64]),
    comms=_tuples(["sh", "ng*", "python?", "caf*"]),
    uids=_sets([0, 1]),
    cgroups=_tuples(["/a", "/a/b"]),
    units=_tuples(["nginx", "*.service"]),
    containers=_tuples(["web", "d*"]),
    origins=_sets(["process", "oom", "kernel", "terminal"]),
    deaths_only=st.booleans(),
)
TIMES = st.none() | st.integers(NOW_NS - 10 * S, NOW_NS + 10 * S)


def expected(records: Sequence[Record], query: Query) -> list[Record]:
    return [
        record
        for record in records
        if query.filter.wants(record)
        and (query.attempts or not isinstance(record, Attempt))
        and (query.since_ns is None or record.time_ns >= query.since_ns)
        and (query.until_ns is None or record.time_ns < query.until_ns)
    ]


@given(
    records=st.lists(RECORDS, max_size=12),
    queries=st.lists(
        st.builds(Query, filter=FILTERS, since_ns=TIMES, until_ns=TIMES, attempts=st.booleans()),
        min_size=4,
        max_size=4,
    ),
)
@settings(max_examples=60, deadline=None)
def test_the_store_finds_what_the_filter_wants(
    records: list[Record], queries: list[Query], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / "k.db"
    with stored(path, records) as store:
        for query in queries:
            wanted = expected(records, query)
            assert list(store.records(query)) == wanted
            sums: Counter[int] = Counter()
            for group in store.grouped(query):
                sums[group.type] += group.count
            assert sums[codec.SIGNAL] == sum(1 + r.repeats for r in wanted if _is_signal(r))
            assert sums[codec.DEATH] == sum(isinstance(r, Death) for r in wanted)
            assert sums[codec.ATTEMPT] == sum(isinstance(r, Attempt) for r in wanted)


def _is_signal(record: Record) -> bool:
    return isinstance(record, Signal)


@pytest.fixture
def story(tmp_path: Path) -> Store:
    """Sixty kills, of which the 7th, 27th and 47th hit nginx in a container, by the OOM killer."""
    records: list[Record] = []
    for number in range(60):
        sent = signal(number)
        if number % 20 == 7:
            target = replace(
                process(7, "/usr/sbin/nginx", "-g", "daemon off;"),
                start_time_ns=NOW_NS + number,
                unit="nginx.service",
                container=Container("docker", id="abcdef0123456789", name="web"),
            )
            oom = Origin("oom", "out of memory", True, {"scope": "memcg"})
            sent = signal(number, signo=9, sender=None, target=target, origin=oom)
        records += [sent, death(sent)]
    return stored(tmp_path / "k.db", records, per_segment=7)


@pytest.mark.parametrize(
    "target",
    [
        Target(pid=7),
        Target(comm="nginx"),
        Target(comm="ng*"),
        Target(unit="nginx"),
        Target(unit="nginx.service"),
        Target(container="web"),
        Target(pid=7, comm="nginx", unit="nginx", container="web"),
    ],
)
def test_deaths_of_a_target_newest_first(story: Store, target: Target) -> None:
    found = story.deaths(target)
    assert [each.process.start_time_ns for each in found] == [NOW_NS + n for n in (47, 27, 7)]
    assert [d.time_ns for d in story.deaths(target, limit=2)] == [d.time_ns for d in found[:2]]
    assert story.deaths(target, until_ns=found[1].time_ns, limit=1) == [found[2]]
    assert story.deaths(target, since_ns=found[1].time_ns) == found[:2]


@pytest.mark.parametrize("target", [Target(pid=8), Target(comm="pkill"), Target(unit="cron")])
def test_senders_are_no_targets(story: Store, target: Target) -> None:
    assert story.deaths(target) == []


def test_the_latest_deaths_of_all(story: Store) -> None:
    assert [each.process.pid for each in story.deaths(limit=3)] == [2059, 2058, 2057]


def test_signals_to_one_process_and_not_to_another_of_its_pid(story: Store) -> None:
    last = story.deaths(Target(pid=7))[0]
    (sent,) = story.signals_to(last.process)
    assert sent.target == last.process
    assert story.signals_to(last.process, until_ns=sent.time_ns) == []


def test_long_names_are_found_beyond_the_kernels_fifteen_characters(tmp_path: Path) -> None:
    target = process(7, "/opt/a-very-long-program-name", "x")
    assert target.comm == "a-very-long-pro"
    with stored(tmp_path / "k.db", [death(signal(target=target))]) as store:
        assert len(store.deaths(Target(comm="a-very-long-program-*"))) == 1


def test_more_records_than_one_step_reads(tmp_path: Path) -> None:
    records = list(kills(6000))
    connection = sqlite3.connect(tmp_path / "k.db", isolation_level=None)
    Writer(connection).write(records, NOW_NS)
    connection.close()
    with open_store(tmp_path / "k.db") as store:
        assert sum(1 for _ in store.records()) == 12000
        assert len(store.deaths()) == 6000


def test_a_recorder_may_write_while_history_reads(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "k.db")
    bench.write(*kills(10))
    with open_store(bench.path) as store:
        records = store.records()
        first = next(records)
        bench.write(*kills(10, first=10))
        bench.recorder.close()
        assert [first, *records][:20] == list(kills(10))
        assert list(store.records()) == list(kills(20))


def test_stats_count_every_repeat(tmp_path: Path) -> None:
    records = [signal(0), signal(0, repeats=41), Lost(NOW_NS, 5, "signals")]
    with stored(tmp_path / "k.db", records) as store:
        sums = Stats(store.grouped())
    assert [(row.value, row.signals) for row in sums.rows("signal")] == [("SIGTERM", 43)]
    assert sums.lost == 5


# --- stores that can't be read ---------------------------------------------------------------


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_store(tmp_path / "k.db")


def test_a_later_version(tmp_path: Path) -> None:
    stored(tmp_path / "k.db", [signal()]).close()
    connection = sqlite3.connect(tmp_path / "k.db")
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    with pytest.raises(BrokenStoreError, match="later version"):
        open_store(tmp_path / "k.db")


@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/bash\n", b"\0" * 5000])
def test_another_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k.db"
    path.write_bytes(content)
    with pytest.raises(OutputError, match="not a store"):
        open_store(path)


def test_another_database(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(OutputError, match="not a store"):
        open_store(path)


def test_an_empty_file_is_an_empty_store_in_the_making(tmp_path: Path) -> None:
    (tmp_path / "k.db").touch()
    with pytest.raises((BrokenStoreError, NotFoundError)):
        list(open_store(tmp_path / "k.db").records())


@pytest.mark.parametrize("seed", range(30))
def test_bytes_overwritten_at_random_are_an_error_or_an_answer(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "k.db"
    stored(path, list(kills(300)), per_segment=100).close()
    content = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for _ in range(chance.choice([1, 20, 400])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)
    questions = (
        lambda store: list(store.records()),
        lambda store: store.deaths(Target(pid=2005)),
        lambda store: store.deaths(Target(comm="sl*")),
        lambda store: store.signals_to(process(2005)),
        lambda store: list(store.grouped()),
        lambda store: (store.gaps(), store.span(), store.count()),
    )
    for question in questions:
        try:
            with open_store(path) as store:
                question(store)
        except (BrokenStoreError, OutputError) as error:
            assert "\n" not in str(error)


def test_a_reader_of_the_group_needs_no_write_access(tmp_path: Path) -> None:
    """As adm reads /var/lib/killtrace: before a recorder, beside one, and after one was killed."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(0o755)
    folder = tmp_path / "lib"
    folder.mkdir(mode=0o750)
    os.chown(folder, 0, 4)
    path = folder / "k.db"
    child = os.fork()
    if child == 0:
        Bench(path).write(*kills(3))
        os._exit(0)  # as suddenly as kill -9
    os.waitpid(child, 0)
    assert (folder / "k.db-wal").stat().st_size > 0
    assert _read_as_adm(path) == "6"
    with open_store(path) as store:
        assert store.count() == 6
    assert not list(folder.glob("*-wal")), "a reader that may write leaves no log behind"
    bench = Bench(path)
    bench.write(*kills(3))
    assert _read_as_adm(path) == "12"
    bench.recorder.close()
    assert not list(folder.glob("*-wal"))
    assert _read_as_adm(path) == "12"


def _read_as_adm(path: Path) -> str:
    program = (
        "import os, sys; os.setgroups([]); os.setgid(4); os.setuid(65534)\n"
        "from pathlib import Path\n"
        "from killtrace.store.reader import open_store\n"
        f"print(sum(1 for _ in open_store(Path({str(path)!r})).records()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_who_may_not_read_is_told_the_group(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    assert files.READERS_GROUP == "adm"
    stored(tmp_path / "k.db", [signal(origin=SENT)]).close()
    (tmp_path / "k.db").chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(0o755)
    program = (
        "import os; os.setuid(65534)\n"
        "from killtrace.cli.main import main\n"
        f"raise SystemExit(main(['history', '--store', {str(tmp_path / 'k.db')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 77
    assert "member of adm" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_process_without_a_start_time_is_its_own_identity(tmp_path: Path) -> None:
    bare = Process(7)
    with stored(tmp_path / "k.db", [signal(target=bare)]) as store:
        assert len(store.signals_to(bare)) == 1
        assert store.signals_to(process(7)) == []
