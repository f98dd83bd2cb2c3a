"""A recorder that is killed with -9, two hundred times, while signals flow."""

from __future__ import annotations

import mmap
import os
import random
import signal as signals
import struct
import time
from collections import defaultdict
from pathlib import Path

import machine
from store_fakes import process, signal

from killtrace import clock
from killtrace.model import Signal
from killtrace.store.reader import open_store
from killtrace.store.recorder import Recorder

KILLS = 200
# What a kill -9 may cost: the records of so long before it.
AT_MOST_NS = 200_000_000
# The same where the machine itself stood still: for one kill in fifty, and no more than this.
STALLED_NS, STALLED = 2_000_000_000, KILLS // 50
_ENTRY = struct.Struct("<Q")
_ENTRIES = 16_384


def record(path: Path, run: int, shared: mmap.mmap) -> None:
    """Record without end; when each record was handed over is told to the parent by `shared`."""
    told: list[str] = []
    recorder = Recorder(path, tell=told.append)
    recorder.arm()
    target = process(1000 + run)
    for number in range(_ENTRIES):
        # Each with a content of its own: nothing is folded.
        recorder.write(signal(0, time_ns=time.time_ns(), code=number, target=target))
        _ENTRY.pack_into(shared, number * _ENTRY.size, clock.boot_ns())
        if number % 5 == 4:
            recorder.tick()
            time.sleep(0.001)  # the pace of the source, some 5,000 records a second
    os._exit(1)


def kill_one(path: Path, run: int, after_s: float) -> tuple[int, int]:
    """Start a recorder and kill it; how many records it must have, and if it was stalled."""
    shared = mmap.mmap(-1, _ENTRIES * _ENTRY.size)
    child = os.fork()
    if child == 0:
        try:
            record(path, run, shared)
        finally:
            os._exit(2)
    machine.until(lambda: _ENTRY.unpack_from(shared, 0)[0], "the first record")
    time.sleep(after_s)  # a random moment: the very thing that is tested
    os.kill(child, signals.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signals.SIGKILL
    times = [_ENTRY.unpack_from(shared, n * _ENTRY.size)[0] for n in range(_ENTRIES)]
    # Against the last record that was handed over, not the kill: on a busy machine the recorder
    # may have stood still, in a commit or waiting for a CPU, and taken none since.
    due, due_if_stalled = (
        sum(1 for each in times if each and each < max(times) - at_most_ns)
        for at_most_ns in (AT_MOST_NS, STALLED_NS)
    )
    return due, due_if_stalled


def test_nothing_older_than_the_last_batch_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    chance = random.Random(9)
    due = [kill_one(path, run, chance.uniform(0.0, 0.4)) for run in range(KILLS)]
    assert sum(usually for usually, _ in due) > KILLS * 20, (
        "the recorders lived too short to tell anything"
    )
    numbers = defaultdict(list)
    with open_store(path) as store:
        spans = store.armed()
        for each in store.records():
            assert isinstance(each, Signal)
            numbers[each.target.pid - 1000].append(each.code)
    late = {}
    for run, (usually, at_least) in enumerate(due):
        assert numbers[run] == list(range(len(numbers[run]))), f"run {run} has holes"
        assert len(numbers[run]) >= at_least, f"run {run} lost {at_least - len(numbers[run])}"
        if len(numbers[run]) < usually:
            late[run] = usually - len(numbers[run])
    assert len(late) <= STALLED, f"lost, by run: {late}"
    assert len(spans) == KILLS
    assert not list(tmp_path.glob("*corrupt*")), "the store was sound each time"
