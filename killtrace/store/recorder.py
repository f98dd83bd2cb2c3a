"""The flight recorder's memory: batches, losses that are told, and what to do when things break."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from killtrace import clock
from killtrace.errors import KilltraceError, OutputError
from killtrace.model import Lost, Record, Signal
from killtrace.redact import redact_record
from killtrace.store import files, schema
from killtrace.store.checkpoint import Checkpointer
from killtrace.store.fold import fold
from killtrace.store.retention import Retention
from killtrace.store.writer import SEGMENT_RECORDS, Armed, Writer

_MS, _S = 1_000_000, 1_000_000_000
# What a kill -9 may cost: at most the records of this time (the contract allows 200 ms).
_BATCH_NS = 100 * _MS
_BATCH_RECORDS = 4000
_SLICE_RECORDS = 1000
_HEARTBEAT_NS = 5 * _S
_RETENTION_NS = 1 * _S
_RETRY_NS = 1 * _S
# Records kept while the disk is full; what comes beyond is counted, and told as lost.
_PENDING_RECORDS = 10_000
# Wall time against boot time: smaller steps are NTP's daily work.
_JUMP_NS = 2 * _S
# After the clock has jumped ahead, deletion by age waits until the new time has proven itself.
_PROBATION_NS = 3600 * _S
_SEGMENTS_PER_RETENTION = 30
_RECORD_BYTES = 200
_WAL_BYTES = 4 << 20
# A store that breaks again so soon has a disk that breaks: no more new ones until then.
_ASIDE_NS = 60 * _S
_LONGEST_SEGMENT_NS = 24 * 3600 * _S
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Wall clock and boot clock, in nanoseconds."""

    def wall_ns(self) -> int:
        """Since the epoch."""

    def boot_ns(self) -> int:
        """Since boot, sleep included."""


class SystemClock:
    """The machine's own."""

    def wall_ns(self) -> int:
        """Since the epoch."""
        return clock.boot_ns() + clock.wall_offset_ns()

    def boot_ns(self) -> int:
        """Since boot, sleep included."""
        return clock.boot_ns()


def tell_on_stderr(message: str) -> None:
    """One line for the journal, or for whoever started the recorder."""
    print(f"killtrace: {message}", file=sys.stderr, flush=True)


def boot_id() -> str | None:
    """This boot's id (proc(5), random/boot_id); None where /proc has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


class Recorder:
    """Takes records, and writes them to the store in batches.

    Use: `write` for each record, `tick` after each round of the tracer, `wait_ms` for how long
    the next round may last, `close` at the end.  After it is open, nothing that happens to the
    disk or the store raises: it is told, counted, and tried again.
    """

    def __init__(
        self,
        path: Path = files.DEFAULT_PATH,
        *,
        retain_ns: int | None = None,
        max_bytes: int | None = None,
        redact: bool = False,
        time: Clock | None = None,
        tell: Callable[[str], None] = tell_on_stderr,
    ) -> None:
        """Open or make a store; StoreBusyError, NotPermittedError, OutputError.

        A store that is broken is set aside, and a new one begun.
        """
        self._path = path
        self._retain_ns = retain_ns
        self._max_bytes = max_bytes
        self._redact = redact
        self._scope: str | None = None
        self._time = time or SystemClock()
        self._tell = tell
        self._batch: list[Record] = []
        self._unwritten = 0
        self._told_full = False
        now = self._time.boot_ns()
        self._batch_began_ns = self._written_ns = self._retry_ns = self._retention_ns = now
        self._offset_ns = self._time.wall_ns() - now
        self._probation_ends_ns = 0
        self._segment_began_ns = now
        self._writer: Writer | None = None
        self._set_aside_ns: int | None = None
        files.make_folder(path)
        files.refuse_foreign(path)
        self._lock = files.Lock(path)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    # --- what the tracer calls ---------------------------------------------------------------

    def arm(self, scope: str = "{}") -> None:
        """All probes are attached: from now on, what isn't recorded did not happen.

        `scope` is JSON: the signals and filters that the tracer is armed for.
        """
        self._scope = scope
        if self._writer is not None:
            self._writer.arm(self._armed())
        self._flush()

    def _armed(self) -> Armed | None:
        if self._scope is None:
            return None
        return Armed(boot_id(), self._time.wall_ns(), self._scope)

    def write(self, record: Record) -> bool:
        """Take one record; True: it was taken, False: it was counted as lost."""
        batch = self._batch
        if len(batch) >= _BATCH_RECORDS:
            if self._time.boot_ns() >= self._retry_ns:
                self._flush()
                batch = self._batch
            if len(batch) >= _PENDING_RECORDS:
                self._unwritten += _events(record)
                return False
        if not batch:
            self._batch_began_ns = self._time.boot_ns()
        batch.append(record)
        return True

    def tick(self) -> None:
        """Between rounds: write what is due, and a little of the upkeep."""
        now = self._time.boot_ns()
        self._watch_clock(now)
        if now < self._retry_ns:
            return
        is_due = bool(self._batch) and now - self._batch_began_ns >= _BATCH_NS
        if is_due or now - self._written_ns >= _HEARTBEAT_NS:
            self._flush()
        if now >= self._retention_ns and now >= self._retry_ns:
            self._upkeep(now)

    def wait_ms(self, longest_ms: int) -> int:
        """How long the next round may last, so that what is due is written in time."""
        now = self._time.boot_ns()
        due = self._written_ns + _HEARTBEAT_NS
        if self._batch:
            due = max(self._batch_began_ns + _BATCH_NS, self._retry_ns)
        due = min(due, max(self._retention_ns, self._retry_ns))
        return max(min(longest_ms, (due - now) // _MS + 1), 0)

    def reopen(self) -> None:
        """Close the store's files and open them again, or new ones where they were moved."""
        self._flush()
        self._shut("reopened")
        self._is_open()

    def close(self) -> int:
        """Write all, say that the recorder is no longer armed; returns what was left unwritten."""
        self._flush()
        left = self._unwritten + sum(_events(record) for record in self._batch)
        self._shut("stopped")
        self._lock.release()
        if left:
            self._tell(f"{left} records could not be written to {self._path}")
        return left

    # --- the store's files -------------------------------------------------------------------

    def _open(self) -> None:
        """Open the store, or begin a new one; KilltraceError where neither can be done."""
        try:
            self._connect()
        except schema.NewerStoreError as error:
            raise OutputError(
                f"the store {self._path} was made by a later version of killtrace",
                "update killtrace, or give --store another path",
            ) from error
        except schema.ForeignStoreError as error:
            raise files.foreign(self._path) from error
        except schema.FAULTS as error:
            if not schema.is_broken(error):
                raise OutputError(
                    f"the store {self._path} can't be opened ({error})",
                    "free space, or give --store a path that can be written",
                ) from error
            self._set_aside(str(error))

    def _connect(self) -> None:
        files.make_file(self._path)
        connection = files.connect(self._path)
        try:
            writer = Writer(connection, segment_records=self._segment_records())
            retention = Retention(connection, retain_ns=self._retain_ns, max_bytes=self._max_bytes)
            writer.arm(self._armed())
            self._sign_in(writer)
        except BaseException:
            connection.close()
            raise
        self._writer, self._retention = writer, retention
        self._identity = files.identity(self._path)
        share = _WAL_BYTES if self._max_bytes is None else self._max_bytes // 8
        self._checkpointer = Checkpointer(self._path, min(_WAL_BYTES, share))

    def _sign_in(self, writer: Writer) -> None:
        """Write down that the recorder is armed: now, or on a full disk with the first batch."""
        try:
            writer.write([], self._time.wall_ns())
        except schema.FAULTS as error:
            if schema.is_broken(error):
                raise
            self._cannot_write(str(error))

    def _segment_records(self) -> int:
        if self._max_bytes is None:
            return SEGMENT_RECORDS
        # So many that a segment is a small part of what may be kept (docs/recorder.md, sizes).
        return max(min(SEGMENT_RECORDS, self._max_bytes // 16 // _RECORD_BYTES), 500)

    def _shut(self, reason: str | None = None) -> None:
        """Close the files; with a reason, it is written down that and why arming ended."""
        if self._writer is None:
            return
        self._checkpointer.close()
        try:
            if reason is not None:
                self._writer.disarm(self._time.wall_ns(), reason)
        except schema.FAULTS:
            pass  # then it ends as one that was killed does: at its last sign of life
        try:
            self._writer.connection.close()
        except schema.FAULTS:
            pass
        self._writer = None

    def _set_aside(self, fault: str) -> None:
        now = self._time.boot_ns()
        if self._set_aside_ns is not None and now - self._set_aside_ns < _ASIDE_NS:
            raise OutputError(
                f"the store {self._path} is broken again ({fault})", "look after the disk"
            )
        self._set_aside_ns = now
        aside = files.set_aside(self._path, self._time.wall_ns())
        self._tell(f"the store {self._path} is broken ({fault}); set aside as {aside.name}")
        try:
            self._connect()
        except schema.FAULTS as error:
            raise OutputError(
                f"no store can be made at {self._path} ({error})", "look after the disk"
            ) from error

    def _is_open(self) -> bool:
        """Whether the store is open, by now."""
        if self._writer is not None and files.identity(self._path) != self._identity:
            self._tell(f"the store {self._path} was moved or removed; a new one is begun")
            self._shut()
        if self._writer is None:
            try:
                self._open()
            except KilltraceError as error:
                self._cannot_write(error.what)
        return self._writer is not None

    # --- writing -----------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write all that waits, and a sign of life."""
        if not self._is_open():
            return
        while self._guarded(self._write_slice):
            if not self._batch:
                self._all_written()
                break

    def _write_slice(self) -> None:
        assert self._writer is not None
        wall_ns = self._time.wall_ns()
        records = self._batch[:_SLICE_RECORDS]
        is_last = len(records) == len(self._batch)
        written = [redact_record(record) for record in records] if self._redact else records
        if self._unwritten and is_last:
            written = [*written, Lost(wall_ns, self._unwritten, "store")]
        self._writer.write(fold(written), wall_ns)
        del self._batch[: len(records)]

    def _all_written(self) -> None:
        self._written_ns = self._time.boot_ns()
        if self._told_full:
            self._tell(f"writing to {self._path} again; {self._unwritten} records were lost")
        self._told_full = False
        self._unwritten = 0
        self._checkpointer.poke()

    def _guarded(self, work: Callable[[], object]) -> bool:
        """Do something with the store; False where that failed, and what is due was done."""
        try:
            work()
        except schema.FAULTS as error:
            if schema.is_broken(error):
                self._recover(str(error))
            else:
                self._cannot_write(str(error))
            return False
        return True

    def _cannot_write(self, fault: str) -> None:
        self._retry_ns = self._time.boot_ns() + _RETRY_NS
        if not self._told_full:
            self._told_full = True
            self._tell(f"can't write to {self._path} ({fault}); trying again until it works")

    def _recover(self, fault: str) -> None:
        """The store turned out to be broken: begin a new one; the batch waits for it."""
        self._shut()
        try:
            self._set_aside(fault)
        except KilltraceError as error:
            self._cannot_write(error.what)

    def _watch_clock(self, now_ns: int) -> None:
        """A clock that jumped: times before and after are not of one order."""
        offset_ns = self._time.wall_ns() - now_ns
        jump_ns, self._offset_ns = offset_ns - self._offset_ns, offset_ns
        if abs(jump_ns) < _JUMP_NS:
            return
        self._tell(f"the clock jumped by {jump_ns / 1e9:+.1f} s")
        self._probation_ends_ns = now_ns + _PROBATION_NS
        writer = self._writer
        if writer is not None:
            before_ns = self._time.wall_ns() - jump_ns
            self._guarded(lambda: writer.disarm(before_ns, "clock changed"))
        self._flush()
        if self._writer is not None:
            self._writer.new_segment()
            self._writer.arm(self._armed())
            self._flush()

    # --- upkeep ------------------------------------------------------------------------------

    def _upkeep(self, now_ns: int) -> None:
        self._retention_ns = now_ns + _RETENTION_NS
        if self._writer is None:
            return
        longest_ns = _LONGEST_SEGMENT_NS
        if self._retain_ns is not None:
            longest_ns = min(longest_ns, self._retain_ns // _SEGMENTS_PER_RETENTION)
        if now_ns - self._segment_began_ns >= longest_ns or self._retention.is_cornered:
            self._segment_began_ns = now_ns
            self._writer.new_segment()
        # Under probation nothing is too old.
        wall_ns = 0 if now_ns < self._probation_ends_ns else self._time.wall_ns()
        self._guarded(lambda: self._retention.step(wall_ns))
        if self._retention.has_more:
            self._retention_ns = now_ns


def _events(record: Record) -> int:
    """How many events a record stands for."""
    return 1 + record.repeats if isinstance(record, Signal) else 1
