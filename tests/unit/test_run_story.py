"""What `killtrace run` tells: which ends, in which words, by whom, and no more than fits."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from killtrace.model import (
    Ancestor,
    Cause,
    Death,
    Exit,
    Lost,
    Origin,
    Process,
    Record,
    Signal,
    SignalBrief,
)
from killtrace.run.follower import Follower
from killtrace.run.story import End, Story, sentence, worth_telling

OWN, COMMAND = 700, 701
MS = 1_000_000
ME = Process(pid=OWN, ns_pid=OWN, start_time_ns=5, comm="killtrace", cmdline=("killtrace", "run"))
CMD = Process(
    pid=COMMAND, ns_pid=COMMAND, ppid=OWN, start_time_ns=0, comm="make", cmdline=("make", "-j8")
)
CHILD = Process(pid=800, ns_pid=800, ppid=COMMAND, start_time_ns=0, comm="cc1", cmdline=("cc1",))
KILLER = Process(pid=9, start_time_ns=1, comm="kill", cmdline=("kill", "701"), user="alice")
OOM = Origin("oom", "OOM killer: cgroup /batch reached its limit of 50 MB")
CALL = Origin("process", "sent it", detail={"syscall": "kill", "group": None})


def death(
    process: Process = CHILD,
    signo: int | None = 9,
    status: int | None = None,
    cause: Cause | None = None,
    at_ms: int = 1200,
    **more: Any,
) -> Death:
    return Death(at_ms * MS, process, Exit(signo, status), cause, **more)


def cause(
    sender: Process | None = KILLER, origin: Origin = CALL, signo: int = 9, at_ms: int = 1199
) -> Cause:
    return Cause(signo, at_ms * MS, sender, origin)


def brief(signo: int, sender: Process | None, at_ms: int, result: Any = "delivered") -> SignalBrief:
    pid, comm = (None, None) if sender is None else (sender.pid, sender.comm)
    return SignalBrief(signo, at_ms * MS, result, pid, comm, "process" if sender else "terminal")


def said(told: Death, *, is_command: bool = False, others: Iterable[End] = ()) -> str:
    return sentence(End(told, is_command), OWN, list(others))


# --- which ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "is_command", "worth"),
    [
        (death(signo=9), False, True),
        (death(signo=13), False, False),
        (death(signo=13), True, True),
        (death(signo=None, status=0), True, False),
        (death(signo=None, status=3), True, True),
        (death(signo=None, status=3), False, False),
        (death(signo=None, status=143, cause=cause(signo=15)), False, True),
        (death(signo=None, status=1, cause=cause(signo=15)), False, False),
        (death(signo=None, status=0, cause=cause(signo=15)), True, False),
    ],
)
def test_what_is_worth_telling(told: Death, is_command: bool, worth: bool) -> None:
    assert worth_telling(End(told, is_command)) is worth


# --- in which words ------------------------------------------------------------------------------


def test_a_kill_and_its_sender() -> None:
    assert said(death(cause=cause())) == (
        "800 cc1 died of SIGKILL after running 1.2 s: sent by 9 kill 701 (alice)"
    )


def test_the_oom_killer() -> None:
    assert said(death(cause=cause(None, OOM))) == (
        "800 cc1 died of SIGKILL after running 1.2 s:"
        " OOM killer: cgroup /batch reached its limit of 50 MB"
    )


def test_a_guess_is_said_to_be_one() -> None:
    guess = Origin("oom", "OOM killer", certain=False)
    assert said(death(cause=cause(None, guess))).endswith(": probably OOM killer")


def test_who_started_killtrace_is_no_news() -> None:
    steps = tuple(Ancestor(pid, comm) for pid, comm in ((COMMAND, "make"), (OWN, "kt"), (2, "sh")))
    sender = Process(pid=9, comm="kill", ancestors=steps)
    assert said(death(cause=cause(sender))).endswith(": sent by 9 kill ← make")


def test_term_before_kill() -> None:
    story = (brief(15, KILLER, 199, "ignored"), brief(9, KILLER, 1199))
    assert said(death(cause=cause(), signals=story)).endswith(
        "; it had had SIGTERM from 9 kill 1.0 s before, which it ignored"
    )


def test_a_signal_that_is_raised_again() -> None:
    by_itself = cause(CHILD, CALL, signo=2)
    story = (brief(2, None, 1100), brief(2, CHILD, 1199))
    assert said(death(signo=2, cause=by_itself, signals=story)).endswith(
        ": it sent it to itself with kill(2); it had had SIGINT (terminal) 99 ms before"
    )


def test_no_signal_was_seen() -> None:
    assert "the kernel told of no signal" in said(death(signo=31, cause=None))


def test_a_status_of_its_own() -> None:
    told = said(death(CMD, None, 3), is_command=True)
    assert told == "701 make -j8 exited with status 3 after running 1.2 s, by itself"


def test_a_status_of_a_child() -> None:
    ends = [End(death(cause=cause()), False)]
    told = said(death(CMD, None, 137), is_command=True, others=ends)
    assert told.endswith("which is 128 + 9: 800 died of SIGKILL")


def test_a_status_that_only_looks_like_a_kill() -> None:
    told = said(death(CMD, None, 137), is_command=True)
    assert told.endswith("by itself: no SIGKILL reached it or anything that it started")


def test_nothing_is_claimed_where_events_were_lost() -> None:
    told = sentence(End(death(CMD, None, 137), True), OWN, [], lost=1)
    assert told.endswith("which is 128 + 9")


def test_a_handled_signal() -> None:
    told = death(CMD, None, 7, cause(signo=15), elapsed_ns=12 * MS)
    assert said(told, is_command=True) == (
        "701 make -j8 exited with status 7 after running 1.2 s, having handled SIGTERM 12 ms"
        " before: sent by 9 kill 701 (alice)"
    )


def test_hostile_names_are_escaped() -> None:
    evil = Process(pid=800, start_time_ns=0, comm="\033[31m\n", cmdline=None)
    told = said(death(evil, cause=cause(Process(pid=1, comm="\033]0;x\007"))))
    assert told.isprintable()


def test_a_container_s_own_pid_is_said() -> None:
    inside = Process(pid=800, ns_pid=12, start_time_ns=0, comm="cc1")
    assert said(death(inside, cause=cause())).startswith("800 (12 in its PID namespace) cc1 died")


def test_a_run_that_kills_without_end_is_bounded() -> None:
    story = Story(OWN)
    for number in range(1009):
        story.add(End(death(at_ms=number, cause=cause()), False))
    lines = list(story.lines(lost=5))
    assert len(lines) == 100 + 1 + 100 + 1
    assert lines[100] == "809 more were killed; --summary json --summary-file PATH tells all"
    assert lines[-1].startswith("5 events were lost")


# --- by whom: what killtrace passes on -----------------------------------------------------------


def signal_to(target: Process, sender: Process | None, at_ms: int, signo: int = 15) -> Signal:
    return Signal(at_ms * MS, signo, 0, "delivered", "process", sender, target, CALL)


class Script:
    """A tracer that tells what a test has written down, once it is asked for."""

    def __init__(self, *records: Record) -> None:
        self._records = list(records)
        self.told: list[Death] = []
        self.commands: list[bool] = []
        self.losses: list[Lost] = []

    def round(self, timeout_ms: int) -> list[Record]:
        records, self._records = self._records, []
        if not records:
            threading.Event().wait(0.001)
        return records

    def finish(self) -> list[Record]:
        return self.round(0)

    def death(self, death: Death, *, is_command: bool) -> None:
        self.told.append(death)
        self.commands.append(is_command)

    def lost(self, record: Lost) -> None:
        self.losses.append(record)


def follow(*records: Record) -> tuple[Follower, Script]:
    script = Script(*records)
    return Follower(script, script, OWN, COMMAND), script


def test_what_came_to_both_is_covered() -> None:
    follower, _ = follow(signal_to(ME, KILLER, 10), signal_to(CMD, KILLER, 11))
    assert follower.covered(15)
    follower.finish()


@pytest.mark.parametrize(
    "other",
    [
        signal_to(CMD, KILLER, 11, signo=1),
        signal_to(CMD, CHILD, 11),
        signal_to(CHILD, KILLER, 11),
        signal_to(CMD, KILLER, 9000),
    ],
)
def test_what_came_to_killtrace_alone_is_not(other: Signal) -> None:
    follower, _ = follow(signal_to(ME, KILLER, 10), other)
    assert not follower.covered(15)
    follower.finish()


def test_each_signal_counts_once() -> None:
    follower, _ = follow(
        signal_to(ME, KILLER, 10), signal_to(CMD, KILLER, 11), signal_to(ME, KILLER, 500)
    )
    assert follower.covered(15)
    assert not follower.covered(15)
    follower.finish()


def test_what_is_passed_on_is_told_with_its_sender() -> None:
    end = death(CMD, 15, cause=cause(ME, CALL, 15, at_ms=50))
    follower, script = follow(signal_to(ME, KILLER, 10), end)
    follower.finish()
    (told,) = script.told
    assert script.commands == [True]
    assert said(told, is_command=True).endswith(": sent by 9 kill 701 (alice), by way of killtrace")
    assert told.cause is not None and told.cause.origin.detail["via"] == "killtrace run"


def test_a_trace_that_fails_is_told_and_passes_signals_on() -> None:
    class Broken(Script):
        def round(self, timeout_ms: int) -> list[Record]:
            raise RuntimeError("no more")

    script = Broken()
    follower = Follower(script, script, OWN, COMMAND)
    assert not follower.covered(15)
    follower.finish()
    assert isinstance(follower.failure, RuntimeError)
