"""Runs of identical signals are counted exactly, whatever falls between the changes of tables."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from killtrace.model import Origin, Process, Signal
from killtrace.order import SLACK_NS
from killtrace.runs import PERIOD_NS, First, Run, Runs, rest_of


def signal_of(time_ns: int, target_pid: int) -> Signal:
    origin = Origin("kernel", "made up")
    target = Process(pid=target_pid)
    return Signal(time_ns, 15, 0, "delivered", "process", None, target, origin)


@dataclass
class Machine:
    """The programs' half, as bpf/signal.c has it, and a reader that judges late."""

    entries: int = 3
    now_ns: int = 1_000_000_000
    tables: tuple[dict[int, list[int]], dict[int, list[int]]] = field(
        default_factory=lambda: ({}, {})
    )
    second: int = 0
    unjudged: deque[tuple[int, int, int]] = field(default_factory=deque)
    told: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    next_id: int = 1

    def __post_init__(self) -> None:
        self.runs = Runs(self.change, self.read, lambda: self.now_ns)

    def change(self) -> None:
        self.second ^= 1

    def read(self) -> list[Run]:
        resting = self.tables[self.second ^ 1]
        rest = [Run(*run) for run in resting.values() if run[1]]
        resting.clear()
        return rest

    def send(self, target_pid: int, *, has_room: bool) -> None:
        """One signal: a repeat, the first of a run, or lost for want of room in the buffer."""
        table = self.tables[self.second]
        if target_pid in table:
            table[target_pid][1] += 1
            table[target_pid][2] = self.now_ns
            return
        fold_id, self.next_id = self.next_id, self.next_id + 1
        if len(table) < self.entries:
            table[target_pid] = [fold_id, 0, self.now_ns]
        if has_room:
            self.unjudged.append((self.now_ns, fold_id, target_pid))
        else:
            self.lost += 1

    def judge(self) -> None:
        """Tell all that is older than the slack, then what is due of the runs."""
        before_ns = self.now_ns - SLACK_NS
        while self.unjudged and self.unjudged[0][0] < before_ns:
            time_ns, fold_id, pid = self.unjudged.popleft()
            told = signal_of(time_ns, pid)
            self.told[pid] += 1 + told.repeats
            self.runs.begin(fold_id, First(told, (pid, 0), 1))
        for run, first in self.runs.upkeep(before_ns):
            if first is None:
                self.lost += run.repeats
            else:
                told = rest_of(run, first, 5)
                assert told.time_ns == run.last_time_ns + 5
                self.told[told.target.pid] += 1 + told.repeats


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 5), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from((1, SLACK_NS // 2, SLACK_NS, PERIOD_NS))),
    st.tuples(st.just("judge")),
)


@given(st.lists(steps, max_size=60))
def test_all_that_is_sent_is_told_or_counted_as_lost(played: list[tuple[object, ...]]) -> None:
    machine, sent, roomy = Machine(), Counter[int](), True
    for step in played:
        if step[0] == "send":
            assert isinstance(step[1], int)
            machine.send(step[1], has_room=bool(step[2]))
            sent[step[1]] += 1
            roomy = roomy and bool(step[2])
        elif step[0] == "wait":
            assert isinstance(step[1], int)
            machine.now_ns += step[1]
        else:
            machine.judge()
    for _ in range(4):
        machine.now_ns += PERIOD_NS
        machine.judge()
        if machine.runs.are_open and not machine.runs.are_resting:
            machine.runs.change()
    # A run whose first was lost, in a table where nothing else began, waits for the next change.
    waiting = sum(run[1] for table in machine.tables for run in table.values())
    assert machine.told.total() + machine.lost + waiting == sent.total()
    if roomy:
        assert machine.told == sent and machine.lost == waiting == 0


def test_the_first_is_known_though_it_was_judged_after_the_change() -> None:
    machine = Machine()
    machine.send(1, has_room=True)
    machine.send(1, has_room=True)
    machine.runs.change()
    machine.now_ns += 2 * SLACK_NS
    machine.judge()
    machine.now_ns += 1
    machine.judge()
    assert machine.told == {1: 2} and machine.lost == 0


@pytest.mark.parametrize("count", [4095, 4096])
def test_many_runs_change_the_tables_before_their_time(count: int) -> None:
    machine = Machine(entries=8192)
    for pid in range(count):
        machine.runs.begin(pid, First(signal_of(0, pid), (pid, 0), 1))
    machine.judge()
    assert machine.runs.are_resting == (count == 4096)
