"""`killtrace oom` names the victim in advance: its word against what the kernel then does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import pytest
from schema_check import faults
from workloads.memory import limited

pytestmark = pytest.mark.needs("memcg")

LIMIT_MB = 96

# A process that does what its standard input says, and answers each line when it is done.
_HOG = """
import ctypes, mmap, sys, threading
libc = ctypes.CDLL(None)
kept = []
def map_(size, flags):
    kept.append(mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        kept[-1].madvise(mmap.MADV_NOHUGEPAGE)
    return kept[-1], ctypes.addressof(ctypes.c_char.from_buffer(kept[-1]))
def do(what, value):
    if what == "join":
        open(value + "/cgroup.procs", "w").write("0")
    elif what == "adj":
        open("/proc/self/oom_score_adj", "w").write(value)
    elif what in ("hold", "share"):
        size = int(value) << 10
        _, at = map_(size, mmap.MAP_PRIVATE if what == "hold" else mmap.MAP_SHARED)
        ctypes.memset(at, 1, size)
    elif what == "scatter":  # one page in every 2 MB: each needs a page table of its own
        _, at = map_(int(value) << 21, mmap.MAP_PRIVATE | 0x4000)  # MAP_NORESERVE
        for n in range(int(value)):
            ctypes.memset(at + (n << 21), 1, 1)
    elif what == "threads":
        for _ in range(int(value)):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
def serve():
    while line := sys.stdin.readline():
        do(*line.split())
        print("done", flush=True)
    libc._exit(0)
if sys.argv[1] == "leaderless":  # the first thread ends, another goes on
    threading.Thread(target=serve).start()
    libc.pthread_exit.restype = None
    libc.syscall(60 if sys.maxsize > 2**32 and "x86_64" in sys.argv[2] else 93, 0)
serve()
"""


@dataclass(frozen=True)
class Hog:
    """What one process does before the prediction; sizes in MB, `scatter` in page tables."""

    hold: int = 0
    adj: int = 0
    share: int = 0
    scatter: int = 0
    threads: int = 0
    leaderless: bool = False
    inner: str = ""


@dataclass(frozen=True)
class Round:
    hogs: tuple[Hog, ...]
    victim: int
    asks: int


ROUNDS = {
    "the biggest": Round((Hog(40), Hog(20), Hog(12)), victim=0, asks=2),
    "the biggest, though it came last": Round((Hog(12), Hog(20), Hog(40)), victim=2, asks=0),
    "the biggest, which asks itself": Round((Hog(12), Hog(40), Hog(20)), victim=1, asks=1),
    "a small one with a high adjustment": Round(
        (Hog(40), Hog(10, adj=500), Hog(16)), victim=1, asks=0
    ),
    "a smaller one, as the biggest has a low adjustment": Round(
        (Hog(40, adj=-500), Hog(24), Hog(10)), victim=1, asks=2
    ),
    "a small one, as the biggest is shielded": Round(
        (Hog(45, adj=-1000), Hog(10), Hog(18)), victim=2, asks=1
    ),
    "the least negative of them all": Round(
        (Hog(34, adj=-800), Hog(12, adj=-400), Hog(20, adj=-600)), victim=1, asks=0
    ),
    "one with more page tables than the other has memory": Round(
        (Hog(22), Hog(scatter=5000), Hog(14)), victim=1, asks=2
    ),
    "one with shared memory": Round((Hog(20), Hog(share=40), Hog(12)), victim=1, asks=0),
    "one with threads, which counts once": Round(
        (Hog(20), Hog(15, threads=12), Hog(30)), victim=2, asks=0
    ),
    "one whose first thread has ended": Round(
        (Hog(14), Hog(40, leaderless=True), Hog(20)), victim=1, asks=0
    ),
    "one in a cgroup below the one that is full": Round(
        (Hog(16), Hog(38, inner="a"), Hog(20, inner="b")), victim=1, asks=0
    ),
}


class Player:
    """A running hog."""

    def __init__(self, hog: Hog, folder: Path) -> None:
        role = "leaderless" if hog.leaderless else "plain"
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _HOG, role, _architecture()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.do("join", folder / hog.inner)
        self.do("adj", hog.adj)
        for what, amount in (("hold", hog.hold << 10), ("share", hog.share << 10)):
            if amount:
                self.do(what, amount)
        for what, amount in (("scatter", hog.scatter), ("threads", hog.threads)):
            if amount:
                self.do(what, amount)

    def tell(self, what: str, value: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {value}\n")
        self.process.stdin.flush()

    def do(self, what: str, value: object) -> None:
        assert self.process.stdout is not None
        self.tell(what, value)
        assert self.process.stdout.readline() == "done\n", f"{what} {value} failed"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def _architecture() -> str:
    import platform

    return platform.machine()


def killtrace_oom(*args: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*machine.command(), "oom", "--format", "json", *args],
        capture_output=True,
        text=True,
        timeout=machine.seconds(20),
        check=True,
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [fault for record in records for fault in faults(record)] == []
    return records


@pytest.fixture
def folder() -> Iterator[Path]:
    with limited("candidates", LIMIT_MB) as made:
        yield made


@pytest.fixture
def stage(folder: Path) -> Iterator[ExitStack]:
    """What is to be undone, last first: hogs before the cgroups that they are in."""
    with ExitStack() as undo:
        yield undo


def play(hogs: tuple[Hog, ...], folder: Path, undo: ExitStack) -> list[Player]:
    for inner in {hog.inner for hog in hogs if hog.inner}:
        (folder / inner).mkdir()
        undo.callback((folder / inner).rmdir)
    players = []
    for hog in hogs:
        players.append(Player(hog, folder))
        undo.callback(players[-1].end)
    return players


@pytest.mark.parametrize("name", ROUNDS)
def test_the_prediction_is_what_the_kernel_does(name: str, folder: Path, stage: ExitStack) -> None:
    plan = ROUNDS[name]
    if (folder / "cgroup.subtree_control").exists() and any(hog.inner for hog in plan.hogs):
        plan = _without_inner_processes(plan)
    players = play(plan.hogs, folder, stage)
    predicted = killtrace_oom("--cgroup", str(folder))
    assert {record["process"]["pid"] for record in predicted} == {one.pid for one in players}
    first = predicted[0]

    # All that is left, and a little more: less than any victim gives back, so that one is enough.
    room_kb = first["limits"]["headroom_kb"]
    players[plan.asks].tell("hold", room_kb + 1024)
    machine.until(lambda: [one for one in players if one.process.poll() is not None], name)
    died = [at for at, one in enumerate(players) if one.process.poll() is not None]

    assert [players[at].process.returncode for at in died] == [-9]
    assert died == [plan.victim], "the round does not do what it says"
    assert first["process"]["pid"] == players[died[0]].pid
    after = killtrace_oom("--cgroup", f"/{folder.name}")
    assert after[0]["limits"]["oom_kill"] == 1


def _without_inner_processes(plan: Round) -> Round:
    """cgroup v2 only lets leaves hold processes once the controllers go down; here they do not."""
    return plan


def test_what_if_is_what_would_be(folder: Path, stage: ExitStack) -> None:
    players = play((Hog(20), Hog(12), Hog(6)), folder, stage)
    plain = killtrace_oom("--cgroup", str(folder))
    supposed = killtrace_oom(
        "--cgroup",
        str(folder),
        "--adj",
        f"{players[2].pid}=300",
        "--adj",
        f"{players[0].pid}=-1000",
    )
    unchanged = killtrace_oom("--cgroup", str(folder))
    players[2].do("adj", 300)
    players[0].do("adj", -1000)
    real = killtrace_oom("--cgroup", str(folder))
    assert order(plain) == order(unchanged) == [players[at].pid for at in (0, 1, 2)]
    assert order(supposed) == order(real) == [players[at].pid for at in (2, 1, 0)]
    assert [one["shielded"] for one in supposed] == [None, None, "oom_score_adj -1000"]


def order(records: list[dict[str, Any]]) -> list[int]:
    return [record["process"]["pid"] for record in records]


def test_every_scope_of_the_machine(folder: Path, stage: ExitStack) -> None:
    (hog,) = play((Hog(8),), folder, stage)
    records = killtrace_oom()
    scopes = {(record["scope"], record["memcg"]) for record in records}
    assert ("system", None) in scopes
    assert ("memcg", f"/{folder.name}") in scopes
    mine = [record for record in records if record["process"]["pid"] == hog.pid]
    assert [record["scope"] for record in mine] == ["system", "memcg"]
    assert mine[1]["limits"]["limit_kb"] == LIMIT_MB * 1024
    assert mine[1]["memory"]["anon_rss_kb"] >= 8 * 1024
    reasons = {record["shielded"] for record in records if record["scope"] == "system"}
    assert {"init", "kernel thread"} <= reasons


def test_a_nested_limit_is_bound_by_the_tighter_one_above(folder: Path, stage: ExitStack) -> None:
    v2 = (folder / "memory.max").exists()
    if v2:
        (folder / "cgroup.subtree_control").write_text("+memory")
    inner = folder / "inner"
    inner.mkdir()
    stage.callback(inner.rmdir)
    limit = inner / ("memory.max" if v2 else "memory.limit_in_bytes")
    limit.write_text(str((LIMIT_MB * 2) << 20))
    hog = Player(Hog(16, inner="inner"), folder)
    stage.callback(hog.end)
    (record,) = killtrace_oom("--cgroup", str(inner))
    assert record["memcg"] == f"/{folder.name}/inner"
    assert record["limits"]["bound_by"] == f"/{folder.name}"
    assert record["limits"]["headroom_kb"] < (LIMIT_MB - 15) * 1024
