"""The flight recorder on a real kernel: real signals, full disks, kill -9, and few capabilities."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import machine
import pytest
import schema_check
from harness import Stage, check_truth, death_of, run

from killtrace.privileges import wants_admin
from killtrace.store.reader import open_store

CAPABILITIES = ("bpf", "perfmon", "syslog", "sys_ptrace", "dac_read_search")


class RunningRecorder:
    """`killtrace record`, started and waited for; a context manager that ends it with SIGTERM."""

    def __init__(self, store: Path, *args: str, prefix: tuple[str, ...] = ()) -> None:
        self.store = store
        self._folder = tempfile.TemporaryDirectory(prefix="killtrace-test-")
        self.stderr_file = Path(self._folder.name) / "stderr"
        ready = Path(self._folder.name) / "ready"
        with open(self.stderr_file, "wb") as stderr:
            self.process = subprocess.Popen(
                [
                    *prefix,
                    *machine.command(),
                    "record",
                    "--store",
                    str(store),
                    "--ready-file",
                    str(ready),
                    *args,
                ],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        machine.until(
            lambda: ready.exists() or self.process.poll() is not None, "ready", quick_s=20
        )
        assert ready.exists(), self.stderr

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text("utf-8", "replace")

    def __enter__(self) -> RunningRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(machine.seconds(10))
            assert kind is not None or status in (0, -signal.SIGKILL), self.stderr
        finally:
            self.process.kill()
            self.process.wait()
            self._folder.cleanup()


def history(store: Path, *args: str) -> list[dict[str, Any]]:
    done = run("history", "--store", str(store), "--format", "json", *args)
    assert done.returncode in (0, 3), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def written(store: Path, pid: int) -> bool:
    return any(death_of(record, pid) for record in history(store, "--pid", str(pid)))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "k.db"


@pytest.mark.parametrize("workload", ["kill_sigkill", "pkill", "shell_builtin"])
def test_what_happened_is_in_the_store(stage: Stage, store: Path, workload: str) -> None:
    with RunningRecorder(store):
        truth = stage.play(workload)
        last = stage.play("kill_sigkill").died[0].pid
        machine.until(lambda: written(store, last), "the last death in the store")
        records = history(store)
    for record in records:
        assert not schema_check.faults(record)
    assert not [record for record in records if record["type"] == "lost"]
    check_truth(records, truth)


def test_the_end_drains_and_says_so(stage: Stage, store: Path) -> None:
    with RunningRecorder(store) as recorder:
        pid = stage.play("kill_sigkill").died[0].pid
        recorder.process.send_signal(signal.SIGTERM)
        assert recorder.process.wait(machine.seconds(10)) == 0
    assert written(store, pid)
    assert not list(store.parent.glob("*-wal"))
    with open_store(store) as opened:
        (span,) = opened.armed()
        assert span.ended == "stopped"
        assert json.loads(span.scope)["signals"] == [
            "SIGHUP",
            "SIGINT",
            "SIGQUIT",
            "SIGKILL",
            "SIGTERM",
        ]


def test_hangup_opens_anew_and_loses_nothing(stage: Stage, store: Path) -> None:
    moved = store.with_name("moved.db")
    with RunningRecorder(store) as recorder:
        first = stage.play("kill_sigkill").died[0].pid
        machine.until(lambda: written(store, first), "the first death in the store")
        store.rename(moved)
        recorder.process.send_signal(signal.SIGHUP)
        machine.until(store.exists, "a new store")
        second = stage.play("kill_sigkill").died[0].pid
        machine.until(lambda: written(store, second), "the second death in the new store")
    assert not written(store, first)


def test_kill_9_costs_the_last_batch_and_leaves_a_known_gap(stage: Stage, store: Path) -> None:
    with RunningRecorder(store) as recorder:
        pid = stage.play("kill_sigkill").died[0].pid
        machine.until(lambda: written(store, pid), "the death in the store")
        recorder.process.kill()
        recorder.process.wait()
        with open_store(store) as opened:
            gap = opened.gaps()[-1]
        assert gap.reason == "the recorder was killed, or failed"
        assert gap.ended_ns is None
    with RunningRecorder(store) as recorder, open_store(store) as opened:
        assert opened.gaps()[-1].ended_ns is not None
        assert "set aside" not in recorder.stderr
    assert written(store, pid)


def test_one_recorder_a_store(store: Path) -> None:
    with RunningRecorder(store) as recorder:
        done = run("record", "--store", str(store))
        assert done.returncode == 1
        assert f"another recorder (pid {recorder.process.pid})" in done.stderr
        assert done.stderr.count("\n") == 1


def test_filters_hold_in_the_store(stage: Stage, store: Path) -> None:
    with RunningRecorder(store, "--signal", "KILL"):
        stage.play("pkill")
        last = stage.play("kill_sigkill").died[0].pid
        machine.until(lambda: written(store, last), "the last death in the store")
        assert {r["signal"] for r in history(store) if r["type"] == "signal"} == {"SIGKILL"}


# --- a full disk -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_survived_and_told(stage: Stage, small_disk: Path) -> None:
    store = small_disk / "k.db"
    with RunningRecorder(store) as recorder:
        first = stage.play("kill_sigkill").died[0].pid
        machine.until(lambda: written(store, first), "the first death in the store")
        ballast = small_disk / "ballast"
        _fill(ballast)
        pids = []

        def one_more() -> bool:
            pids.append(stage.play("kill_sigkill").died[0].pid)
            return "can't write" in recorder.stderr

        machine.until(one_more, "the full disk is told", quick_s=30)
        assert recorder.process.poll() is None
        ballast.unlink()
        machine.until(lambda: "writing to" in recorder.stderr, "it writes again", quick_s=30)
        for pid in (first, *pids):
            assert written(store, pid), "what waited was written when there was room"
        assert recorder.stderr.count("can't write") == 1


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    _fill(small_disk / "ballast")
    done = run("record", "--store", str(small_disk / "k.db"))
    assert done.returncode == 74
    assert done.stderr.count("\n") == 1


# --- capabilities ----------------------------------------------------------------------------


def _with(capabilities: tuple[str, ...]) -> tuple[str, ...]:
    """As the unit has it: root with these capabilities alone, and LimitMEMLOCK=infinity.

    Where the limit can't be raised, as in a container, CAP_IPC_LOCK stands in for it.
    """
    if wants_admin():
        capabilities = (*capabilities, "sys_admin")
    raised: tuple[str, ...] = ("prlimit", "--memlock=unlimited:unlimited")
    if subprocess.run([*raised, "true"], capture_output=True, check=False).returncode:
        raised = ()
        capabilities = (*capabilities, "ipc_lock")
    return (
        *raised,
        "setpriv",
        "--no-new-privs",
        "--bounding-set",
        ",".join(("-all", *(f"+{name}" for name in capabilities))),
        "--",
    )


@contextmanager
def terminal_of(uid: int) -> Iterator[tuple[int, int]]:
    """A terminal that a process of `uid` holds, as xterm or sshd does; (its pid, of its shell).

    The user is changed before the program is executed: else /proc shows it as root's (proc(5),
    "dumpable").  It passes on one Ctrl-C when it gets SIGUSR1.
    """
    program = (
        "import os, pty, signal, sys\n"
        "child, master = pty.fork()\n"
        "if child == 0: os.execlp('sleep', 'sleep', '1000')\n"
        "signal.signal(signal.SIGUSR1, lambda *_: os.write(master, b'\\x03'))\n"
        "print(child, flush=True)\n"
        "while True: signal.pause()\n"
    )
    holder = subprocess.Popen(
        ["setpriv", f"--reuid={uid}", "--clear-groups", "/usr/bin/python3", "-c", program],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert holder.stdout is not None
        yield holder.pid, int(holder.stdout.readline())
    finally:
        holder.kill()
        holder.communicate()


def origin_of_ctrl_c(store: Path, uid: int, without: str | None = None) -> dict[str, Any]:
    """What a recorder without one capability says of a Ctrl-C on a terminal that `uid` holds."""
    store.parent.mkdir()
    left = tuple(name for name in CAPABILITIES if name != without)
    with RunningRecorder(store, prefix=_with(left)), terminal_of(uid) as (holder, child):
        comm = Path(f"/proc/{child}/comm")
        machine.until(lambda: comm.read_text() == "sleep\n", "sleep runs on the terminal")
        os.kill(holder, signal.SIGUSR1)
        machine.until(lambda: written(store, child), "the death in the store")
        (origin,) = (
            record["origin"]
            for record in history(store, "--pid", str(child))
            if record["type"] == "signal" and record["signal"] == "SIGINT"
        )
    assert (origin.get("holder") or {"pid": holder})["pid"] == holder
    return origin  # type: ignore[no-any-return]


@pytest.mark.parametrize("uid", [0, 65534])
def test_the_units_capabilities_are_enough(store: Path, uid: int) -> None:
    origin = origin_of_ctrl_c(store, uid)
    assert (origin["kind"], origin["certain"]) == ("terminal", True)
    assert origin["holder"] is not None


@pytest.mark.parametrize(("missing", "uid"), [("sys_ptrace", 0), ("dac_read_search", 65534)])
def test_without_these_capabilities_no_holder_is_known(store: Path, missing: str, uid: int) -> None:
    assert origin_of_ctrl_c(store, uid, missing)["holder"] is None


def test_without_syslog_the_kernels_stack_has_no_names(store: Path) -> None:
    # Below 2, perf's own right to the addresses would do (kernel/ksyms_common.c).
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) < 2:
        pytest.skip("perf_event_paranoid is below 2: everyone may see the kernel's addresses")
    assert not origin_of_ctrl_c(store, 0, "syslog")["certain"]


@pytest.mark.parametrize("missing", ["bpf", "perfmon"])
def test_without_these_capabilities_it_does_not_start(store: Path, missing: str) -> None:
    if wants_admin():
        pytest.skip("this kernel's perf_event_paranoid wants CAP_SYS_ADMIN, which has them all")
    store.parent.mkdir()
    left = tuple(name for name in CAPABILITIES if name != missing)
    done = subprocess.run(
        [*_with(left), *machine.command(), "record", "--store", str(store)],
        capture_output=True,
        text=True,
        timeout=machine.seconds(20),
        check=False,
    )
    assert done.returncode == 77
    assert not store.exists()
