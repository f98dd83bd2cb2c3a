"""A tracing session: from options to a running Tracer, its rounds, and its bounds."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from killtrace import signames
from killtrace.enrich.procfs import ProcFs
from killtrace.errors import NotFoundError, OutputError
from killtrace.model import Record
from killtrace.privileges import require_privileges
from killtrace.probe import source
from killtrace.probe.loader import with_kprobes
from killtrace.tracer import Tracer

DEFAULT_MASK = frozenset(int(getattr(signal, name)) for name in signames.DEFAULT_SIGNALS)


class Sink(Protocol):
    """Where records go."""

    def write(self, record: Record) -> bool:
        """Take one record; True: it was shown."""

    def end_round(self) -> None:
        """All of a round was written."""

    def close(self) -> None:
        """No more records come."""


@dataclass(frozen=True)
class Target:
    """A process that was named on the command line, as it was when killtrace started."""

    pid: int
    start_ns: int


class Stop:
    """Becomes true on Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: object) -> None:
        """The handler."""
        self.requested = True


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM by ending the loop, in order."""
    stop = Stop()
    before = {s: signal.signal(s, stop.request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signo, handler in before.items():
            signal.signal(signo, handler)


def find_targets(pids: Iterator[int] | frozenset[int], procfs: ProcFs) -> list[Target]:
    """The processes behind `--pid`; a thread's id means its process.

    NotFoundError (3) for one that is not running, a zombie included: it has ended.
    """
    targets = []
    for pid in sorted(pids):
        status = procfs.status(pid)
        tgid = int(status.get("Tgid", pid)) if status else pid
        stat = procfs.stat(tgid)
        state = status.get("State", "")[:1] if status else ""
        if stat is None or state in ("X", "Z"):
            raise NotFoundError(
                f"there is no process {pid}", f"ask `killtrace why {pid}` how it ended"
            )
        targets.append(Target(tgid, stat.start_ns))
    return targets


def mask_of(signals: frozenset[int]) -> int:
    """Signal numbers as the kernel's mask: bit n - 1 for signal n."""
    return sum(1 << (signo - 1) for signo in signals)


def start_tracer(
    options: source.Options,
    *,
    targets: list[Target] | None = None,
    senders: frozenset[int] = frozenset(),
    uids: frozenset[int] = frozenset(),
    buffer_pages: int | None = None,
    debug: bool = False,
) -> Tracer:
    """Compile and attach; the named targets are checked again once they are watched."""
    require_privileges()
    tracer = Tracer(with_kprobes(options), buffer_pages=buffer_pages, debug=debug)
    # What is there now stays: the collector need not look at it again, nor at every few records.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    tracer.allow_senders(senders)
    tracer.allow_users(uids)
    if targets:
        tracer.watch([(target.pid, target.start_ns) for target in targets])
        procfs = ProcFs()
        for target in targets:
            stat = procfs.stat(target.pid)
            if stat is None or stat.start_ns != target.start_ns:
                tracer.close()
                raise NotFoundError(
                    f"process {target.pid} ended while killtrace started",
                    f"ask `killtrace why {target.pid}` how it ended",
                )
    return tracer


def announce(signals: frozenset[int], ready_file: Path | None) -> None:
    """Say that all probes are attached: a line on stderr, and the ready file."""
    names = ", ".join(signames.name(signo) for signo in sorted(signals))
    shown = "all fatal signals" if signals == signames.fatal() else names
    print(f"killtrace: tracing {shown} (Ctrl-C to stop)", file=sys.stderr, flush=True)
    if ready_file is not None:
        try:
            ready_file.touch()
        except OSError as error:
            raise OutputError(
                f"the ready file {ready_file} can't be made ({error.strerror})",
                "give --ready-file a path that can be written",
            ) from error


@dataclass
class Bounds:
    """When to stop: `--timeout`, `--duration`, in seconds from the moment of being ready."""

    timeout_s: float | None = None
    duration_s: float | None = None

    def start(self) -> None:
        """Begin to count."""
        self._began = time.monotonic()

    def remaining_ms(self, longest_ms: int) -> int:
        """How long one round may wait."""
        ends = [end for end in (self.timeout_s, self.duration_s) if end is not None]
        if not ends:
            return longest_ms
        left = min(ends) - (time.monotonic() - self._began)
        return max(min(longest_ms, int(left * 1000) + 1), 0)

    def timed_out(self) -> bool:
        """`--timeout` ran out."""
        return self._over(self.timeout_s)

    def done(self) -> bool:
        """`--duration` is over."""
        return self._over(self.duration_s)

    def _over(self, end: float | None) -> bool:
        return end is not None and time.monotonic() - self._began >= end


def kernel_options(options: Mapping[str, Any], signals: frozenset[int]) -> dict[str, Any]:
    """What of the filters the kernel can do."""
    return {
        "signal_mask": mask_of(signals),
        "only_targets": bool(options["pids"]),
        "only_senders": bool(options["senders"]),
        "only_users": bool(options["uids"]),
        "failed": bool(options["failed"]),
    }
