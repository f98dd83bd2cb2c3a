"""Accounting, journal entries, and how findings become verdicts."""

from __future__ import annotations

import bz2
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from killtrace.errors import InvalidUseError
from killtrace.evidence import accounting, journal, kernel_source
from killtrace.evidence.findings import UNKNOWN_PID, Finding
from killtrace.evidence.gather import Sources, gather
from killtrace.evidence.kernel_log import KernelLine, parse
from killtrace.evidence.merge import verdicts
from killtrace.model import Cause, Death, Exit, Origin, Process
from killtrace.store.reader import Target

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import machine
from schema_check import faults
from test_kernel_log import CLASSIC, NEW

SECOND = 1_000_000_000


def _pacct_v3(exitcode: int, pid: int = 77, elapsed: float = 250.0, ppid: int = 1) -> bytes:
    head = struct.pack(
        "<BBHIIIIIIf", 0x10, 3, 0, exitcode, 1000, 1000, pid, ppid, 1_700_000_000, elapsed
    )
    return head + b"\0" * 16 + b"sleep".ljust(16, b"\0")


def test_accounting_tells_who_died_of_a_signal() -> None:
    found = list(
        accounting.findings(_pacct_v3(9) + _pacct_v3(0) + _pacct_v3(0x83) + b"\x10\x03cut")
    )
    assert [item.pid for item in found] == [77, 77]
    assert found[0].time_ns == int(1_700_000_002.5 * SECOND)
    assert found[0].death is not None and found[0].death.exit == Exit(9, None)
    assert found[1].death is not None and found[1].death.exit == Exit(3, None, True)


def test_accounting_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidUseError, match="acct"):
        list(accounting.findings(b"GIF89a" * 20))


def test_journal_entries() -> None:
    entries = [
        {"__REALTIME_TIMESTAMP": "1700000000000000", "_PID": "1", "UNIT": "web.service",
         "MESSAGE": "web.service: State 'stop-sigterm' timed out. Killing."},
        {"__REALTIME_TIMESTAMP": "1700000000000001", "_PID": "1", "UNIT": "web.service",
         "MESSAGE": "web.service: Killing process 77 (sleep) with signal SIGKILL."},
        {"__REALTIME_TIMESTAMP": "1700000001000000", "_TRANSPORT": "kernel", "_BOOT_ID": "a",
         "MESSAGE": CLASSIC},
        {"MESSAGE_ID": "fc2e22bc6ee647b6b90729ab34a250b1", "COREDUMP_PID": "5",
         "COREDUMP_SIGNAL": "11", "COREDUMP_COMM": "app", "MESSAGE": [65, 66]},
        {"MESSAGE": None, "_PID": []},
        {"SYSLOG_IDENTIFIER": "sudo", "MESSAGE": "  joe : COMMAND=/usr/bin/pkill sleep"},
        {"SYSLOG_IDENTIFIER": "systemd-logind", "MESSAGE": "New session 4 of user joe."},
    ]  # fmt: skip
    found = list(journal.findings(entries))
    assert [item.pid for item in found] == [None, 77, 179944, 5, None]
    assert found[0].unit == "web.service" and found[0].related
    assert found[2].time_ns == 1_700_000_001 * SECOND


def _typed(command: str, seconds_before: float = 5) -> Finding:
    """sudo's line of a command, before the death of `_death("…", 100, …)`."""
    entry = {
        "__REALTIME_TIMESTAMP": str(int((100 - seconds_before) * 1_000_000)),
        "SYSLOG_IDENTIFIER": "sudo",
        "MESSAGE": f"   joe : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND={command}",
    }
    (found,) = journal.findings([entry])
    return found


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("/usr/bin/kill -9 77", True),
        ("/usr/bin/kill -9 78", False),
        ("/usr/bin/kill -9 -1", True),
        ("/usr/bin/pkill slee", True),
        ("/usr/bin/pkill sleep(", False),
        ("/usr/bin/pkill -u joe", False),
        ("/usr/bin/killall sleep", True),
        ("/usr/bin/killall slee", False),
        ("/usr/bin/systemctl stop web", True),
        ("/usr/bin/systemctl stop other", False),
        ("/usr/bin/systemctl kill -s HUP web", False),
        ("/usr/sbin/reboot", True),
    ],
)
def test_a_command_under_sudo_stands_with_the_death_that_it_names(
    command: str, named: bool
) -> None:
    death = _death("journal", 100, True)
    assert death.death is not None
    process = replace(death.death.process, unit="web.service")
    died = replace(death, death=replace(death.death, process=process))
    (verdict,) = verdicts([died, _typed(command)])
    told = [item.text for item in verdict.evidence if item.text.startswith("sudo: joe")]
    assert len(told) == named
    (late,) = verdicts([died, _typed(command, seconds_before=-5)])
    assert len(late.evidence) == 1


@pytest.mark.parametrize("command", ["/usr/bin/systemctl start web", "/usr/bin/ls kill", ""])
def test_a_command_that_ends_nothing_is_no_evidence(command: str) -> None:
    entry = {"SYSLOG_IDENTIFIER": "sudo", "MESSAGE": f"joe : COMMAND={command}"}
    assert list(journal.findings([entry])) == []


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Removed session 4.", True),
        ("Session 4 logged out. Waiting for processes to exit.", True),
        ("Removed session 14.", False),
        ("System is rebooting.", True),
    ],
)
def test_what_logind_says_of_a_session_and_of_the_machine(message: str, told: bool) -> None:
    entry = {
        "__REALTIME_TIMESTAMP": "99000000",
        "SYSLOG_IDENTIFIER": "systemd-logind",
        "MESSAGE": message,
    }
    died = replace(_death("store", 100, True), unit="session-4.scope")
    (verdict,) = verdicts([died, *journal.findings([entry])])
    assert [item.text for item in verdict.evidence] == told * [f"logind: {message}"] + [
        "store says"
    ]


def _death(source: str, time_s: float, cause: bool) -> Finding:
    time_ns = int(time_s * SECOND)
    why = Cause(9, time_ns, None, Origin("process", "50 sent it")) if cause else None
    death = Death(time_ns, Process(77, comm="sleep"), Exit(9, None), why)
    return Finding(source, time_ns, f"{source} says", death, cause, pid=77, comm="sleep")  # type: ignore[arg-type]


def test_one_death_from_many_sources_is_one_verdict() -> None:
    found = [
        _death("accounting", 103, False),
        _death("audit", 100, True),
        _death("journal", 101, False),
    ]
    (verdict,) = verdicts(found)
    assert verdict.certain and verdict.death.cause is not None
    assert [item.source for item in verdict.evidence] == ["audit", "journal", "accounting"]


def test_a_pid_that_died_twice_is_two() -> None:
    first, second = verdicts([_death("store", 100, True), _death("accounting", 900, False)])
    assert not first.certain and second.certain
    assert "no record tells who sent it" in first.summary


def test_the_sentence_that_a_person_wants() -> None:
    (event,) = parse([KernelLine(CLASSIC)])
    (verdict,) = verdicts([kernel_source.finding(event)])
    assert verdict.summary == (
        "python (179944) was killed by the kernel's OOM killer because the machine ran out of"
        " memory, while it held 12.1 GB of memory"
    )
    events = parse(KernelLine(line) for line in NEW.splitlines())
    (verdict,) = verdicts([kernel_source.finding(event) for event in events])
    assert (
        "because cgroup /batch reached its limit of 30 MB, while it held 37.8 MB" in verdict.summary
    )


def test_rotated_logs_are_read_or_named(tmp_path: Path) -> None:
    logs = tmp_path / "var/log"
    logs.mkdir(parents=True)
    row = f"Nov 23 15:04:20 host kernel: [ 5.0] {CLASSIC}\n"
    with bz2.open(logs / "kern.log.2.bz2", "wt") as packed:
        packed.write(row)
    (logs / "kern.log.3.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    found, states = gather(Sources(root=tmp_path), Target(), lambda _: None)
    assert [item.pid for item in found] == [179944]
    unread = [state for state in states if state.name == "kernel-log" and not state.read]
    (state,) = unread
    assert "kern.log.3.zst" in (state.reason or "") and "zstdcat" in (state.mend or "")


WEB = "web.service"


def _main_ended(code: str, number: int, time_s: int = 1_700_000_002) -> Finding:
    """The journal's word on how a service's main process ended."""
    message = f"{WEB}: Main process exited, code={code}, status={number}/X"
    entry = {"__REALTIME_TIMESTAMP": f"{time_s}000000", "UNIT": WEB, "MESSAGE": message}
    (found,) = journal.findings([entry])
    return found


def test_a_service_that_was_killed_though_nothing_else_tells() -> None:
    (verdict,) = verdicts([_main_ended("killed", 9)])
    assert verdict.summary == (
        "the main process of web.service was ended by SIGKILL; no record tells who sent it"
    )
    (verdict,) = verdicts([_main_ended("exited", 3)])
    assert verdict.summary == "the main process of web.service exited by itself with status 3"


def test_a_service_and_its_process_are_one_death() -> None:
    by_accounting = list(accounting.findings(_pacct_v3(0x8B, ppid=1)))
    (verdict,) = verdicts([*by_accounting, _main_ended("dumped", 11)])
    assert (verdict.death.process.pid, verdict.death.process.unit) == (77, WEB)
    assert verdict.summary.startswith("sleep (77) was ended by SIGSEGV, and dumped core")


@pytest.mark.parametrize(
    "others",
    [
        _pacct_v3(9, ppid=1),  # another signal
        _pacct_v3(0x8B, ppid=500),  # no child of the manager
        _pacct_v3(0x8B, ppid=1) + _pacct_v3(0x8B, ppid=1, pid=78),  # which of the two?
    ],
)
def test_a_service_whose_process_can_not_be_told(others: bytes) -> None:
    told = verdicts([*accounting.findings(others), _main_ended("dumped", 11)])
    (of_unit,) = (verdict for verdict in told if verdict.death.process.unit == WEB)
    assert of_unit.death.process.pid == UNKNOWN_PID
    assert [item.source for item in of_unit.evidence] == ["journal"]


def test_an_oom_kill_is_found_by_its_unit() -> None:
    lines = NEW.replace("/batch", f"/system.slice/{WEB}").splitlines()
    events = parse(KernelLine(line, time_ns=1_700_000_002 * SECOND) for line in lines)
    kernel = [kernel_source.finding(event) for event in events]
    (verdict,) = verdicts([*kernel, *kernel, _main_ended("killed", 9)])
    assert verdict.death.process.unit == WEB and verdict.death.process.pid > 0
    assert verdict.death.cause is not None and verdict.death.cause.origin.kind == "oom"
    assert [item.source for item in verdict.evidence] == ["kernel-log", "journal"]


def test_a_stop_that_timed_out() -> None:
    rows = [
        f"{WEB}: State 'stop-sigterm' timed out. Killing.",
        f"{WEB}: Killing process 77 (sleep) with signal SIGKILL.",
        f"{WEB}: Main process exited, code=killed, status=9/KILL",
    ]
    entries = [
        {"__REALTIME_TIMESTAMP": f"170000000200000{at}", "_PID": "1", "UNIT": WEB, "MESSAGE": row}
        for at, row in enumerate(rows)
    ]
    (verdict,) = verdicts(journal.findings(entries))
    assert verdict.certain
    assert verdict.summary == "sleep (77) was ended by SIGKILL: systemd killed it, of web.service"
    assert [item.text for item in verdict.evidence] == rows


def test_the_main_process_is_the_first_that_systemd_ends() -> None:
    rows = [
        f"{WEB}: Killing process 77 (sh) with signal SIGKILL.",
        f"{WEB}: Killing process 78 (sleep) with signal SIGKILL.",
        f"{WEB}: Main process exited, code=killed, status=9/KILL",
    ]
    entries = [
        {"__REALTIME_TIMESTAMP": f"170000000200000{at}", "_PID": "1", "UNIT": WEB, "MESSAGE": row}
        for at, row in enumerate(rows)
    ]
    told = {verdict.death.process.pid: verdict for verdict in verdicts(journal.findings(entries))}
    assert sorted(told) == [77, 78]
    assert [item.text for item in told[77].evidence] == [rows[0], rows[2]]


def test_a_verdict_without_a_pid_is_as_the_schema_has_it() -> None:
    from killtrace.cli.why import verdict_to_json

    (verdict,) = verdicts([_main_ended("killed", 9)])
    record = json.loads(json.dumps(verdict_to_json(verdict)))
    assert faults(record) == []
    assert record["death"]["process"]["pid"] is None


def test_verdicts_are_as_the_schema_has_them() -> None:
    from killtrace.cli.why import verdict_to_json

    events = list(parse(KernelLine(line) for line in (NEW + CLASSIC).splitlines()))
    for verdict in verdicts([kernel_source.finding(event) for event in events]):
        assert faults(json.loads(json.dumps(verdict_to_json(verdict)))) == []


def test_a_reader_that_leaves_is_a_quiet_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(CLASSIC.replace("179944", str(1000 + n)) + "\n" for n in range(300)))
    why = [*machine.command(), "why", "--kmsg", str(log), "--format", "json"]
    shown = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | head -1', "-", *why],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["type"] == "verdict"
