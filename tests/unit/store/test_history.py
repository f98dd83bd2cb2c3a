"""`killtrace history`, as its user sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import machine
import pytest
import schema_check
from store_fakes import NOW_NS, Bench, S, death, kills, process, signal

from killtrace.cli.main import main
from killtrace.model import Attempt, Container, Lost
from killtrace.wire import record_to_json

STOP = process(600, "mysql", "--password=hunter2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three kills, one of nginx by OOM… a refused attempt, and a loss."""
    bench = Bench(tmp_path / "k.db")
    nginx = replace(process(7, "/usr/sbin/nginx", "-g", "x"), unit="nginx.service")
    web = replace(process(8, "httpd"), container=Container("docker", id="a" * 12, name="web"))
    records = [
        *kills(3),
        signal(20, target=nginx, sender=STOP, signo=9),
        signal(30, target=web, signo=1, repeats=41),
        Attempt(NOW_NS + 40 * S, 15, "EPERM", "kill", STOP, nginx),
        Lost(NOW_NS + 50 * S, 12, "signals"),
    ]
    bench.write(*records)
    bench.recorder.close()
    return bench.path


def ask(path: Path, *args: str) -> int:
    return main(["history", "--store", str(path), *args])


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_is_what_the_live_command_would_have_said(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(path, "--format", "json") == 0
    records = told(capsys)
    assert [schema_check.faults(record) for record in records] == [[]] * len(records)
    assert records[:6] == [record_to_json(record) for record in kills(3)]
    assert [record["type"] for record in records[6:]] == ["signal", "signal", "lost"]


@pytest.mark.parametrize(
    ("args", "types"),
    [
        (["--pid", "7"], ["signal", "lost"]),
        (["--pid", "2001", "--pid", "2002"], ["signal", "death"] * 2 + ["lost"]),
        (["--pid", "7", "--failed"], ["signal", "attempt", "lost"]),
        (["--deaths"], ["death"] * 3 + ["lost"]),
        (["--signal", "KILL"], ["signal", "lost"]),
        (["--unit", "nginx"], ["signal", "lost"]),
        (["--container", "web"], ["signal", "lost"]),
        (["--sender", "600"], ["signal", "lost"]),
        (["--comm", "htt*"], ["signal", "lost"]),
        (["--until", f"@{NOW_NS // S}.001"], ["signal", "death"]),
        (["--since", f"@{NOW_NS // S + 50}"], ["lost"]),
    ],
)
def test_filters(
    path: Path, capsys: pytest.CaptureFixture[str], args: list[str], types: list[str]
) -> None:
    assert ask(path, "--format", "json", *args) == 0
    assert [record["type"] for record in told(capsys)] == types


def test_the_table_has_dates_and_lines_of_a_hundred_columns(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["TIME", "SIGNAL", "TARGET", "ORIGIN"]
    assert max(len(line) for line in lines) <= 100
    assert any("500 pkill -x sleep ← bash" in line for line in lines)
    assert any("42 times more" in line for line in lines)


def test_redacted_output(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["--format", "json"]):
        assert ask(path, "--redact", "--failed", *args) == 0
        out = capsys.readouterr().out
        assert "hunter2" not in out
        assert "--password=***" in out


def test_stats(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(path, "--stats") == 0
    sections = {
        part.split()[0]: [line.rsplit(maxsplit=2) for line in part.splitlines()[1:]]
        for part in capsys.readouterr().out.split("\n\n")
    }
    assert list(sections)[:6] == ["ORIGIN", "SIGNAL", "SENDER", "VICTIM", "UNIT", "DAY"]
    assert sections["SIGNAL"] == [
        ["SIGHUP", "42", "0"],
        ["SIGTERM", "3", "3"],
        ["SIGKILL", "1", "0"],
    ]
    assert sections["VICTIM"] == [["httpd", "42", "0"], ["sleep", "3", "3"], ["nginx", "1", "0"]]
    assert sections["SENDER"] == [["pkill", "45", "3"], ["mysql", "1", "0"]]
    assert sum(int(row[1]) for row in sections["DAY"]) == 46


def test_stats_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(path, "--stats", "--failed", "--format", "json") == 0
    rows = told(capsys)
    assert {row["type"] for row in rows} == {"stats"}
    assert [row for row in rows if row["by"] == "origin"] == [
        {
            "type": "stats",
            "by": "origin",
            "value": "process",
            "signals": 46,
            "deaths": 3,
            "refused": 0,
        },
        {"type": "stats", "by": "origin", "value": None, "signals": 0, "deaths": 0, "refused": 1},
    ]


@pytest.mark.parametrize("args", [["--pid", "9", "--until", "@1"], ["--stats", "--until", "@1"]])
def test_nothing_found(path: Path, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert ask(path, *args) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("killtrace: error: nothing that matches was recorded; ")


@pytest.mark.parametrize(
    "args",
    [
        ["--since", "soonish"],
        ["--until", "25:00"],
        ["--since", "today", "--until", "yesterday"],
        ["--format", "xml"],
        ["--origin", "martian"],
        ["--deaths", "--failed"],
    ],
)
def test_bad_input(path: Path, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert ask(path, *args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("killtrace: error: ")


def test_a_broken_store(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\x55" * (len(content) - 8192))
    assert ask(path) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"killtrace: error: the store {path} can't be read (")
    assert captured.err.count("\n") == 1


def test_output_that_is_full_or_closed(path: Path) -> None:
    command = [*machine.command(), "history", "--store", str(path)]
    # Unbuffered, the write fails in killtrace; buffered, also in the interpreter's last flush.
    for unbuffered in ("", "1"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            )
        assert done.returncode == 74, done.stderr
        assert done.stderr.count("\n") == 1
    shown = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | head -1', "-", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("TIME")


def test_it_runs_without_bcc_and_quickly_imports_little() -> None:
    program = (
        "import sys\n"
        "from killtrace.cli.main import main\n"
        "main(['history', '--store', '/nonexistent'])\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'bcc'"
        " or name.startswith(('killtrace.probe.loader', 'killtrace.tracer'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_death_of_itself_is_found_by_pid(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "k.db")
    gone = replace(death(signal(3)), cause=None, signals=())
    bench.write(gone)
    bench.recorder.close()
    assert ask(bench.path, "--pid", str(gone.process.pid)) == 0
