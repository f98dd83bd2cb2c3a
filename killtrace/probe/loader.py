"""Loads and attaches the programs, and reads their buffers and maps."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from killtrace.errors import NotPermittedError, UnsupportedError
from killtrace.privileges import require_privileges, wants_admin
from killtrace.probe import cache, source, syscalls
from killtrace.probe.execs import ExecMap
from killtrace.probe.programs import BPF_NOEXIST, RAW_TRACEPOINT_PREFIX, Loaded, LoadError
from killtrace.probe.ring import Ring
from killtrace.runs import Run

_CONTROL_ARMED, _CONTROL_FOLD, _CONTROL_PER_CPU_OFFSET = 0, 1, 2
_STAT_SIGNALS, _STAT_LOST_SIGNALS, _STAT_LOST_DEATHS, _STAT_UNTRACKED = 0, 1, 2, 3
_STAT_EXECS = 4
_OOM_FUNCTION, _OOM_PROGRAM = "oom_kill_process", "kt_oom_kill_process"
_FOLD = struct.Struct("=QQQ")  # struct kt_fold
KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")


class LostCounts(NamedTuple):
    """What never reached the reader, since tracing began."""

    signals: int
    deaths: int
    untracked: int


class Probe:
    """The loaded programs.  Attached once constructed; closed with `close`.

    Compiled programs are kept and used again (cache.py) unless `fresh`.  Raises UnsupportedError
    (69) where the kernel or the machine lacks something, NotPermittedError (77) where the user
    may not.
    """

    def __init__(
        self,
        options: source.Options,
        *,
        buffer_pages: int | None = None,
        debug: bool = False,
        fresh: bool = False,
    ) -> None:
        require_privileges()
        self._debug = debug
        self.missing: dict[str, str] = {}
        self._possible_cpus = len(source.cpus(source.POSSIBLE_CPUS))
        self._generation = 0
        self._rings: list[Ring] = []
        self._loaded = self._load(options, fresh)
        self._maps = self._loaded.maps
        try:
            self._open_rings(_power_of_two(buffer_pages or default_pages(self._possible_cpus)))
            self._attach(options)
        except OSError as error:
            self.close()
            if isinstance(error, PermissionError) and wants_admin():
                raise NotPermittedError(
                    f"this kernel's perf_event_paranoid wants CAP_SYS_ADMIN ({error.strerror})",
                    "run it with sudo; for the service, `killtrace record --install` again",
                ) from error
            raise UnsupportedError(
                f"the programs can't be attached ({error.strerror})", "see `killtrace doctor`"
            ) from error

    # --- loading -------------------------------------------------------------------------------

    def _load(self, options: source.Options, fresh: bool) -> Loaded:
        where = None if fresh else cache.folder()
        name = cache.key(options) if where is not None else ""
        kept = cache.load(where, name) if where is not None else None
        if kept is not None and where is not None:
            try:
                return Loaded(kept, self._possible_cpus)
            except OSError:
                cache.forget(where, name)
        # Imported here: what is compiled already is started without.
        from killtrace.probe import compiler

        compiled = compiler.compile_programs(options, debug=self._debug)
        try:
            loaded = Loaded(compiled, self._possible_cpus)
        except LoadError as error:
            if self._debug:
                sys.stderr.write(error.log)
            raise UnsupportedError(
                f"the programs do not load on this kernel ({error.strerror})",
                "see `killtrace doctor`, and `--debug` for the kernel's own words",
            ) from error
        if where is not None:
            cache.save(where, name, compiled)
        return loaded

    def _open_rings(self, pages: int) -> None:
        # Losses are counted by the programs themselves, exactly.  No record wakes the reader but
        # the doorbell's, once for all of a batch.
        sizes = {"signals": pages, "deaths": max(pages // 4, 8), "doorbell": 1}
        for cpu in source.cpus(source.ONLINE_CPUS):
            for name, size in sizes.items():
                ring = Ring(cpu, size, announces=name == "doorbell")
                self._rings.append(ring)
                self._maps[name].set(cpu, struct.pack("=I", ring.fd))
        self._doorbells = [ring for ring in self._rings if ring.announces]
        self._buffers = [ring for ring in self._rings if not ring.announces]
        self._poll = syscalls.Poll([ring.fd for ring in self._doorbells])

    def _attach(self, options: source.Options) -> None:
        for name in self._loaded.programs:
            if name.startswith(RAW_TRACEPOINT_PREFIX):
                event = name.removeprefix(RAW_TRACEPOINT_PREFIX)
                self._loaded.attach_raw_tracepoint(event, name)
        if options.oom_kprobe:
            try:
                self._loaded.attach_kprobe(_OOM_FUNCTION, _OOM_PROGRAM, KPROBE_TYPE)
            except (OSError, ValueError) as error:
                self.missing[_OOM_FUNCTION] = str(error)

    # --- reading -------------------------------------------------------------------------------

    def arm(self) -> None:
        """Let the next record ring the doorbell."""
        self._control(_CONTROL_ARMED, 1)

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until the doorbell rings (True), a signal is handled, or time is over (False)."""
        rang = self._poll.wait(timeout_ms)
        if rang:
            for ring in self._doorbells:
                ring.take()
        return rang

    def drain(self) -> list[bytes]:
        """All that stands in any buffer, a piece a buffer: see ring.samples."""
        return [taken for ring in self._buffers if (taken := ring.take())]

    def set_per_cpu_offset(self, address: int) -> None:
        """Say where __per_cpu_offset is, so that per-CPU counters can be summed exactly."""
        self._control(_CONTROL_PER_CPU_OFFSET, address)

    def change_fold_table(self) -> None:
        """Begin new runs in the other table; what rests is read by `read_resting_folds`.

        Programs that are running now may still count in the old one: drain once before reading.
        """
        self._generation ^= 1
        self._control(_CONTROL_FOLD, self._generation)

    def read_resting_folds(self) -> Iterator[Run]:
        """Empty the resting table: the runs that had repeats."""
        values = self._maps[f"fold{self._generation ^ 1}"].take_all()
        for run in map(Run._make, _FOLD.iter_unpack(values)):
            if run.repeats:
                yield run

    def lost(self) -> LostCounts:
        """The counters of what was lost, since tracing began."""
        return LostCounts(
            self._stat(_STAT_LOST_SIGNALS),
            self._stat(_STAT_LOST_DEATHS),
            self._stat(_STAT_UNTRACKED),
        )

    def signals_seen(self) -> int:
        """How many signals passed the filters, told, folded or lost."""
        return self._stat(_STAT_SIGNALS)

    def _stat(self, index: int) -> int:
        return sum(struct.unpack(f"={self._possible_cpus}Q", self._maps["stats"].get(index) or b""))

    # --- maps ----------------------------------------------------------------------------------

    def _control(self, index: int, value: int) -> None:
        self._maps["control"].set(index, struct.pack("=Q", value))

    def watch(self, tgid: int, start_time_ns: int) -> None:
        """Trace signals to this process (programs compiled with only_targets)."""
        self._maps["watched"].set(tgid, struct.pack("=Q", start_time_ns))

    def allow(self, table: str, keys: Iterable[int]) -> None:
        """Fill the table `senders` (tgids) or `users` (uids)."""
        for number in keys:
            self._maps[table].set(number, b"\1")

    def remember_exec(self, tgid: int, entry: bytes) -> None:
        """Put a process that runs already into the map of command lines, unless it is there."""
        self._maps["execs"].set(tgid, entry, BPF_NOEXIST)

    def recall_exec(self, tgid: int) -> bytes | None:
        """The entry of the map of command lines, as struct kt_exec; None where there is none."""
        return self._maps["execs"].get(tgid)

    def executions(self) -> Iterator[tuple[int, memoryview]]:
        """Each (tgid, struct kt_exec) of that map, see ExecMap.walk."""
        return ExecMap(self._maps["execs"].fd).walk()

    def executions_counted(self) -> int:
        """How many executions that map has taken in."""
        return self._stat(_STAT_EXECS)

    def detach(self) -> None:
        """Let no more records come."""
        self._loaded.detach()

    def close(self) -> None:
        """Detach and free all."""
        self._loaded.close()
        for ring in self._rings:
            ring.close()
        self._rings = []


def _power_of_two(pages: int) -> int:
    """The next power of two: perf_event_open(2) takes no other size of a buffer."""
    return 1 << (pages - 1).bit_length()


def default_pages(cpus: int) -> int:
    """Pages of the signals buffer for each CPU: 4 MB each on small machines, less on large."""
    if cpus <= 4:
        return 1024
    return 512 if cpus <= 16 else 128


def with_kprobes(options: source.Options) -> source.Options:
    """The options with the OOM kprobe where this kernel has kprobes at all."""
    return replace(options, oom_kprobe=KPROBE_TYPE.exists())


def bcc_version() -> str:
    """The version of the bcc that is loaded or would be; UnsupportedError where there is none."""
    from killtrace.probe import bcc_module

    module: ModuleType = bcc_module.load()
    return str(getattr(module, "__version__", "unknown"))
