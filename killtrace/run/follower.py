"""Follows a command and all that it starts, in a thread beside the one that attends to the job."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from killtrace.model import Cause, Death, Lost, Process, Record, Signal

# How long a signal to killtrace is looked for in the trace, and then the command's share of it.
_LOOK_S, _SHARE_S = 2.0, 0.1
_TOGETHER_NS = 1_000_000_000
_KEPT_SIGNALS = 256
_ROUND_MS = 1000
VIA = "killtrace run"


class Source(Protocol):
    """What of the tracer is used (killtrace/tracer.py)."""

    def round(self, timeout_ms: int) -> list[Record]:
        """Wait for records, at most so long."""

    def finish(self) -> list[Record]:
        """All that is still held back."""


class Sink(Protocol):
    """Where deaths go; called from the follower's thread."""

    def death(self, death: Death, *, is_command: bool) -> None:
        """One process ended."""

    def lost(self, record: Lost) -> None:
        """Some events never came."""


class Follower:
    """Reads the trace until the command has ended, and hands deaths to a sink.

    `own_tgid` is killtrace's pid in the initial PID namespace, `command` the command's as fork(2)
    told it: in killtrace's own.
    """

    def __init__(self, source: Source, sink: Sink, own_tgid: int, command: int) -> None:
        self._source, self._sink = source, sink
        self._own_tgid, self._command = own_tgid, command
        self._signals: deque[Signal] = deque(maxlen=_KEPT_SIGNALS)
        self._news = threading.Condition()
        self._seen_death = False
        self._reaped = threading.Event()
        self._found: Counter[int] = Counter()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """The command was reaped: take in what is left.  All its records came before that."""
        self._reaped.set()
        self._thread.join()

    def covered(self, signo: int) -> bool:
        """Whether the command got the signal that killtrace just got, from the same sender."""
        with self._news:
            mine = self._look(lambda each: self._is_mine(each, signo), _LOOK_S)
            if mine is None:
                return False
            share = self._look(lambda each: self._is_share(each, mine), _SHARE_S)
            return share is not None

    def _look(self, wanted: Callable[[Signal], bool], seconds: float) -> Signal | None:
        """The oldest such signal that was not found before, as soon as it comes."""
        deadline = time.monotonic() + seconds
        while True:
            for signal in self._signals:
                if self._found[id(signal)] <= signal.repeats and wanted(signal):
                    self._found[id(signal)] += 1
                    return signal
            left = deadline - time.monotonic()
            if left <= 0 or self.failure is not None:
                return None
            self._news.wait(left)

    def _is_mine(self, signal: Signal, signo: int) -> bool:
        to_me = signal.target.pid == self._own_tgid and signal.result == "delivered"
        return to_me and signal.signo == signo

    def _is_share(self, other: Signal, mine: Signal) -> bool:
        return (
            other.signo == mine.signo
            and self._is_command(other.target)
            and _same(other.sender, mine.sender)
            and other.origin.kind == mine.origin.kind
            and abs(other.time_ns - mine.time_ns) < _TOGETHER_NS
        )

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._seen_death and not self._reaped.is_set():
                self._take(self._source.round(_ROUND_MS))
            self._reaped.wait()
            self._take(self._source.finish())
        except BaseException as error:  # the command goes on; what is known is told at the end
            with self._news:
                self.failure = error
                self._news.notify_all()

    def _take(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, Signal):
                self._signal(record)
            elif isinstance(record, Death):
                is_command = self._is_command(record.process)
                self._seen_death = self._seen_death or is_command
                self._sink.death(self._unproxied(record), is_command=is_command)
            elif isinstance(record, Lost):
                self._sink.lost(record)

    def _signal(self, record: Signal) -> None:
        if record.target.pid == self._own_tgid or self._is_command(record.target):
            with self._news:
                if len(self._signals) == _KEPT_SIGNALS:
                    del self._found[id(self._signals[0])]
                self._signals.append(record)
                self._news.notify_all()

    def _is_command(self, process: Process) -> bool:
        # In a PID namespace killtrace knows the command by its pid there.  Nothing else has both
        # that pid and killtrace as its parent.
        return process.ns_pid == self._command and process.ppid == self._own_tgid

    def _unproxied(self, death: Death) -> Death:
        """A death of a signal that killtrace passed on, with the one who sent it to killtrace."""
        cause = death.cause
        if cause is None or cause.sender is None or cause.sender.pid != self._own_tgid:
            return death
        with self._news:
            sent = [
                signal
                for signal in self._signals
                if signal.target.pid == self._own_tgid
                and signal.signo == cause.signo
                and signal.time_ns <= cause.time_ns
            ]
        return replace(death, cause=_behind(cause, sent[-1])) if sent else death


def _same(one: Process | None, other: Process | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.pid, one.start_time_ns) == (other.pid, other.start_time_ns)


def _behind(cause: Cause, original: Signal) -> Cause:
    if original.sender is None:
        return replace(cause, sender=None, origin=original.origin)
    detail = {**cause.origin.detail, "requester": original.sender, "via": VIA}
    return replace(cause, origin=replace(cause.origin, detail=detail))
