"""`killtrace record` without a kernel: its loop, its service, and its bad input."""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from store_fakes import kills, process, signal

from killtrace.cli.main import main
from killtrace.cli.record import run, scope_text
from killtrace.errors import KilltraceError
from killtrace.filters import Filter
from killtrace.model import Record
from killtrace.privileges import wants_admin
from killtrace.store import service


class FakeSource:
    """A tracer that gives some rounds of records, and then asks to stop."""

    def __init__(self, rounds: list[list[Record]], stop: SimpleNamespace) -> None:
        self.rounds = rounds
        self.stop = stop
        self.waited: list[int] = []

    def round(self, timeout_ms: int) -> list[Record]:
        self.waited.append(timeout_ms)
        some = self.rounds.pop(0)
        self.stop.requested = not self.rounds
        return some

    def finish(self) -> list[Record]:
        return list(kills(1, first=50))


class FakeSink:
    def __init__(self) -> None:
        self.did: list[object] = []

    def arm(self, scope: str) -> None:
        self.did.append("arm")

    def write(self, record: Record) -> bool:
        self.did.append(record)
        return True

    def tick(self) -> None:
        self.did.append("tick")

    def wait_ms(self, longest_ms: int) -> int:
        return min(longest_ms, 70)

    def reopen(self) -> None:
        self.did.append("reopen")

    def close(self) -> int:
        return 0


class FakeManager:
    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, *states: str) -> None:
        self.told += states

    def alive(self, now_ns: int) -> None:
        self.told.append("alive")


def test_the_loop_passes_on_what_is_wanted_and_what_is_left() -> None:
    stop, hangup = SimpleNamespace(requested=False), SimpleNamespace(requested=True)
    wanted = process(7)
    first = [*kills(1), signal(1, target=wanted)]
    source = FakeSource([first, [], [signal(2, target=wanted)]], stop)
    sink, manager = FakeSink(), FakeManager()
    run(source, sink, Filter(pids=frozenset({7, 2050})), manager, stop=stop, hangup=hangup)
    assert sink.did == [
        signal(1, target=wanted),
        "tick",
        "reopen",
        "tick",
        signal(2, target=wanted),
        "tick",
        *kills(1, first=50),
    ]
    assert source.waited == [70, 70, 70]
    assert manager.told[0] == "READY=1"
    assert manager.told[-1] == "STOPPING=1"
    assert manager.told.count("alive") == 3


def test_the_scope_says_what_was_armed() -> None:
    scope = json.loads(
        scope_text(Filter(pids=frozenset({7}), comms=("ng*",)), frozenset({15, 9}), failed=True)
    )
    assert scope == {
        "signals": ["SIGKILL", "SIGTERM"],
        "failed": True,
        "filters": {"pids": [7], "comms": ["ng*"]},
    }


# --- the service -----------------------------------------------------------------------------


def exec_start(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    return shlex.split(line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$"))


def test_the_unit_starts_the_recorder_with_the_options_given() -> None:
    arguments = ["--retain", "90d", "--comm", 'a "b" c', "--unit", "100%", "--container", "$X"]
    text = service.unit_text(arguments, ["/usr/local/bin/killtrace"])
    assert exec_start(text) == ["/usr/local/bin/killtrace", "record", *arguments]
    assert "@" not in text.replace("@system-service", "")


@pytest.mark.parametrize(("paranoid", "admin"), [("2", False), ("3", True), ("-1", False)])
def test_the_unit_has_all_rights_only_where_perf_wants_them(
    tmp_path: Path, paranoid: str, admin: bool
) -> None:
    (tmp_path / "setting").write_text(f"{paranoid}\n")
    assert wants_admin(tmp_path / "setting") is admin
    text = service.unit_text([], admin=admin)
    (bounding,) = (row for row in text.splitlines() if row.startswith("CapabilityBoundingSet="))
    assert ("CAP_SYS_ADMIN" in bounding.split()) is admin


def test_the_unit_names_a_program_by_its_absolute_path() -> None:
    assert Path(exec_start(service.unit_text([]))[0]).is_absolute()


def test_install_and_uninstall(tmp_path: Path) -> None:
    calls: list[Sequence[str]] = []
    path = service.install("text", folder=tmp_path, run=calls.append)
    assert path.read_text() == "text"
    assert calls == [["daemon-reload"], ["enable", service.UNIT], ["restart", service.UNIT]]
    calls.clear()
    assert service.uninstall(folder=tmp_path, run=calls.append)
    assert not path.exists()
    assert calls == [["disable", "--now", service.UNIT], ["daemon-reload"]]
    assert not service.uninstall(folder=tmp_path, run=calls.append)


def test_no_systemd(tmp_path: Path) -> None:
    with pytest.raises(KilltraceError) as caught:
        service.require_systemd(tmp_path / "none")
    assert caught.value.exit_status == (69 if os.geteuid() == 0 else 77)


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"@killtrace-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000"}
        notifier = service.Notifier(environment)
        notifier.tell("READY=1", "STATUS=recording")
        assert manager.recv(100) == b"READY=1\nSTATUS=recording"
        notifier.alive(5_000_000_000)
        notifier.alive(5_500_000_000)
        notifier.alive(6_000_000_000)
        assert [manager.recv(100), manager.recv(100)] == [b"WATCHDOG=1"] * 2
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_no_manager_or_one_that_is_gone(tmp_path: Path) -> None:
    service.Notifier({}).tell("READY=1")
    service.Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    another = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    service.Notifier(another).alive(10**18)


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--retain", "soon"],
        ["--retain", "0d"],
        ["--max-size", "big"],
        ["--max-size", "1k"],
        ["--install", "--uninstall"],
        ["--pid", "0"],
        ["--signal", "NOPE"],
        ["--deaths", "--failed"],
        ["--store", "/"],
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert main(["record", *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "; " in captured.err
