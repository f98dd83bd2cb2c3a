"""What was executed of late, from a map of command lines made for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faketree import FakeProc
from records import packed

from killtrace import decode
from killtrace.enrich.containers import Containers
from killtrace.enrich.enricher import Enricher
from killtrace.enrich.execlog import ExecLog, comm_of, execution_of
from killtrace.enrich.procfs import ProcFs
from killtrace.enrich.users import Users
from killtrace.model import Ancestor, Process
from killtrace.requester import Requester

S = 1_000_000_000


class Map:
    """struct kt_exec by tgid; counts what is taken in, and how often all of it is read."""

    def __init__(self) -> None:
        self.entries: dict[int, bytes] = {}
        self.count = self.walks = 0

    def add(self, tgid: int, line: str, **fields: int) -> None:
        args = line.encode().replace(b" ", b"\0") + b"\0"
        exe = fields.pop("exe", line.split()[0])  # type: ignore[arg-type]
        values = {
            "start_time_ns": 50 * S,
            "exec_time_ns": 51 * S,
            "ppid": 40,
            "uid": 1000,
            **fields,
        }
        values |= {"exe": str(exe).encode(), "exe_len": len(str(exe)), "args": args}
        self.entries[tgid] = packed(decode.EXEC_FIELDS, {**values, "args_len": len(args) - 1})
        self.count += 1

    def walk(self) -> Iterator[tuple[int, bytes]]:
        self.walks += 1
        yield from self.entries.items()


class Clock:
    now = 60 * S

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def table() -> Map:
    return Map()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(fake_proc: FakeProc, tmp_path: Path, table: Map, clock: Clock) -> ExecLog:
    passwd = tmp_path / "passwd"
    passwd.write_text("alice:x:1000:1000::/home/alice:/bin/sh\nroot:x:0:0::/root:/bin/sh\n")
    users = Users(passwd, lookup=lambda uid: None)
    enricher = Enricher(ProcFs(fake_proc.root), users, Containers(tmp_path, users.home))
    return ExecLog(table.walk, lambda: table.count, table.entries.get, enricher, 0, clock)


def asked(log: ExecLog) -> Process:
    (execution,) = log.before(59 * S)
    process = log.process(Requester(None, "systemd", False, execution=execution))
    assert process is not None
    return process


def test_requests_are_found_and_nothing_else(log: ExecLog, table: Map) -> None:
    table.add(70, "/usr/bin/systemctl stop web")
    table.add(71, "sleep 100")
    table.add(72, "systemctl stop web", flags=decode.INHERITED)
    (found,) = log.before(59 * S)
    assert (found.pid, found.ppid, found.uid, found.exec_time_ns) == (70, 40, 1000, 51 * S)
    assert found.cmdline == ("/usr/bin/systemctl", "stop", "web")


def test_the_map_is_read_only_if_it_has_changed(log: ExecLog, table: Map, clock: Clock) -> None:
    table.add(70, "systemctl stop web")
    for _ in range(3):
        assert len(log.before(59 * S)) == 1
    clock.now += S
    assert len(log.before(clock.now - 1)) == 1
    assert table.walks == 1
    clock.now += S
    table.add(71, "systemctl stop db", exec_time_ns=clock.now - 5)
    assert len(log.before(clock.now - 1)) == 2
    assert table.walks == 2


def test_reading_rests_in_proportion(log: ExecLog, table: Map, clock: Clock) -> None:
    def slow() -> Iterator[tuple[int, bytes]]:
        clock.now += S
        yield from table.walk()

    log._walk = slow
    table.add(70, "systemctl stop web")
    assert len(log.before(clock.now)) == 1
    table.add(71, "systemctl stop db", exec_time_ns=clock.now)
    clock.now += 18 * S
    assert len(log.before(clock.now)) == 1
    clock.now += 2 * S
    assert len(log.before(clock.now)) == 2


def test_what_was_found_outlives_its_entry(log: ExecLog, table: Map, clock: Clock) -> None:
    table.add(70, "systemctl stop web")
    assert len(log.before(59 * S)) == 1
    del table.entries[70]
    table.add(71, "true")
    clock.now += S
    assert len(log.before(clock.now)) == 1
    clock.now += 3601 * S
    table.add(72, "true")
    assert len(log.before(clock.now)) == 0


def test_a_kernel_that_can_not_be_asked(log: ExecLog) -> None:
    def refuse() -> Iterator[tuple[int, bytes]]:
        raise PermissionError
        yield

    log._walk = refuse
    log._counted = lambda: 5
    assert log.before(59 * S) == []


def test_who_asked_when_all_are_gone(log: ExecLog, table: Map) -> None:
    table.add(70, "systemctl stop web", exe="/usr/bin/systemctl")  # type: ignore[arg-type]
    table.add(40, "-bash", start_time_ns=20 * S, ppid=30, exe="/bin/bash")  # type: ignore[arg-type]
    table.add(30, "sshd:", start_time_ns=10 * S, ppid=1, exe="/usr/sbin/sshd")  # type: ignore[arg-type]
    process = asked(log)
    assert (process.pid, process.comm, process.ppid) == (70, "systemctl", 40)
    assert (process.uid, process.user, process.start_time_ns) == (1000, "alice", 50 * S)
    assert process.ancestors == (
        Ancestor(40, "bash", ("-bash",)),
        Ancestor(30, "sshd", ("sshd:",)),
    )


def test_a_later_process_with_the_parents_pid_is_no_parent(
    log: ExecLog, table: Map, fake_proc: FakeProc
) -> None:
    table.add(70, "systemctl stop web")
    table.add(40, "intruder", start_time_ns=55 * S)
    fake_proc.add(40, "intruder", start=5500)
    assert asked(log).ancestors == ()


def test_parents_that_the_map_has_no_more_are_read_from_proc(
    log: ExecLog, table: Map, fake_proc: FakeProc
) -> None:
    table.add(70, "systemctl stop web")
    fake_proc.add(40, "bash", ppid=1, start=2000, cmdline=b"-bash\0")
    fake_proc.add(1, "systemd", ppid=0, start=0, cmdline=b"/sbin/init\0")
    assert asked(log).ancestors == (
        Ancestor(40, "bash", ("-bash",)),
        Ancestor(1, "systemd", ("/sbin/init",)),
    )


def test_one_that_still_runs_is_completed(log: ExecLog, table: Map, fake_proc: FakeProc) -> None:
    table.add(70, "systemctl stop web")
    fake_proc.add(70, "systemctl", ppid=40, start=5000, loginuid="1000", cmdline=b"systemctl\0")
    (execution,) = log.before(59 * S)
    assert log.runs(execution)
    process = asked(log)
    assert (process.loginuid, process.unit) == (1000, "cron.service")
    assert not log.runs(replace(execution, start_time_ns=49 * S))
    fake_proc.remove(70)
    assert not log.runs(execution)


def test_the_user_who_typed_it(log: ExecLog, table: Map) -> None:
    sudo = Ancestor(65, "sudo", ("sudo", "systemctl", "stop", "web"))
    table.add(65, "sudo systemctl stop web")
    root = Process(pid=70, user="root", ancestors=(sudo,))
    assert log.typist(root) == "alice"
    assert log.typist(Process(pid=70, user="root")) == "root"
    # What ran before tracing has become another user long since: its login tells, or nothing.
    table.add(65, "sudo systemctl stop web", flags=decode.FROM_PROC)
    assert log.typist(root) is None
    assert log.typist(replace(root, loginuid=1000)) == "alice"


def test_an_ancestor_that_asked(log: ExecLog, table: Map) -> None:
    table.add(65, "podman stop web", uid=0)
    step = Ancestor(65, "podman", ("podman", "stop", "web"))
    process = log.process(Requester(None, "crun", True, ancestor=step))
    assert process is not None and (process.pid, process.user) == (65, "root")
    table.add(65, "another one")
    process = log.process(Requester(None, "crun", True, ancestor=step))
    assert process == Process(pid=65, comm="podman", cmdline=step.cmdline)


@pytest.mark.parametrize(
    ("exe", "line", "comm"),
    [
        ("/usr/bin/systemctl", "systemctl stop", "systemctl"),
        (
            "/usr/lib/systemd/systemd-machined",
            "/usr/lib/systemd/systemd-machined",
            "systemd-machine",
        ),
        ("/bin/sh", "/bin/sh /usr/sbin/service x stop", None),
        ("/usr/bin/python3", "/usr/bin/python3 -Es /usr/bin/x", None),
        ("/bin/sleep", "/bin/sleep 5", "sleep"),
        (None, "x", None),
    ],
)
def test_comm(exe: str | None, line: str, comm: str | None) -> None:
    assert comm_of(exe, line.split()) == comm


def test_entries_that_hold_nothing() -> None:
    assert execution_of(1, bytes(len(packed(decode.EXEC_FIELDS, {})))) is None
