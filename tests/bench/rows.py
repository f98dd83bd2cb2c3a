"""What is measured: each function is one row of the table, or a few that share a run.

Counting is exact and asserted always; times are compared with those of the same run.
"""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import select
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load import Load
from tracers import Bpftrace, Killtrace, lost_of, sum_of

CAUSES = ("kill", "tgkill", "handled", "parent", "timer")


@dataclass(frozen=True)
class Sizes:
    """How much of each; `small` shows that the benchmark works, and what is counted is exact."""

    rounds: int = 5
    storm: int = 300_000
    children: int = 5_000
    deaths: int = 500
    getppid: int = 500_000
    spawn: int = 100
    pairs: int = 8
    idle_s: float = 20.0
    kills: int = 1_000
    signals: int = 10_000_000
    distinct_s: int = 10
    rate: int = 10_000

    @classmethod
    def small(cls) -> Sizes:
        return cls(
            rounds=1,
            storm=20_000,
            children=1_000,
            deaths=50,
            getppid=100_000,
            spawn=20,
            pairs=2,
            idle_s=1.0,
            kills=20,
            signals=100_000,
            distinct_s=2,
            rate=1_000,
        )


# With tracing on, and off: many short runs, of which the least disturbed counts.
_RUNS = 10


@dataclass
class Row:
    """One line of the table: what, the figures of all rounds, and what they should be."""

    what: str
    unit: str
    wanted: str
    limit: float | None = None
    exact: bool = False
    values: list[float] = field(default_factory=list)
    worst: float | None = None

    def met(self) -> bool | None:
        """Whether the median is within the limit; None where there is none."""
        if self.limit is None or not self.values:
            return None
        middle = statistics.median(self.values)
        return middle == self.limit if self.exact else middle <= self.limit


class Bench:
    """All rows, filled by the measuring functions."""

    def __init__(self, load: Load, folder: Path, sizes: Sizes) -> None:
        self.load, self.folder, self.sizes = load, folder, sizes
        self.rows: dict[str, Row] = {}

    def _row(self, what: str, unit: str, wanted: str, limit: float | None = None) -> Row:
        return self.rows.setdefault(what, Row(what, unit, wanted, limit))

    def _exact(self, what: str, value: float, wanted: float) -> None:
        """A figure that must be right, in every run, large or small."""
        row = self.rows.setdefault(what, Row(what, "", f"exactly {wanted:,}", wanted, exact=True))
        row.values.append(value)
        assert value == wanted, f"{what}: {value:,}, not {wanted:,}"

    # --- storms and starts ---------------------------------------------------------------------

    def storm(self) -> None:
        """Back-to-back kill(2) to one process: untraced, under bpftrace, under killtrace."""
        count = self.sizes.storm
        plain = self.load.ns("storm", count) / count
        with Bpftrace(self.folder) as other:
            told = self.load.run("storm", count)
        theirs = told.number("ns") / count
        their_lost = count - other.told(told.number("target")) + 1  # the load ends it with one
        with Killtrace(self.folder) as ours:
            told = self.load.run("storm", count)
        mine = told.number("ns") / count
        records = ours.records()
        self._row("kill(2), no tracer", "µs", "").values.append(plain / 1e3)
        self._row("added by bpftrace", "µs", "").values.append((theirs - plain) / 1e3)
        self._row("added by killtrace", "µs", "").values.append((mine - plain) / 1e3)
        ratio = (mine - plain) / (theirs - plain)
        self._row("added by killtrace / by bpftrace", "", "≤ 0.25", 0.25).values.append(ratio)
        self._row("lost by bpftrace in that storm", "", "").values.append(max(their_lost, 0))
        self._exact("lost by killtrace in that storm", lost_of(records), 0)
        self._exact(
            "signals accounted for in that storm",
            sum_of(records, told.number("target")),
            count,
        )
        self._start(other, ours)

    def _start(self, other: Bpftrace, ours: Killtrace) -> None:
        self._row("bpftrace attached", "s", "").values.append(other.ready_s)
        self._row("killtrace ready", "s", "").values.append(ours.ready_s)
        row = self._row("killtrace ready / bpftrace attached", "", "≤ 2, aim 1", 2)
        row.values.append(ours.ready_s / other.ready_s)

    def first_start(self) -> None:
        """The first start on a kernel, which compiles."""
        folder = self.folder / "no-cache"
        with Killtrace(self.folder, KILLTRACE_CACHE=str(folder)) as ours:
            pass
        row = self._row("killtrace ready, first start on a kernel", "s", "")
        row.values.append(ours.ready_s)
        for path in folder.iterdir():
            path.unlink()

    def race(self) -> None:
        """Equal signals from as many processes as there are CPUs, at once: none miscounted."""
        senders = max(os.cpu_count() or 1, 2)
        with Killtrace(self.folder) as ours:
            told = self.load.run("race", self.sizes.storm // senders, senders)
        counted = sum_of(ours.records(), told.number("target"))
        self._exact("storm from all CPUs at once: miscounted", counted - told.number("sent"), 0)

    # --- nothing goes missing --------------------------------------------------------------------

    def children(self) -> None:
        """Children that are each killed once, as fast as one loop can."""
        with Killtrace(self.folder) as ours:
            told = self.load.run("children", self.sizes.children)
        records = ours.records()
        pids = set(told.numbers("child"))
        signals = Counter(
            record["target"]["pid"]
            for record in records
            if record["type"] == "signal"
            and record["target"]["pid"] in pids
            and record["sender"]["pid"] == told.number("sender")
            and record["signal"] == "SIGKILL"
        )
        deaths = Counter(
            record["process"]["pid"]
            for record in records
            if record["type"] == "death"
            and record["process"]["pid"] in pids
            and record["cause"]["sender"]["pid"] == told.number("sender")
        )
        once = self.sizes.children
        self._exact("children killed: signals told, each once", _ones(signals), once)
        self._exact("children killed: deaths told, each once", _ones(deaths), once)
        self._exact("children killed: lost", lost_of(records), 0)

    def deaths(self) -> None:
        """Processes that die, each of its own cause, while two others storm a third."""
        with Killtrace(self.folder) as ours:
            told = self.load.run("deaths", self.sizes.deaths)
        assert told.number("failed") == 0
        records = ours.records()
        found = {r["process"]["pid"]: r for r in records if r["type"] == "death"}
        right = sum(
            is_right(found.get(victim), cause, killer, signo)
            for cause, victim, killer, signo in told.rows("victim")
        )
        self._exact("deaths in a storm, right cause", right, self.sizes.deaths)
        stormed = sum_of(records, told.number("target"))
        self._exact("deaths in a storm: its signals miscounted", stormed - told.number("sent"), 0)
        self._exact("deaths in a storm: lost", lost_of(records), 0)

    # --- what it costs others, and itself -------------------------------------------------------

    def _on_against_off(self, what: str, *load: object, limit: float) -> None:
        """Pairs of short runs, with and without killtrace; the least of each is compared."""
        off, on = [], []
        for number in range(self.sizes.pairs):
            order = (False, True) if number % 2 else (True, False)
            for traced in order:
                if traced:
                    with Killtrace(self.folder):
                        on += [self.load.ns_on_one_cpu(*load) for _ in range(_RUNS)]
                else:
                    off += [self.load.ns_on_one_cpu(*load) for _ in range(_RUNS)]
        self._row(what, "", f"≤ {limit}", limit).values.append(min(on) / min(off))

    def getppid(self) -> None:
        """A system call that killtrace has no probe on."""
        self._on_against_off("getppid(2), on / off", "getppid", self.sizes.getppid, limit=1.01)

    def spawn(self) -> None:
        """fork(2), execve(2) of /bin/true, wait(2)."""
        self._on_against_off("fork+exec+exit, on / off", "spawn", self.sizes.spawn, limit=1.03)

    def idle(self) -> None:
        """CPU time while nothing happens."""
        with Killtrace(self.folder) as ours:
            time.sleep(1)
            before_ns, began = cpu_ns(ours.process.pid), time.monotonic()
            time.sleep(self.sizes.idle_s)
            spent_ns = cpu_ns(ours.process.pid) - before_ns
            percent = spent_ns / 1e7 / (time.monotonic() - began)
        self._row("CPU of an idle killtrace", "% of a core", "≤ 0.2", 0.2).values.append(percent)

    def latency(self) -> None:
        """From kill(2) to the line on the screen (a terminal), one at a time."""
        with Screen(self.folder) as screen:
            taken = [screen.kill_one() for _ in range(self.sizes.kills)]
        row = self._row("kill(2) to its line, median of a run", "ms", "≤ 30", 30)
        row.values.append(statistics.median(taken))
        row = self._row("kill(2) to its line, worst of a run", "ms", "≤ 100", 100)
        row.values.append(max(taken))

    def memory(self) -> None:
        """Resident and private memory after one signal, and after very many."""
        with Killtrace(self.folder) as ours:
            self.load.run("storm", 1)
            time.sleep(1)
            first = memory_mb(ours.process.pid)
            self.load.run("storm", self.sizes.signals)
            time.sleep(1)
            last = memory_mb(ours.process.pid)
        self._row("memory: resident", "MB", "≤ 140", 140).values.append(last["Rss"])
        self._row("memory: private dirty", "MB", "≤ 45", 45).values.append(last["Private_Dirty"])
        grown = last["Rss"] - first["Rss"]
        row = self._row(f"memory: more after {self.sizes.signals:,} signals", "MB", "≤ 0.5", 0.5)
        row.values.append(grown)

    def recorder(self) -> None:
        """Signals of which no two are alike, at a steady rate, into the store."""
        store = self.folder / "bench.db"
        for path in self.folder.glob("bench.db*"):
            path.unlink()
        with Killtrace(self.folder, "record", "--store", str(store)) as ours:
            told = self.load.run("distinct", self.sizes.rate, self.sizes.distinct_s, 100)
            spent_s = cpu_ns(ours.process.pid) / 1e9
        history = Killtrace(self.folder, "history", "--store", str(store), "--format", "json")
        targets = set(told.numbers("target"))
        counted = lost = 0
        for record in history.finished_records():
            if record["type"] == "lost":
                lost += record["count"]
            elif record["type"] == "signal" and record["target"]["pid"] in targets:
                counted += 1 + record["repeats"]
        rate = f"recorder, {self.sizes.rate:,} distinct signals a second"
        self._exact(f"{rate}: in the store", counted, told.number("sent"))
        self._exact(f"{rate}: lost", lost, 0)
        row = self._row(f"{rate}: CPU of a core", "%", "")
        row.values.append(100 * spent_s / (told.number("ns") / 1e9))


def _ones(counted: Counter[int]) -> int:
    return sum(times == 1 for times in counted.values())


def is_right(death: dict[str, Any] | None, cause: int, killer: int, signo: int) -> bool:
    """Whether a death was told with the cause that load.c gave it."""
    if death is None or death["cause"] is None:
        return False
    how, told, end = CAUSES[cause], death["cause"], death["exit"]
    name = signal.Signals(signo).name
    as_ended = (None, 7) if how == "handled" else (name, None)
    if (end["signal"], end["status"]) != as_ended or told["signal"] != name:
        return False
    origin = told["origin"]
    if how == "timer":
        return origin["kind"] == "timer" and told["sender"] is None
    if how == "parent":
        return origin["kind"] == "parent-death" and origin["parent"]["pid"] == killer
    call = "tgkill" if how == "tgkill" else "kill"
    return told["sender"]["pid"] == killer and origin["syscall"] == call


class Screen:
    """killtrace on a terminal of its own, as a person has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = b""

    def __enter__(self) -> Screen:
        self._near, far = pty.openpty()
        self._killtrace = Killtrace(self._folder, "--signal", "TERM", out=far)
        self._killtrace.__enter__()
        os.close(far)
        return self

    def __exit__(self, *_: object) -> None:
        self._killtrace.stop()
        os.close(self._near)

    def kill_one(self) -> float:
        """Kill a process; how many milliseconds until its line is on the screen."""
        time.sleep(random.random() / 50)
        victim = subprocess.Popen(["sleep", "1000"])
        pattern = re.compile(rb"SIGTERM\s+%d " % victim.pid)
        began = time.monotonic()
        victim.terminate()
        while not pattern.search(self._seen):
            assert select.select([self._near], [], [], 30)[0], "a kill has no line after 30 s"
            self._seen = self._seen[-200:] + os.read(self._near, 65536)
        taken = (time.monotonic() - began) * 1e3
        victim.wait()
        return taken


def cpu_ns(pid: int) -> int:
    """CPU time of all threads, exactly: the first field of schedstat."""
    total = 0
    for path in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((path / "schedstat").read_text().split()[0])
    return total


def memory_mb(pid: int) -> dict[str, float]:
    """/proc/PID/smaps_rollup, in MB."""
    return dict(_sizes(Path(f"/proc/{pid}/smaps_rollup").read_text()))


def _sizes(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith("kB"):
            yield name, int(rest.split()[0]) / 1024
