"""Command lines that make no sense: exit 2, one line that says what and what to do, no record."""

from __future__ import annotations

import re
import subprocess

import machine
import pytest

# One line, WHAT; MEND, neither of them empty.
_ERROR = re.compile(r"killtrace: error: [^;\n]+; [^\n]+\n")

BAD = [
    ("--pid", "0"),
    ("--pid", "-1"),
    ("--pid", "abc"),
    ("--pid", ""),
    ("--pid", "99999999999999999999"),
    ("--sender", "0"),
    ("--sender", "abc"),
    ("--signal", "NOPE"),
    ("--signal", "99"),
    ("--signal", "0"),
    ("--signal", "-9"),
    ("--signal", ""),
    ("--signal", "TERM,NOPE"),
    ("--count", "0"),
    ("--count", "-1"),
    ("--count", "many"),
    ("--timeout", "-3"),
    ("--timeout", "soon"),
    ("--timeout", "nan"),
    ("--duration", "-1"),
    ("--duration", "0"),
    ("--duration", "long"),
    ("--origin", "martian"),
    ("--format", "xml"),
    ("--user", "no-such-user-at-all"),
    ("--wait",),
    ("--wait", "--signal", "TERM"),
    ("--wait", "--pid", "1", "--count", "2"),
    ("--deaths", "--failed"),
    ("--no-such-option",),
    ("no-such-command",),
    ("--pid",),
]


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*machine.command(), *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=machine.seconds(20),
        check=False,
    )


@pytest.mark.parametrize("args", BAD, ids=" ".join)
def test_bad_usage(args: tuple[str, ...]) -> None:
    done = _run(*args)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert _ERROR.fullmatch(done.stderr), done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "abc"])
def test_a_bad_value_is_named(value: str) -> None:
    assert value in _run("--pid", value).stderr


def test_a_hostile_value_is_shown_escaped() -> None:
    done = _run("--signal", "\x1b[31mNOPE\n")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert _ERROR.fullmatch(done.stderr), done.stderr


def test_all_origins_are_offered_where_one_is_wrong() -> None:
    stderr = _run("--origin", "martian").stderr
    assert "martian" in stderr
    assert "cgroup-kill" in stderr


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("doctor", "--help")])
def test_help_is_no_error(args: tuple[str, ...]) -> None:
    done = _run(*args)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr == ""
