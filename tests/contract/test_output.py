"""Stdout that is full, closed or left: 74, or a quiet end, whatever the command and the buffer."""

from __future__ import annotations

import os
import re
import subprocess

import machine
import pytest

_FAILED = re.compile(r"killtrace: error: records can't be written \([^)]+\); [^\n]+\n")

# None of them needs a privilege, and each has something to say.
WORDS = [
    ("--help",),
    ("--version",),
    ("why", "--help"),
    ("doctor", "--format", "json"),
    ("oom",),
    ("oom", "--format", "json"),
    ("why", "4194304", "--format", "json"),
]

# Unbuffered, the write fails in killtrace; buffered, also in the interpreter's last flush.
each_way = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
each_command = pytest.mark.parametrize("words", WORDS, ids=" ".join)


def _run(
    words: tuple[str, ...], unbuffered: str, stdout: int | None, *prefix: str
) -> tuple[int, str]:
    """The exit status and stderr."""
    done = subprocess.run(
        [*prefix, *machine.command(), *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=machine.seconds(20),
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    return done.returncode, done.stderr


def _is_told(status: int, stderr: str) -> None:
    assert status == 74, stderr
    assert _FAILED.fullmatch(stderr.splitlines(keepends=True)[-1]), stderr
    assert "Traceback" not in stderr
    assert "ignored" not in stderr


@each_way
@each_command
def test_a_full_output_is_74(words: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        _is_told(*_run(words, unbuffered, full.fileno()))


@each_way
@each_command
def test_a_closed_output_is_74(words: tuple[str, ...], unbuffered: str) -> None:
    _is_told(*_run(words, unbuffered, None, "sh", "-c", 'exec "$@" >&-', "-"))


@each_way
@each_command
def test_a_reader_that_has_left_is_a_quiet_end(words: tuple[str, ...], unbuffered: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    status, stderr = _run(words, unbuffered, write_end)
    os.close(write_end)
    assert status == 0
    assert "error" not in stderr
    assert "ignored" not in stderr
