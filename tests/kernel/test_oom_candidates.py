"""`killtrace oom` names the victim in advance: its word against what the kernel then does."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import machine
import pytest
from schema_check import faults
from workloads.actors import temporary_cgroup
from workloads.features import memory_v1_root, memory_v2_root

pytestmark = pytest.mark.needs("memcg")

LIMIT_MB = 96

# A process that does what its standard input says, and answers each line when it is done.
_HOG = """
import ctypes, mmap, os, sys, threading
libc = ctypes.CDLL(None)
kept = []
leave = threading.Event()
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
    elif what == "vfork":
        opening = [(os.POSIX_SPAWN_OPEN, 0, value, os.O_RDONLY, 0)]
        os.posix_spawn("/bin/true", ["true"], {}, file_actions=opening)
    elif what == "leave":
        leave.set()
    elif what == "threads":
        for _ in range(int(value)):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
def serve():
    while line := sys.stdin.readline():
        do(*line.split())
        print("done", flush=True)
    libc._exit(0)
if sys.argv[1] == "leaderless":
    threading.Thread(target=serve).start()
    leave.wait()
    libc.syscall(int(sys.argv[2]), 0)  # exit(2): of this thread alone
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


# The asker grows by five megabytes more before the kernel acts: victims are clear by more.
ROUNDS = {
    "the biggest": Round((Hog(40), Hog(20), Hog(12)), victim=0, asks=2),
    "the biggest, though it came last": Round((Hog(12), Hog(20), Hog(40)), victim=2, asks=0),
    "the biggest, which asks itself": Round((Hog(12), Hog(40), Hog(20)), victim=1, asks=1),
    "a small one with a high adjustment": Round(
        (Hog(40), Hog(10, adj=700), Hog(16)), victim=1, asks=0
    ),
    "a smaller one, as the biggest is less adjusted": Round(
        (Hog(40, adj=100), Hog(24, adj=600), Hog(10)), victim=1, asks=2
    ),
    "the higher adjustment of two small ones": Round(
        (Hog(44), Hog(12, adj=800), Hog(12, adj=1000)), victim=2, asks=0
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
# Only CAP_SYS_RESOURCE may lower an adjustment; some containers' root lacks it.
LOWERED = {
    "a smaller one, as the biggest has a low adjustment": Round(
        (Hog(40, adj=-500), Hog(24), Hog(10)), victim=1, asks=2
    ),
    "a small one, as the biggest is shielded": Round(
        (Hog(45, adj=-1000), Hog(8), Hog(20)), victim=2, asks=1
    ),
    "the least negative of them all": Round(
        (Hog(34, adj=-900), Hog(12, adj=-400), Hog(20, adj=-700)), victim=1, asks=0
    ),
}
_CAP_SYS_RESOURCE = 24
# The number of exit(2): the C library's exit() would end all threads.
_EXIT = 60 if platform.machine() == "x86_64" else 93


class Player:
    """A running hog."""

    def __init__(self, hog: Hog, folder: Path) -> None:
        role = "leaderless" if hog.leaderless else "plain"
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _HOG, role, str(_EXIT)],
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
        if hog.leaderless:
            self.do("leave", 1)
            state = Path(f"/proc/{self.pid}/task/{self.pid}/stat")
            machine.until(lambda: ") Z " in state.read_text(), "the first thread ends")

    def tell(self, what: str, value: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {value}\n")
        self.process.stdin.flush()

    def do(self, what: str, value: object) -> None:
        assert self.process.stdout is not None
        self.tell(what, value)
        assert self.process.stdout.readline() == "done\n", f"{what} {value} failed"

    def has_done(self) -> bool:
        """Whether it has done what it was told; a dead one never has."""
        out = self.process.stdout
        assert out is not None
        return bool(select.select([out], [], [], 0)[0]) and out.readline() == "done\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


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
    v2 = memory_v2_root()
    root = v2 or memory_v1_root()
    assert root is not None, "asked for by needs(memcg)"
    if v2 is not None:
        (v2 / "cgroup.subtree_control").write_text("+memory")
    made = temporary_cgroup(root, "candidates")
    (made / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(LIMIT_MB << 20))
    swap = made / ("memory.swap.max" if v2 else "memory.swappiness")
    if swap.exists():
        swap.write_text("0")
    try:
        yield made
    finally:
        machine.until(lambda: removed(made), "the cgroup is empty")


def removed(folder: Path) -> bool:
    """Remove a cgroup; False while what has ended in it is not quite gone."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


@pytest.fixture
def stage(folder: Path) -> Iterator[ExitStack]:
    """What is to be undone, last first: hogs before the cgroups that they are in."""
    with ExitStack() as undo:
        yield undo


def play(hogs: tuple[Hog, ...], folder: Path, undo: ExitStack) -> list[Player]:
    for inner in {hog.inner for hog in hogs if hog.inner}:
        (folder / inner).mkdir()
        undo.callback(machine.until, partial(removed, folder / inner), "the cgroup is empty")
    players = []
    for hog in hogs:
        players.append(Player(hog, folder))
        undo.callback(players[-1].end)
    return players


def fill(folder: Path) -> None:
    """Bring the limit down to what is used, and 4 MB."""
    v2 = (folder / "memory.max").exists()
    used = int((folder / ("memory.current" if v2 else "memory.usage_in_bytes")).read_text())
    limit = folder / ("memory.max" if v2 else "memory.limit_in_bytes")
    limit.write_text(str(used + (4 << 20)))


@pytest.mark.parametrize("name", ROUNDS)
def test_the_prediction_is_what_the_kernel_does(name: str, folder: Path, stage: ExitStack) -> None:
    predict_and_see(ROUNDS[name], folder, stage)


@pytest.mark.parametrize("name", LOWERED)
def test_lowered_adjustments(name: str, folder: Path, stage: ExitStack) -> None:
    if not capable(_CAP_SYS_RESOURCE):
        assert "all" not in os.environ.get("KILLTRACE_MUST", "").split(",")
        pytest.skip("needs CAP_SYS_RESOURCE, to lower oom_score_adj")
    predict_and_see(LOWERED[name], folder, stage)


def capable(capability: int) -> bool:
    status = Path("/proc/self/status").read_text().splitlines()
    (effective,) = [line.split()[1] for line in status if line.startswith("CapEff:")]
    return bool(int(effective, 16) >> capability & 1)


def predict_and_see(plan: Round, folder: Path, undo: ExitStack) -> None:
    players = play(plan.hogs, folder, undo)
    fill(folder)
    predicted = killtrace_oom("--cgroup", str(folder))
    assert {record["process"]["pid"] for record in predicted} == {one.pid for one in players}
    first = predicted[0]

    with KernelLog(players) as log:
        asker = players[plan.asks]
        asker.tell("hold", first["limits"]["headroom_kb"] + 1024)

        def chosen() -> int | None:
            """The victim; until there is one, more is asked for: the kernel drops files first."""
            victim = log.chosen()
            if victim is None and asker.has_done():
                asker.tell("hold", 256)
            return victim

        # Where the first victim's memory is slow to come back, the kernel may take a second one.
        victim = machine.until(chosen, "a kill")

    assert first["process"]["pid"] == victim
    assert victim == players[plan.victim].pid, "the round does not play what its name says"
    assert players[plan.victim].process.wait(machine.seconds(10)) == -9
    after = killtrace_oom("--cgroup", f"/{folder.name}")
    assert [one for one in after if one["limits"]["oom_kill"] < 1] == []


class KernelLog:
    """What the kernel says from now on: whom of some processes it kills for lack of memory.

    Not its "oom-kill:" line: ten in five seconds are all that are printed (oom_kill_process).
    The "Killed process" line always is, but names a thread where the first one has ended.
    """

    _KILLED = re.compile(rb"Killed process (\d+) ")

    def __init__(self, players: list[Player]) -> None:
        self._tgids = {
            int(thread.name): one.pid
            for one in players
            for thread in Path(f"/proc/{one.pid}/task").iterdir()
        }

    def __enter__(self) -> KernelLog:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def chosen(self) -> int | None:
        """The first process that was chosen since, or None."""
        while True:
            try:
                line = os.read(self._fd, 8192)
            except BlockingIOError:
                return None
            if (match := self._KILLED.search(line)) and int(match[1]) in self._tgids:
                return self._tgids[int(match[1])]


def test_what_if_is_what_would_be(folder: Path, stage: ExitStack) -> None:
    players = play((Hog(20), Hog(12), Hog(6)), folder, stage)
    plain = killtrace_oom("--cgroup", str(folder))
    what_if = ("--adj", f"{players[2].pid}=300", "--adj", f"{players[1].pid}=900")
    supposed = killtrace_oom("--cgroup", str(folder), *what_if)
    unchanged = killtrace_oom("--cgroup", str(folder))
    players[2].do("adj", 300)
    players[1].do("adj", 900)
    real = killtrace_oom("--cgroup", str(folder))
    assert order(plain) == order(unchanged) == [players[at].pid for at in (0, 1, 2)]
    assert order(supposed) == order(real) == [players[at].pid for at in (1, 2, 0)]
    assert [one["oom_score_adj"] for one in supposed] == [900, 300, 0]
    shielded = killtrace_oom("--cgroup", str(folder), "--adj", f"{players[0].pid}=-1000")
    assert order(shielded) == [players[at].pid for at in (1, 2, 0)]
    assert shielded[2]["shielded"] == "oom_score_adj -1000"


def order(records: list[dict[str, Any]]) -> list[int]:
    return [record["process"]["pid"] for record in records]


def test_a_child_in_vfork_is_shielded(folder: Path, stage: ExitStack, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    parent = Player(Hog(16), folder)
    stage.callback(parent.end)
    # The child opens the FIFO before its exec, and waits there, as nobody writes to it.
    parent.tell("vfork", fifo)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    child = machine.until(lambda: children.read_text().split(), "the child")
    stage.callback(lambda: fifo.open("w").close())
    waits = Path(f"/proc/{child[0]}/stat")
    machine.until(lambda: waits.read_text().rpartition(") ")[2][0] in "SD", "the child waits")
    found = {one["process"]["pid"]: one for one in killtrace_oom("--cgroup", str(folder))}
    assert found[parent.pid]["shielded"] is None
    assert found[parent.pid]["rank"] == 1
    assert "vfork" in found[int(child[0])]["shielded"]


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
    stage.callback(machine.until, partial(removed, inner), "the cgroup is empty")
    limit = inner / ("memory.max" if v2 else "memory.limit_in_bytes")
    limit.write_text(str((LIMIT_MB * 2) << 20))
    hog = Player(Hog(16, inner="inner"), folder)
    stage.callback(hog.end)
    (record,) = killtrace_oom("--cgroup", str(inner))
    assert record["memcg"] == f"/{folder.name}/inner"
    assert record["limits"]["bound_by"] == f"/{folder.name}"
    assert record["limits"]["headroom_kb"] < (LIMIT_MB - 15) * 1024
