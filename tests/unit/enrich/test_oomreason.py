"""Why a userspace OOM killer chose its victim, from the lines that it logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from killtrace.enrich.oomreason import OomReasons, reason_in, syslog_lines
from killtrace.model import Process

S = 1_000_000_000
CGROUP = "/user.slice/user-1000.slice/user@1000.service/app.slice/app.scope"
VICTIM = Process(pid=2677144, cgroup=CGROUP)
DAEMON = Process(pid=904, comm="earlyoom")
EARLYOOM = [
    "mem avail: 11750 of 124610 MiB (9.43%), swap free: 207 of 16383 MiB (1.27%)",
    "low memory! at or below SIGTERM limits: mem 10.00%, swap 10.00%",
    'sending SIGTERM to process 2677144 uid 996 "llama-server": badness 1022, VmRSS 11791 MiB',
]


def test_earlyoom() -> None:
    assert reason_in(EARLYOOM, VICTIM) == (
        "low memory! at or below SIGTERM limits: mem 10.00%, swap 10.00%"
    )
    assert reason_in(EARLYOOM[2:], VICTIM) == EARLYOOM[2]
    assert reason_in(EARLYOOM, Process(pid=267714)) is None


def test_systemd_oomd() -> None:
    line = (
        f"Killed {CGROUP} due to memory pressure for /user.slice/user-1000.slice/user@1000.service"
        " being 60.21% > 50.00% for > 20s with reclaim activity"
    )
    assert reason_in([line], VICTIM) == (
        "memory pressure for /user.slice/user-1000.slice/user@1000.service being 60.21% > 50.00%"
        " for > 20s with reclaim activity"
    )
    inside = Process(pid=1, cgroup=CGROUP + "/inner")
    assert reason_in(["...", line, "..."], inside) is not None
    assert reason_in([line], Process(pid=1, cgroup=CGROUP + "2")) is None
    assert reason_in([line], Process(pid=1)) is None


def test_systemd_oomd_swap() -> None:
    line = (
        f"Killed {CGROUP} due to memory used (1) / total (2) and swap used (3) / total (4) being"
        " more than 90.00%"
    )
    reason = reason_in([line], VICTIM)
    assert reason is not None and reason.startswith("memory used (1)")


def test_oomd() -> None:
    line = (
        "oomd kill: 81.28 80.05 42.78 user.slice/user-1000.slice/user@1000.service/app.slice/"
        "app.scope 1000 ruleset:[protection] detectorgroup:[pressure] killer:[kill_by_memory] v2"
    )
    assert reason_in([line], VICTIM) == (
        "ruleset:[protection] detectorgroup:[pressure] killer:[kill_by_memory] v2"
    )


def test_nohang() -> None:
    lines = [
        ">>>>>>>>",
        "Memory status that requires corrective actions:",
        "  MemAvailable [210 MiB, 2.7 %] <= hard_threshold_min_mem [235 MiB, 3.0 %]",
        "  SwapFree [0 MiB, 0.0 %] <= hard_threshold_min_swap [0 MiB, 5.0 %]",
        "Recheck memory levels...",
        "Implementing a corrective action:",
        "  Sending SIGKILL to the victim",
    ]
    assert reason_in(lines, VICTIM) == (
        "MemAvailable [210 MiB, 2.7 %] <= hard_threshold_min_mem [235 MiB, 3.0 %];"
        " SwapFree [0 MiB, 0.0 %] <= hard_threshold_min_swap [0 MiB, 5.0 %]"
    )


def test_nothing_in_nothing() -> None:
    assert reason_in([], VICTIM) is None
    assert reason_in(["Memory status that requires corrective actions:"], VICTIM) is None


class Log:
    """A log whose lines come at a later look; the clock goes on by what is slept."""

    def __init__(self, lines: Sequence[str], after: int) -> None:
        self.lines, self.after, self.looks, self.now_s = lines, after, 0, 0.0

    def __call__(self, daemon: Process, wall_ns: int) -> Sequence[str]:
        self.looks += 1
        return self.lines if self.looks > self.after else ["starting"]

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def reasons(log: Log) -> OomReasons:
    return OomReasons([log], log.sleep, lambda: log.now_s)


def test_it_waits_for_the_line_but_not_for_long() -> None:
    soon, never = Log(EARLYOOM, after=2), Log(EARLYOOM, after=99)
    assert reasons(soon)(DAEMON, VICTIM, 0) is not None
    assert reasons(never)(DAEMON, VICTIM, 0) is None
    assert never.now_s <= 0.3 and never.looks <= 6


def test_a_silent_daemon_is_not_waited_for_again_and_again() -> None:
    log = Log([], after=0)
    ask = reasons(log)
    for pid in range(50):
        assert ask(DAEMON, Process(pid=pid + 1), S + pid) is None
    assert log.now_s <= 0.3


def test_victims_of_one_act_share_its_reason() -> None:
    log = Log(["Killed /a due to this"], after=0)
    ask = reasons(log)
    for pid in range(50):
        assert ask(DAEMON, Process(pid=pid + 1, cgroup="/a"), pid) == "this"
    assert log.looks == 1
    assert ask(DAEMON, Process(pid=1, cgroup="/a"), 5 * S) == "this"
    assert log.looks == 2


def test_syslog(tmp_path: Path) -> None:
    (tmp_path / "syslog").write_text(
        "Nov 23 10:00:00 host earlyoom[903]: sending SIGTERM to process 2677144 other\n"
        + "".join(f"2026-11-23T10:00:01+01:00 host earlyoom[904]: {line}\n" for line in EARLYOOM)
        + "Nov 23 10:00:01 host kernel: x\n"
    )
    assert syslog_lines(DAEMON, 0, tmp_path) == EARLYOOM
    assert syslog_lines(Process(pid=5), 0, tmp_path) == []
    assert syslog_lines(DAEMON, 0, tmp_path / "none") == []
