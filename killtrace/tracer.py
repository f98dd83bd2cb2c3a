"""The live pipeline: probe → decode → order → attribute → enrich → correlate → records."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from killtrace import attribute, clock, decode, describe
from killtrace.correlate import Correlator
from killtrace.decode import RawAttempt, RawDeath, RawRecord, RawSignal
from killtrace.enrich import raw as raw_ends
from killtrace.enrich.enricher import open_enricher, open_terminals
from killtrace.enrich.execlog import ExecLog
from killtrace.enrich.kmsg import KernelLog
from killtrace.enrich.oomreason import OomReasons
from killtrace.enrich.tty import by_family
from killtrace.enrich.ttywatch import TerminalWatch
from killtrace.errno_names import errno_name
from killtrace.explain import Act, Explainer
from killtrace.model import Attempt, Lost, Process, Record, Result, Signal
from killtrace.oom_story import OomStories
from killtrace.order import SLACK_NS, Orderer
from killtrace.probe import kallsyms, source
from killtrace.probe.loader import LostCounts, Probe
from killtrace.probe.ring import samples
from killtrace.runs import PERIOD_NS, First, Run, Runs, rest_of

_RESULTS: tuple[Result, ...] = ("delivered", "ignored", "already_pending", "overflow", "lost_info")
# After the doorbell: what comes within this shares its wake-up.
_BATCH_S = 0.004
_LEFTOVER_MS = 4
_LOSSES_PERIOD_NS = 1_000_000_000
_IDLE_MS = 1000
# In a storm: how many records a round tells, how often the buffers are emptied meanwhile, and how
# many records are held (some 20 MB) before the rest is left in the buffers, and counted if lost.
_MOST_A_ROUND, _DRAIN_EVERY, _MOST_HELD = 512, 32, 16384


class Tracer:
    """Runs the programs and turns their records into model records, in order of time."""

    def __init__(
        self,
        options: source.Options,
        *,
        buffer_pages: int | None = None,
        debug: bool = False,
        proc: Path = Path("/proc"),
    ) -> None:
        self._offset_ns = clock.wall_offset_ns()
        self._enricher = open_enricher(self._offset_ns, proc)
        self._terminals = open_terminals(self._enricher)
        self._calls = source.syscall_names()
        self._order: Orderer[bytes] = Orderer()
        self._ripe_before_ns = 0
        self._correlator = Correlator()
        self._kernel_log = KernelLog()
        self._oom = OomStories(os.sysconf("SC_PAGE_SIZE") // 1024)
        self._last_losses_ns = clock.boot_ns()
        self._told_lost = LostCounts(0, 0, 0)
        self._undecodable = 0
        self._probe = Probe(options, buffer_pages=buffer_pages, debug=debug)
        self._runs = Runs(
            self._probe.change_fold_table, self._probe.read_resting_folds, clock.boot_ns
        )
        # The first record will wait for the symbols; being ready need not.
        self._symbols = kallsyms.Kallsyms(b"")
        self._read_symbols = threading.Thread(target=self._take_symbols, daemon=True)
        self._read_symbols.start()
        self._ends = raw_ends.Ends(self._enricher, self._probe.recall_exec, self._offset_ns)
        executions = ExecLog(
            self._probe.executions,
            self._probe.executions_counted,
            self._probe.recall_exec,
            self._enricher,
            self._offset_ns,
        )
        self._explainer = Explainer(executions, OomReasons())
        self._remember_running()
        TerminalWatch(self._terminals.forget, self._terminals.learn).start()
        self._probe.arm()

    def _take_symbols(self) -> None:
        try:
            self._symbols = kallsyms.read()
        except OSError:
            return
        self._probe.set_per_cpu_offset(self._symbols.per_cpu_offset)

    # --- set-up --------------------------------------------------------------------------------

    def _remember_running(self) -> None:
        """Fill the map of command lines with what runs already; execs since the start win."""
        procfs = self._enricher.procfs
        for pid in procfs.pids():
            stat = procfs.stat(pid)
            args = procfs.read(pid, "cmdline")
            if stat is None or not args:
                continue
            exe = os.fsencode(procfs.exe(pid) or "").removesuffix(b" (deleted)")
            entry = raw_ends.pack_exec(stat.start_ns, stat.ppid, 0, exe, args.rstrip(b"\0"))
            self._probe.remember_exec(pid, entry)

    def watch(self, processes: Iterable[tuple[int, int]]) -> None:
        """Trace these (tgid, start time since boot, ns): for options with only_targets."""
        for tgid, start_ns in processes:
            self._probe.watch(tgid, start_ns)

    def allow_senders(self, tgids: Iterable[int]) -> None:
        """Trace what these send: for options with only_senders."""
        self._probe.allow("senders", tgids)

    def allow_users(self, uids: Iterable[int]) -> None:
        """Trace what these users send or get: for options with only_users."""
        self._probe.allow("users", uids)

    # --- running -------------------------------------------------------------------------------

    def round(self, timeout_ms: int = _IDLE_MS) -> list[Record]:
        """Wait for records, at most so long, and return those that are ripe, oldest first."""
        if self._order.has_older(self._ripe_before_ns):
            timeout_ms = 0
        elif len(self._order) or self._runs.are_resting:
            timeout_ms = min(timeout_ms, _LEFTOVER_MS)
        elif self._runs.are_open:
            timeout_ms = min(timeout_ms, PERIOD_NS // 1_000_000)
        if self._probe.wait(timeout_ms) and timeout_ms:
            time.sleep(_BATCH_S)
        self._drain()
        return list(self._collect())

    def finish(self) -> list[Record]:
        """All that is still held back: the last records, runs and losses."""
        self._probe.detach()  # in a flood, there would be no end
        records: list[Record] = []
        changed = False
        while True:
            time.sleep(2 * SLACK_NS / 1e9)
            self._drain()
            while self._order.has_older(self._ripe_before_ns):
                records += self._collect()
            records += self._collect()
            if not self._runs.are_resting:
                if changed and not self._runs.are_open:
                    break
                self._runs.change()
                changed = True
        return records + list(self._losses())

    def close(self) -> None:
        """Detach."""
        self._read_symbols.join()
        self._probe.close()
        self._kernel_log.close()

    def lookup(self, pid: int) -> Process | None:
        """The record of a process that is running now."""
        return self._enricher.find(pid)

    def _drain(self) -> None:
        """Empty the buffers; in a flood that is faster than the records are told, let it fill."""
        if len(self._order) >= _MOST_HELD:
            return
        self._probe.arm()
        began_ns = clock.boot_ns()
        for piece in self._probe.drain():
            for data in samples(piece):
                self._order.add(decode.time_of(data), data)
        self._ripe_before_ns = began_ns - SLACK_NS

    def _collect(self) -> Iterator[Record]:
        self._offset_ns = clock.wall_offset_ns()
        for number, data in enumerate(self._order.release(self._ripe_before_ns, _MOST_A_ROUND)):
            if number % _DRAIN_EVERY == _DRAIN_EVERY - 1:
                self._drain()
            try:
                record = decode.decode(data)
            except decode.DecodeError:
                self._undecodable += 1
                continue
            yield from self._judge(record)
        if not self._order.has_older(self._ripe_before_ns):
            for run, first in self._runs.upkeep(self._ripe_before_ns):
                yield self._rest(run, first)
        now_ns = clock.boot_ns()
        if now_ns - self._last_losses_ns >= _LOSSES_PERIOD_NS:
            self._last_losses_ns = now_ns
            yield from self._losses()

    def _judge(self, record: RawRecord) -> Iterator[Record]:
        if isinstance(record, RawSignal):
            yield self._signal(record)
        elif isinstance(record, RawDeath):
            process = self._ends.process(record.process)
            yield self._correlator.death(record, process, record.time_ns + self._offset_ns)
        elif isinstance(record, RawAttempt):
            yield self._attempt(record)
        else:
            self._oom.call(record, self._ends.process(record.trigger))

    def _signal(self, record: RawSignal) -> Signal:
        if self._read_symbols.is_alive():
            self._read_symbols.join()
        frames = self._symbols.names(record.stack)
        found = attribute.attribute(record, frames)
        sender, target = self._ends.process(record.sender), self._ends.process(record.target)
        holder = None
        if found.kind in ("terminal", "hangup"):
            holder = self._terminals.holder(target.tty, target.pid) or by_family(target)
        origin = describe.origin(
            found,
            record,
            sender,
            attribute.after_sending(frames),
            target=target,
            holder=holder,
            oom=self._oom_story(found, record, sender) if found.kind == "oom" else None,
        )
        time_ns = record.time_ns + self._offset_ns
        starts_ns = record.sender.start_time_ns, record.target.start_time_ns
        act = Act(sender, target, record.signo, record.time_ns, time_ns, *starts_ns)
        signal = Signal(
            time_ns=time_ns,
            signo=record.signo,
            code=record.code,
            result=_result(record),
            scope="process" if record.group else "thread",
            sender=sender if found.blames_sender else None,
            target=target,
            origin=self._explainer.explain(origin, act),
        )
        key = (record.target.tgid, record.target.start_time_ns)
        if record.target_ended != decode.ENDED_DEAD:
            self._correlator.signal(key, signal, record.disposition)
        if record.fold_id:
            self._runs.begin(record.fold_id, First(signal, key, record.disposition))
        return signal

    def _oom_story(
        self, found: attribute.Attribution, record: RawSignal, trigger: Process
    ) -> describe.Oom:
        # A second signal to a victim that is dying already has no line of its own in the log.
        logged = self._kernel_log.kill_of(record.target.tgid) if record.result == 0 else None
        return self._oom.story(found, record, trigger, logged)

    def _attempt(self, record: RawAttempt) -> Attempt:
        sender = self._ends.process(record.sender)
        target = None
        if record.target_id > 0 and record.sender.ns_tgid == record.sender.tgid:
            target = self._enricher.find(record.target_id) or Process(pid=record.target_id)
        return Attempt(
            time_ns=record.time_ns + self._offset_ns,
            signo=record.signo,
            errno=errno_name(record.error),
            syscall=self._calls.get(record.syscall, str(record.syscall)),
            sender=sender,
            target=target,
        )

    # --- runs of identical signals, and losses -------------------------------------------------

    def _rest(self, run: Run, first: First | None) -> Record:
        if first is None:  # the first of the run was lost, and so is its face
            return Lost(run.last_time_ns + self._offset_ns, run.repeats, "signals")
        told = rest_of(run, first, self._offset_ns)
        self._correlator.signal(first.target, told, first.disposition)
        return told

    def _losses(self) -> Iterator[Record]:
        lost = self._probe.lost()
        now_ns = clock.boot_ns() + self._offset_ns
        for name, count, before in zip(lost._fields, lost, self._told_lost, strict=True):
            if count > before:
                yield Lost(now_ns, count - before, "targets" if name == "untracked" else name)
        self._told_lost = lost
        if self._undecodable:
            yield Lost(now_ns, self._undecodable, "undecodable")
            self._undecodable = 0


def _result(record: RawSignal) -> Result:
    """What became of the signal; kernels before 5.17 say "delivered" of one to the dying."""
    if record.result == 0 and record.target_ended != decode.ENDED_NOT:
        return "ignored"
    return _RESULTS[min(record.result, 4)]
