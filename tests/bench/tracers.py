"""The two that are compared: killtrace, and bpftrace's one-liner."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent.parent
ONE_LINER = (
    "tracepoint:signal:signal_generate"
    ' { printf("%d %s -> %d %s: %d\\n", pid, comm, args->pid, args->comm, args->sig); }'
)
# bpftrace reads the tracepoint's format from tracefs; a container may not have it mounted.
_WITH_TRACEFS = (
    "[ -e /sys/kernel/tracing/events ] || [ -e /sys/kernel/debug/tracing/events ] ||"
    " mount -t debugfs none /sys/kernel/debug && mount -t tracefs none /sys/kernel/tracing;"
    ' exec "$@"'
)
_READY_S = 120.0


def need_bpftrace() -> None:
    if shutil.which("bpftrace") is None:
        raise SystemExit("bench: bpftrace is not installed; install it: apt-get install bpftrace")


def lines_of(path: Path, start: int = 0) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def environment() -> dict[str, str]:
    changed = {**os.environ, "PYTHONPATH": str(ROOT)}
    # An installed program has its byte code on disk.
    changed.pop("PYTHONDONTWRITEBYTECODE", None)
    return changed


class _Tracer:
    """A tracer whose output goes to a file; a context manager that waits until it is attached."""

    def __init__(self, folder: Path, name: str) -> None:
        self.out = folder / f"{name}.out"
        self.err = folder / f"{name}.err"
        self.ready_s = 0.0
        self.process: subprocess.Popen[bytes]

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self, out: IO[bytes] | int) -> None:
        with self.err.open("wb") as err:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment()
            )

    def open(self) -> None:
        with self.out.open("wb") as out:
            self.start(out)

    def __enter__(self) -> Any:
        began = time.monotonic()
        self.open()
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() - began > _READY_S:
                self._kill()
                raise SystemExit(f"bench: {self.command()} did not start: {lines_of(self.err)}")
            time.sleep(0.001)
        self.ready_s = time.monotonic() - began
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it as Ctrl-C does, and wait for its last line."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self._kill()
            raise

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Killtrace(_Tracer):
    """killtrace with its default settings, full JSON to a file; or with others, to `out`."""

    def __init__(self, folder: Path, *arguments: str, out: int | None = None, **variables: str):
        super().__init__(folder, "killtrace")
        self.arguments = arguments or ("--format", "json")
        self._given_out, self._variables = out, variables

    def command(self) -> Sequence[str]:
        settings = [f"{name}={value}" for name, value in self._variables.items()]
        given = os.environ.get("KILLTRACE", "").split()
        return ["env", *settings, *(given or [sys.executable, "-m", "killtrace"]), *self.arguments]

    def open(self) -> None:
        if self._given_out is None:
            super().open()
        else:
            self.start(self._given_out)

    def is_ready(self) -> bool:
        return "killtrace: tracing" in lines_of(self.err)

    def records(self) -> list[dict[str, Any]]:
        """All that was told; call it when it has stopped."""
        return [json.loads(line) for line in self.out.read_bytes().splitlines()]

    def finished_records(self) -> Iterator[dict[str, Any]]:
        """All records of a command that ends by itself."""
        with self.out.open("wb") as out:
            subprocess.run(self.command(), stdout=out, env=environment(), check=True)
        with self.out.open("rb") as lines:
            for line in lines:
                yield json.loads(line)


class Bpftrace(_Tracer):
    """The one-liner, to a file; attached once it tells of a signal."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "bpftrace")
        self._seen_at = 0
        self._sitter: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        run = ["bpftrace", "-B", "line", "-e", ONE_LINER]
        return ["unshare", "-m", "sh", "-c", _WITH_TRACEFS, "sh", *run]

    def __enter__(self) -> Any:
        self._sitter = subprocess.Popen(["sleep", "1000"])
        try:
            return super().__enter__()
        finally:
            self._sitter.kill()
            self._sitter.wait()

    def is_ready(self) -> bool:
        assert self._sitter is not None
        self._sitter.send_signal(signal.SIGCONT)
        return f"-> {self._sitter.pid} " in lines_of(self.out)

    def told(self, target_pid: int) -> int:
        """How many signals to a process it told of."""
        return lines_of(self.out).count(f"-> {target_pid} ")


def sum_of(records: Iterable[dict[str, Any]], target_pid: int) -> int:
    """How many signals to a process the records account for."""
    return sum(
        1 + record["repeats"]
        for record in records
        if record["type"] == "signal" and record["target"]["pid"] == target_pid
    )


def lost_of(records: Iterable[dict[str, Any]]) -> int:
    """How many events the records say were lost."""
    return sum(record["count"] for record in records if record["type"] == "lost")
