"""The table, exactly as it is shown at 90 columns."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from killtrace.model import (
    Ancestor,
    Attempt,
    Cause,
    Container,
    Death,
    Exit,
    Lost,
    Origin,
    Process,
    Record,
    Signal,
    SignalBrief,
)
from killtrace.sinks.table import TableSink

MS = 1_000_000
# 15:04:11 UTC
T0 = 1_795_446_251 * 1_000_000_000
BASH, SSHD = Ancestor(40, "bash", ("bash",)), Ancestor(30, "sshd", ("sshd: alice",))
INIT = Ancestor(1, "systemd", ("/sbin/init",))
PKILL = Process(
    pid=4681,
    tid=4681,
    start_time_ns=1,
    comm="pkill",
    cmdline=("/usr/bin/pkill", "sleep"),
    uid=1000,
    user="alice",
    tty="/dev/pts/0",
    ancestors=(BASH, replace(BASH, pid=39), SSHD, INIT),
)
SLEEP = Process(pid=4716, tid=4716, start_time_ns=2, comm="sleep", cmdline=("sleep", "100"))
SYSTEMD = Process(pid=1, tid=1, start_time_ns=0, comm="systemd", cmdline=("/sbin/init",))
SYSTEMCTL = Process(
    pid=77, comm="systemctl", cmdline=("systemctl", "stop", "web"), user="root", ancestors=(BASH,)
)


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def table(text: str) -> str:
    """Lines as they stand in the test, eight columns in."""
    lines = text.split("\n")[1:-1]
    return "".join(line.removeprefix(" " * 8) + "\n" for line in lines)


def flat(text: str) -> str:
    return " ".join(text.split())


def shown(*records: Record, ended: bool = True, **options: Any) -> str:
    out = io.StringIO()
    sink = TableSink(out, width=90, **options)
    for record in records:
        sink.write(record)
    if ended:
        sink.end_round()
    return out.getvalue()


def body(*records: Record) -> str:
    return shown(*records).partition("\n")[2]


def origin(summary: str = "", kind: str = "process", certain: bool = True, **detail: Any) -> Origin:
    return Origin(kind, summary or "4681 (pkill sleep) sent it with kill(2)", certain, detail)


def signal(**changes: Any) -> Signal:
    made = Signal(T0, 15, 0, "delivered", "process", PKILL, SLEEP, origin())
    return replace(made, **changes)


def death(**changes: Any) -> Death:
    cause = Cause(15, T0, PKILL, origin())
    return replace(Death(T0 + MS, SLEEP, Exit(15, None), cause, (), 400_000), **changes)


def to_group(pid: int, command: str, after_ms: float = 0, **changes: Any) -> Signal:
    target = Process(pid=pid, tid=pid, start_time_ns=pid, cmdline=tuple(command.split()))
    by = Process(pid=12371, tid=12371, comm="kill", cmdline=("kill", "--", "-12371"))
    return replace(
        signal(sender=by, target=target, time_ns=T0 + int(after_ms * MS)),
        **{"origin": origin("12371 (kill -- -12371) sent it", group=12371), **changes},
    )


# --- one signal --------------------------------------------------------------------------------


def test_a_signal_and_its_death() -> None:
    assert shown(signal(), death()) == table(
        """
        TIME      SIGNAL     TARGET               ORIGIN
        15:04:11  SIGTERM    4716 sleep 100       4681 pkill sleep ← bash ← sshd (alice, pts/0)
                  died       4716 sleep 100 of SIGTERM after 0.4 ms
        """
    )


def test_exits() -> None:
    handled = death(exit=Exit(None, 7), elapsed_ns=12 * MS)
    alone = death(exit=Exit(None, 3), cause=None, elapsed_ns=None)
    core = death(exit=Exit(11, None, True))
    assert body(handled, alone, core) == table(
        """
                  exited     4716 sleep 100 with status 7 after 12 ms, having handled SIGTERM
                  exited     4716 sleep 100 with status 3, by itself
                  died       4716 sleep 100 of SIGSEGV after 0.4 ms, core dumped
        """
    )


def test_other_kinds_say_their_summary() -> None:
    told = signal(
        sender=None, origin=origin("Ctrl-C on /dev/pts/3", "terminal"), signo=2, result="ignored"
    )
    assert body(told) == table(
        """
        15:04:11  SIGINT     4716 sleep 100       Ctrl-C on /dev/pts/3 (ignored)
        """
    )


def test_notes() -> None:
    told = signal(repeats=41, result="already_pending", origin=origin(certain=False))
    assert flat(body(told)).endswith("pts/0) (already pending, 42 times more, probably)")
    thread = signal(scope="thread", target=replace(SLEEP, tid=4717))
    assert "(to thread 4717)" in flat(body(thread))


def test_long_lines_are_wrapped_and_long_targets_cut() -> None:
    long = replace(SLEEP, cmdline=("python3", "-m", "http.server", "--bind", "127.0.0.1", "8000"))
    by = replace(PKILL, cmdline=("pkill", "-f", "x" * 90))
    lines = body(signal(target=long, sender=by)).splitlines()
    assert [len(line) <= 90 for line in lines] == [True] * len(lines)
    assert lines[0].startswith("15:04:11  SIGTERM    4716 python3 -m ht…")


def test_container_is_in_front_of_the_target() -> None:
    inside = replace(SLEEP, container=Container("docker", "f0", "web"))
    assert "4716 [web] sleep 1" in body(signal(target=inside))


def test_control_characters_are_escaped() -> None:
    evil = replace(SLEEP, cmdline=("a\x1b[31m\n", "\x07"))
    out = body(signal(target=evil), death(process=evil))
    assert "\x1b" not in out and "\x07" not in out and out.count("\n") == len(out.splitlines())


def test_attempt_and_lost() -> None:
    refused = Attempt(T0, 9, "EPERM", "kill", PKILL, SLEEP)
    assert body(refused, Lost(T0, 5, "signals")) == table(
        """
        15:04:11  SIGKILL    4716 sleep 100       refused with EPERM: 4681 pkill sleep ← bash ←
                                                  sshd (alice, pts/0) (kill)
        15:04:11  LOST       5 events: the signals buffer was full
        """
    )


def test_dates() -> None:
    assert shown(signal(), dates=True).splitlines()[1].startswith("2026-11-23 15:04:11  SIGTERM ")


def test_a_verdict() -> None:
    brief = SignalBrief(15, T0, "delivered", 4681, "pkill", "process")
    assert shown(death(signals=(brief,)), verdicts=True) == table(
        """
        died 4716 sleep 100 of SIGTERM after 0.4 ms
          15:04:11  SIGTERM from 4681 pkill
          cause     4681 pkill sleep ← bash ← sshd (alice, pts/0)
        """
    )


# --- noise -------------------------------------------------------------------------------------


def test_noise_is_hidden_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    sink = TableSink(out, width=90)
    quiet = signal(
        signo=1, sender=None, result="ignored", origin=origin("its leader", "session-exit")
    )
    assert not sink.write(quiet)
    assert not sink.write(death(cause=None, exit=Exit(None, 0)))
    sink.close()
    assert out.getvalue() == ""
    assert "2 records of signals that killed nobody not shown" in capsys.readouterr().err


# --- who asked, and why ------------------------------------------------------------------------


def test_requester() -> None:
    summary = "900 (runc kill f0 15) sent it with kill(2); probably asked by 77 (docker stop web)"
    runc = Process(pid=900, cmdline=("runc", "kill", "f0", "15"))
    asking = replace(SYSTEMCTL, cmdline=("docker", "stop", "web"))
    told = signal(sender=runc, origin=origin(summary, certain=False, requester=asking, via="runc"))
    assert body(told) == table(
        """
        15:04:11  SIGTERM    4716 sleep 100       900 runc kill f0 15; probably asked by 77 docker
                                                  stop web ← bash (root) via runc
        """
    )


def test_systemd_says_why() -> None:
    summary = "systemd: stop timed out, final SIGKILL to web.service 1.5 s after SIGTERM"
    asked = f"{summary}; probably asked by 77 (systemctl stop web), run by root"
    told = signal(
        sender=SYSTEMD,
        signo=9,
        origin=origin(asked, certain=False, requester=SYSTEMCTL, via="systemd"),
    )
    assert body(told) == table(
        """
        15:04:11  SIGKILL    4716 sleep 100       systemd: stop timed out, final SIGKILL to
                                                  web.service 1.5 s after SIGTERM; probably asked
                                                  by 77 systemctl stop web ← bash (root)
        """
    )
    assert body(signal(sender=SYSTEMD, signo=9, origin=origin(summary))) == table(
        """
        15:04:11  SIGKILL    4716 sleep 100       systemd: stop timed out, final SIGKILL to
                                                  web.service 1.5 s after SIGTERM
        """
    )


def test_timeout_says_why() -> None:
    by = Process(pid=9, cmdline=("timeout", "0.1", "sleep", "5"), ancestors=(BASH,), user="root")
    told = signal(sender=by, origin=origin("its time limit of 0.1 s ran out (timeout)"))
    assert body(told) == table(
        """
        15:04:11  SIGTERM    4716 sleep 100       9 timeout 0.1 sleep 5 ← bash (root): its time
                                                  limit of 0.1 s ran out (timeout)
        """
    )


def test_sudo_says_who_typed_it() -> None:
    sudo = Process(pid=4680, comm="sudo", cmdline=("sudo", "pkill", "sleep"), user="alice")
    by = replace(
        PKILL, user="root", tty=None, ancestors=(Ancestor(4680, "sudo", sudo.cmdline), BASH)
    )
    told = signal(sender=by, origin=origin("4681 (pkill) x", requester=sudo, via="sudo"))
    assert flat(body(told)).endswith("4681 pkill sleep ← sudo ← bash (root); typed by alice")
    same = replace(told, sender=replace(by, user="alice"))
    assert flat(body(same)).endswith("4681 pkill sleep ← sudo ← bash (alice)")


def test_an_ancestor_whose_name_is_not_known() -> None:
    by = replace(PKILL, ancestors=(Ancestor(5, None, ("/bin/sh", "/opt/x")), Ancestor(6, None)))
    assert "pkill sleep ← sh ← ? (alice" in body(signal(sender=by))


# --- one act, many victims ---------------------------------------------------------------------


def test_an_act_is_one_line() -> None:
    act = [
        to_group(12372, "sleep 5"),
        to_group(12371, "timeout 0.1 sleep 5", 0.1, result="ignored"),
        to_group(12380, "sh", 49),
    ]
    assert body(*act) == table(
        """
        15:04:11  SIGTERM    3 processes          12371 kill -- -12371 to group 12371: 12372 sleep
                                                  5, 12371 timeout 0.1 sleep 5 (ignored), 12380 sh
        """
    )


def test_to_all() -> None:
    everyone = origin("12371 (kill) x", group=-1)
    act = [to_group(5, "a", origin=everyone), to_group(6, "b", origin=everyone)]
    assert flat(body(*act)).endswith("kill -- -12371 to every process: 5 a, 6 b")


def test_many_victims_are_counted() -> None:
    act = [to_group(100 + n, f"worker {n}") for n in range(11)]
    out = " ".join(body(*act).split())
    assert "11 processes" in out
    assert "107 worker 7, and 3 more" in out and "worker 8" not in out


def test_deaths_of_an_act_follow_it() -> None:
    first, second = to_group(5, "a"), to_group(6, "b", 1)
    dead = death(process=first.target)
    out = body(first, dead, second, death(process=second.target)).splitlines()
    assert [line[10:20].split()[0] for line in out] == ["SIGTERM", "died", "died"]
    assert "2 processes" in out[0]
    assert out[1].endswith("5 a of SIGTERM after 0.4 ms")
    assert out[2].endswith("6 b of SIGTERM after 0.4 ms")


def test_a_group_of_one_is_an_ordinary_line() -> None:
    assert body(to_group(5, "a")) == table(
        """
        15:04:11  SIGTERM    5 a                  12371 kill -- -12371 to group 12371
        """
    )


@pytest.mark.parametrize(
    "second",
    [
        to_group(6, "b", 51),
        to_group(6, "b", signo=9),
        to_group(6, "b", origin=origin("12371 (kill) x", group=4)),
        to_group(6, "b", sender=PKILL),
        to_group(6, "b", repeats=1),
    ],
    ids=["later", "another signal", "another group", "another sender", "a run"],
)
def test_what_is_no_part_of_the_act(second: Signal) -> None:
    lines = [line for line in body(to_group(5, "a"), second).splitlines() if line[0] != " "]
    assert len(lines) == 2


def test_an_act_ends_with_what_follows_and_with_the_round() -> None:
    act = to_group(5, "a"), to_group(6, "b")
    assert shown(*act, ended=False) == ""
    lines = shown(*act, signal(), ended=False).splitlines()
    assert "2 processes" in lines[1] and "4716 sleep 100" in lines[-1]


def test_close_shows_what_is_held_back() -> None:
    out = io.StringIO()
    sink = TableSink(out, width=90)
    sink.write(to_group(5, "a"))
    sink.close()
    assert "5 a" in out.getvalue()
