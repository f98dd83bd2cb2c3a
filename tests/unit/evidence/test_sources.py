"""Accounting, journal entries, and how findings become verdicts."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from killtrace.errors import InvalidUseError
from killtrace.evidence import accounting, journal, kernel_source
from killtrace.evidence.findings import Finding
from killtrace.evidence.kernel_log import KernelLine, parse
from killtrace.evidence.merge import verdicts
from killtrace.model import Cause, Death, Exit, Origin, Process

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from schema_check import faults
from test_kernel_log import CLASSIC, NEW

SECOND = 1_000_000_000


def _pacct_v3(exitcode: int, pid: int = 77, elapsed: float = 250.0) -> bytes:
    head = struct.pack(
        "<BBHIIIIIIf", 0x10, 3, 0, exitcode, 1000, 1000, pid, 1, 1_700_000_000, elapsed
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
    ]  # fmt: skip
    found = list(journal.findings(entries))
    assert [item.pid for item in found] == [None, 77, 179944, 5, None]
    assert found[0].unit == "web.service" and found[0].related
    assert found[2].time_ns == 1_700_000_001 * SECOND


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


def test_verdicts_are_as_the_schema_has_them() -> None:
    from killtrace.cli.why import verdict_to_json

    events = list(parse(KernelLine(line) for line in (NEW + CLASSIC).splitlines()))
    for verdict in verdicts([kernel_source.finding(event) for event in events]):
        assert faults(json.loads(json.dumps(verdict_to_json(verdict)))) == []
