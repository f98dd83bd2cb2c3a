"""Signals joined to deaths: each story as it was."""

from __future__ import annotations

from typing import Any

import pytest
from records import TASK

from killtrace.correlate import HANDLED_WINDOW_NS, Correlator, exit_of
from killtrace.decode import RawDeath
from killtrace.model import Death, Exit, Origin, Process, Signal

KEY = (TASK.tgid, TASK.start_time_ns)
SECOND = 1_000_000_000
DEFAULT, IGNORED, HANDLED = 1, 2, 3


def _signal(signo: int, time_ns: int = SECOND, **changes: Any) -> Signal:
    fields: dict[str, Any] = {
        "code": 0,
        "result": "delivered",
        "scope": "process",
        "sender": Process(50, comm="sender"),
        "target": Process(100),
        "origin": Origin("process", "50 sent it"),
    } | changes
    return Signal(time_ns=time_ns, signo=signo, **fields)


def _death(story: list[tuple[Signal, int]], code: int, at_ns: int = 2 * SECOND) -> Death:
    correlator = Correlator()
    for signal, disposition in story:
        correlator.signal(KEY, signal, disposition)
    told = correlator.death(RawDeath(at_ns, 0, code, len(story), TASK), Process(100), at_ns)
    assert len(correlator) == 0
    return told


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (0, Exit(None, 0)),
        (7 << 8, Exit(None, 7)),
        (9, Exit(9, None)),
        (0x83, Exit(3, None, True)),
        (255 << 8, Exit(None, 255)),
    ],
)
def test_exit_codes(code: int, end: Exit) -> None:
    assert exit_of(code) == end


def test_term_then_kill() -> None:
    death = _death([(_signal(15), HANDLED), (_signal(9, SECOND + 5), DEFAULT)], 9)
    assert death.cause is not None and death.cause.signo == 9
    assert [brief.signo for brief in death.signals] == [15, 9]
    assert death.elapsed_ns == SECOND - 5


def test_handled_and_exited() -> None:
    death = _death([(_signal(15), HANDLED)], 7 << 8)
    assert death.exit == Exit(None, 7)
    assert death.cause is not None and death.cause.signo == 15


def test_handled_long_ago_is_no_cause_but_a_telling_status_is() -> None:
    late = SECOND + HANDLED_WINDOW_NS + 1
    assert _death([(_signal(1), HANDLED)], 0, late).cause is None
    death = _death([(_signal(15), HANDLED)], (128 + 15) << 8, late)
    assert death.cause is not None


def test_ignored_is_no_cause() -> None:
    death = _death([(_signal(15, result="ignored"), IGNORED)], 0)
    assert death.cause is None and death.elapsed_ns is None
    assert [brief.result for brief in death.signals] == ["ignored"]


def test_a_signal_to_the_dying_is_not_the_cause() -> None:
    first = _signal(9, SECOND, sender=Process(1))
    late = _signal(9, SECOND + 5, result="ignored", sender=Process(2))
    death = _death([(first, DEFAULT), (late, DEFAULT)], 9)
    assert death.cause is not None and death.cause.sender == Process(1)


def test_a_blocked_signal_kills_when_it_is_let_in() -> None:
    pending = _signal(15, 2 * SECOND - 10, result="already_pending")
    death = _death([(_signal(15), DEFAULT), (pending, DEFAULT)], 15)
    assert death.cause is not None and death.cause.time_ns == SECOND


def test_by_itself() -> None:
    assert _death([], 1 << 8).cause is None


def test_a_storm_is_told_by_its_beginning_and_its_end() -> None:
    storm = [(_signal(15, SECOND + n, result="ignored"), IGNORED) for n in range(500)]
    kill = (_signal(9, SECOND + 600), DEFAULT)
    after = [(_signal(15, SECOND + 700 + n, result="ignored"), IGNORED) for n in range(200)]
    death = _death([*storm, kill, *after], 9)
    assert death.cause is not None and death.cause.time_ns == SECOND + 600
    assert len(death.signals) == 64
    times = [brief.time_ns for brief in death.signals]
    assert times == sorted(times)


def test_a_reused_pid_is_another_process() -> None:
    correlator = Correlator()
    correlator.signal((100, 1), _signal(15), DEFAULT)
    assert correlator.death(RawDeath(5, 0, 15, 1, TASK), Process(100), 5).cause is None
