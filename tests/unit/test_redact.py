from __future__ import annotations

import json

import pytest

from killtrace import text
from killtrace.model import Ancestor, Attempt, Cause, Death, Exit, Lost, Origin, Process, Signal
from killtrace.redact import redact_cmdline, redact_line, redact_record
from killtrace.wire import record_to_json

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("cmdline", "masked"),
    [
        (["mysql", "--password=x", "-px", "db"], ["mysql", "--password=***", "-p***", "***"]),
        (["mysql", "-p", "x"], ["mysql", "-p", "***"]),
        (["mysql", "--password", "x"], ["mysql", "--password", "***"]),
        (["curl", "-", "--", "https://u:p@h/"], ["curl", "-", "--", "***"]),
        (["/usr/bin/kill", "-9", "4716"], ["/usr/bin/kill", "-9", "4716"]),
        (["systemctl", "stop", "nginx"], ["systemctl", "stop", "nginx"]),
        (["python3.11", "train.py", "x"], ["python3.11", "train.py", "***"]),
        (["python3", "-c", "print(1)"], ["python3", "-c", "***"]),
        (["bash", "-c", "TOKEN=x run"], ["bash", "-c", "***"]),
        (["-bash"], ["-bash"]),
        (["env", "TOKEN=x", "run"], ["env", "***", "***"]),
        (["postgres: alice db 10.0.0.1"], ["postgres: ***"]),
        ([""], [""]),
        ([], []),
    ],
)
def test_command_lines(cmdline: list[str], masked: list[str]) -> None:
    assert list(redact_cmdline(cmdline)) == masked


def _process(pid: int, length: int = 1) -> Process:
    return Process(
        pid,
        comm="mysqld",
        cmdline=("/usr/sbin/mysqld", f"--password={SECRET * length}", SECRET),
        title=f"mysqld: {SECRET}",
        ancestors=(Ancestor(1, "init", ("init", SECRET)), Ancestor(2, "x", None)),
    )


@pytest.mark.parametrize("limit", [None, 60, 30, 25])
def test_no_secret_is_left_anywhere(limit: int | None) -> None:
    sender, target, requester = _process(7, 5), _process(8, 6), _process(9, 7)

    def named(process: Process) -> str:
        return text.command(process.cmdline, process.comm, limit)

    origin = Origin(
        "process",
        f"{named(sender)}, asked by {named(requester)}, ended {named(target)}",
        True,
        {"requester": requester, "via": f"systemctl by {named(sender)}"},
    )
    cause = Cause(15, 1, sender, origin)
    records = [
        Signal(1, 15, 0, "delivered", "process", sender, target, origin),
        Death(1, target, Exit(15, None), cause),
        Death(1, target, Exit(None, 0), None),
        Attempt(1, 15, "EPERM", "kill", sender, target),
        Attempt(1, 15, "ESRCH", "kill", sender, None),
    ]
    for record in records:
        shown = json.dumps(record_to_json(redact_record(record)))
        assert SECRET[:4] not in shown
        assert "mysqld" in shown


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        (
            "sudo: joe : USER=root ; ENV=TOKEN=x ; COMMAND=/usr/bin/mysql -px --user=x x",
            "sudo: joe : USER=root ; ENV=*** ; COMMAND=/usr/bin/mysql -p*** --user=*** ***",
        ),
        ("sudo: joe : COMMAND=/bin/kill -9 77", "sudo: joe : COMMAND=/bin/kill -9 77"),
        (
            'sending SIGTERM to process 5 uid 0 "mysqld": badness 9, cmdline "mysqld -px x"',
            'sending SIGTERM to process 5 uid 0 "mysqld": badness 9, cmdline "mysqld ***"',
        ),
    ],
)
def test_lines_of_logs(line: str, masked: str) -> None:
    assert redact_line(line) == masked
    origin = Origin("userspace-oom", line, True, {"reason": line})
    told = redact_record(Signal(1, 15, 0, "delivered", "process", None, Process(5), origin))
    assert isinstance(told, Signal)
    assert told.origin.summary == told.origin.detail["reason"] == masked


def test_a_record_with_no_process_stays() -> None:
    lost = Lost(1, 5, "signals")
    assert redact_record(lost) == lost


def test_what_holds_no_value_stays_as_it_is() -> None:
    killer = Process(7, comm="pkill", cmdline=("pkill", "-x", "sleep"))
    origin = Origin("process", "7 (pkill -x sleep) sent it with kill(2)", True, {"group": 5})
    sent = Signal(1, 15, 0, "delivered", "process", killer, Process(8, comm="x"), origin)
    assert redact_record(sent) == sent
