"""killtrace under test: started, waited for, read from, and stopped; and the stage beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import machine
import schema_check
from workloads.registry import Died, Sent, Truth

Record = dict[str, Any]
HERE = Path(__file__).resolve().parent


class Tracer:
    """A running killtrace, with what it has said so far.

    Use it as a context manager: it is stopped by SIGINT, must then exit with `expected_exit`, and
    every record must be valid against the schema and tell of nothing lost.
    """

    def __init__(self, *args: str, json_output: bool = True, wait_ready: bool = True) -> None:
        self.args = args
        self.json_output = json_output
        self.wait_ready = wait_ready
        self.expected_exit = 0
        self.lines: list[str] = []
        self.records: list[Record] = []
        self.stderr = ""
        self.ready_after_s = 0.0
        self._changed = threading.Condition()
        self._folder = tempfile.TemporaryDirectory(prefix="killtrace-test-")
        self.ready_file = Path(self._folder.name) / "ready"

    def __enter__(self) -> Tracer:
        shape = ["--format", "json"] if self.json_output else []
        started = time.monotonic()
        self.process = subprocess.Popen(
            [*machine.command(), *shape, "--ready-file", str(self.ready_file), *self.args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._threads = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        if self.wait_ready:
            try:
                machine.until(self._ready_or_ended, "ready", quick_s=20)
                assert self.ready_file.exists(), f"ended before it was ready: {self.stderr}"
            except BaseException:
                self.kill()
                raise
            self.ready_after_s = time.monotonic() - started
        return self

    def _ready_or_ended(self) -> bool:
        return self.ready_file.exists() or self.process.poll() is not None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                self.kill()
                return
            status = self.stop()
            assert status == self.expected_exit, f"exit {status}: {self.stderr}"
            self.check_records()
        finally:
            self._folder.cleanup()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode("utf-8", "surrogateescape").rstrip("\n")
            with self._changed:
                self.lines.append(line)
                if self.json_output:
                    self.records.append(json.loads(line))
                self._changed.notify_all()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            with self._changed:
                self.stderr += raw.decode("utf-8", "replace")
                self._changed.notify_all()

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self, quick_s: float = 10.0) -> int:
        """Wait until it has ended by itself; its exit status."""
        try:
            status = self.process.wait(machine.seconds(quick_s))
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"killtrace {self.args} did not end: {self.stderr}") from None
        for thread in self._threads:
            thread.join()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def check_records(self) -> None:
        """Every record is as the schema has it, and none was lost."""
        for record in self.records:
            wrong = schema_check.faults(record)
            assert not wrong, f"{wrong}\n{json.dumps(record)}"
        lost = [record for record in self.records if record["type"] == "lost"]
        assert not lost, f"events were lost: {lost}"

    def mark(self) -> int:
        """A place in the stream: what comes after it is what comes from now on."""
        with self._changed:
            return len(self.records)

    def wait_for(
        self, wanted: Callable[[Record], bool], what: str, since: int = 0, quick_s: float = 10.0
    ) -> Record:
        """The first record after `since` that is wanted; AssertionError when it doesn't come."""
        seen = since
        deadline = time.monotonic() + machine.seconds(quick_s)
        with self._changed:
            while True:
                while seen < len(self.records):
                    if wanted(self.records[seen]):
                        return self.records[seen]
                    seen += 1
                left = deadline - time.monotonic()
                assert left > 0, f"no record: {what}\n{self._told_since(since)}"
                assert self.process.poll() is None, f"killtrace ended: {self.stderr}"
                self._changed.wait(min(left, 1.0))

    def wait_for_line(self, wanted: Callable[[str], bool], what: str) -> str:
        """The first line of output that is wanted."""
        return machine.until(
            lambda: next((line for line in list(self.lines) if wanted(line)), ""), what
        )

    def _told_since(self, since: int) -> str:
        return "\n".join(json.dumps(record) for record in self.records[since:][-20:])

    def settle(self, stage: Stage, since: int = 0, truth: Truth | None = None) -> list[Record]:
        """All records after `since` that were made up to now; with `truth`, its folded runs too.

        Records are in order of time: once a death that is made now has been told, so has all
        that came before it.
        """
        last = stage.play("kill_sigkill").died[0].pid
        self.wait_for(lambda record: death_of(record, last), f"death of {last}", since)
        if truth is not None and any(sent.count > 1 for sent in truth.sent):
            self.wait_for(
                lambda _: accounted(self.records[since:], truth), "the rest of the run", since
            )
        with self._changed:
            return self.records[since:]


class Stage:
    """A process of its own in which workloads are played; nothing else runs in it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workloads", "--serve"],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def play(self, name: str) -> Truth:
        """Play a workload and return its truth; AssertionError where it could not be played."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "sent" in answer, answer.get("error", answer)
        return Truth.from_json(answer)

    def close(self) -> None:
        self._process.communicate()


def run(*args: str, quick_s: float = 20.0, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run killtrace to its end."""
    return subprocess.run(
        [*machine.command(), *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=machine.seconds(quick_s),
        check=False,
        **more,
    )


def death_of(record: Record, pid: int) -> bool:
    return bool(record["type"] == "death" and record["process"]["pid"] == pid)


def signal_to(record: Record, pid: int, signo: int) -> bool:
    return bool(
        record["type"] == "signal" and record["target"]["pid"] == pid and record["signo"] == signo
    )


def about(record: Record) -> set[int]:
    """The processes and threads that a record says something has happened to."""
    end = record.get("process") or record.get("target") or {}
    return {end.get("pid"), end.get("tid")} - {None}


def accounted(records: Sequence[Record], truth: Truth) -> bool:
    """Whether every signal of the truth is in the records, runs of identical ones counted."""
    for sent in truth.sent:
        told = [
            1 + record["repeats"]
            for record in records
            if record["type"] == "signal"
            and record["target"]["pid"] == sent.target
            and record["signo"] == sent.signo
        ]
        if sum(told) < sent.count:
            return False
    return True


def name_of(signo: int) -> str:
    known = {int(each): each.name for each in signal.Signals}
    return known.get(signo) or f"SIGRTMIN+{signo - signal.SIGRTMIN}"


def check_truth(records: Sequence[Record], truth: Truth) -> None:
    """Compare what was recorded with what was done: all of it, and nothing more."""
    _check_signals(records, truth)
    _check_deaths(records, truth)
    hushed = [record for record in records if about(record) & set(truth.silent)]
    assert not hushed, f"nothing happened to these: {hushed}"


def _check_signals(records: Sequence[Record], truth: Truth) -> None:
    left = [[sent, sent.count] for sent in truth.sent]
    targets = {(sent.target, sent.signo) for sent in truth.sent}
    for record in records:
        if record["type"] != "signal":
            continue
        if (record["target"]["pid"], record["signo"]) not in targets:
            continue
        _take(record, left)
    missing = [(sent, count) for sent, count in left if count]
    assert not missing, f"not recorded: {missing}"


def _take(record: Record, left: list[list[Any]]) -> None:
    """Cross a record off the list of what was sent."""
    count = 1 + record["repeats"]
    differences = {}
    for entry in left:
        sent, remaining = entry
        wrong = _differences(record, sent)
        if not wrong and remaining >= count:
            entry[1] -= count
            return
        if sent.again and set(wrong) <= {"result"} and record["result"] != "delivered":
            return
        if sent.target == record["target"]["pid"] and sent.signo == record["signo"]:
            differences[json.dumps(vars(sent))] = wrong or f"{remaining} of them left"
    raise AssertionError(f"nobody sent this: {json.dumps(record)}\nbut: {differences}")


def _differences(record: Record, sent: Sent) -> dict[str, Any]:
    """Where a signal record is not as the truth has it: {field: (told, true)}."""
    sender, target, origin = record["sender"] or {}, record["target"], record["origin"]
    pairs = {
        "signo": (record["signo"], sent.signo),
        "signal": (record["signal"], name_of(sent.signo)),
        "code": (record["code"], sent.code),
        "scope": (record["scope"], sent.scope),
        "result": (record["result"], sent.result or record["result"]),
        "sender.pid": (sender.get("pid"), sent.sender),
        "target.pid": (target["pid"], sent.target),
        "origin.kind": (origin["kind"], sent.kind),
        "origin.certain": (origin["certain"], True),
        "origin.summary": (bool(origin["summary"]), True),
    }
    if sent.tid is not None:
        pairs["target.tid"] = (target["tid"], sent.tid)
    if sent.sender_tid is not None:
        pairs["sender.tid"] = (sender.get("tid"), sent.sender_tid)
    if sent.sender_comm is not None:
        pairs["sender.comm"] = (sender.get("comm"), sent.sender_comm)
    if sent.sender_cmdline is not None:
        pairs["sender.cmdline"] = (sender.get("cmdline"), sent.sender_cmdline)
    for name, value in sent.detail.items():
        pairs[f"origin.{name}"] = (_reduced(origin.get(name), value), value)
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _reduced(told: Any, wanted: Any) -> Any:
    """A process in an origin, down to the fields that the truth knows."""
    if isinstance(wanted, dict) and isinstance(told, dict):
        return {name: told.get(name) for name in wanted}
    return told


def _check_deaths(records: Sequence[Record], truth: Truth) -> None:
    named = {died.pid for died in truth.died} | set(truth.alive)
    deaths = [r for r in records if r["type"] == "death" and r["process"]["pid"] in named]
    told = Counter(record["process"]["pid"] for record in deaths)
    assert told == Counter(died.pid for died in truth.died), deaths
    left = list(deaths)
    for died in truth.died:
        record = next(r for r in left if r["process"]["pid"] == died.pid)
        left.remove(record)
        _check_death(record, died)


def _check_death(record: Record, died: Died) -> None:
    exit_ = record["exit"]
    assert exit_ == {
        "signal": None if died.signo is None else name_of(died.signo),
        "status": died.status,
        "core_dumped": died.core_dumped,
    }
    cause = record["cause"]
    if died.cause is None:
        assert cause is None and record["elapsed_ns"] is None
    else:
        assert cause is not None, record
        assert cause["signal"] == name_of(died.cause)
        assert record["elapsed_ns"] > 0
        assert record["elapsed_ns"] >= died.at_least_ns
        _check_cause_is_among_signals(record)
    if died.signals is not None:
        story = [(brief["signal"], brief["result"]) for brief in record["signals"]]
        assert story == [(name_of(signo), result) for signo, result in died.signals]
    times = [brief["time"] for brief in record["signals"]]
    assert times == sorted(times)


def _check_cause_is_among_signals(record: Record) -> None:
    cause = record["cause"]
    sender = cause["sender"]
    assert any(
        brief["signal"] == cause["signal"]
        and brief["time"] == cause["time"]
        and brief["origin"]["kind"] == cause["origin"]["kind"]
        and (brief["sender"] or {}).get("pid") == (sender or {}).get("pid")
        for brief in record["signals"]
    ), record


def as_nobody() -> list[str]:
    """What to put before a command so that it runs without any privilege."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}
