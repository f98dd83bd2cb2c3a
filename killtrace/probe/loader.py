"""Compiles, loads and attaches the programs, and reads their buffers and maps through bcc."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from killtrace.errors import NotPermittedError, UnsupportedError
from killtrace.probe import bcc_module, source

_CONTROL_ARMED, _CONTROL_FOLD, _CONTROL_PER_CPU_OFFSET = 0, 1, 2
_STAT_SIGNALS, _STAT_LOST_SIGNALS, _STAT_LOST_DEATHS, _STAT_UNTRACKED = 0, 1, 2, 3
_BPF_ANY, _BPF_NOEXIST = 0, 1
_OOM_FUNCTION = "oom_kill_process"
_FOLD_KEY_SIZE, _FOLD_SIZE = 48, 24
KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")


class FoldRun(NamedTuple):
    """A run of identical signals that came after the one that was told; times are boot time."""

    fold_id: int
    repeats: int
    last_time_ns: int


class LostCounts(NamedTuple):
    """What never reached the reader, since tracing began."""

    signals: int
    deaths: int
    untracked: int


def require_privileges() -> None:
    """Raise NotPermittedError (77) unless this process may load tracing programs.

    CAP_SYS_ADMIN, or CAP_BPF with CAP_PERFMON (capabilities(7), since 5.8).
    """
    effective = effective_capabilities()
    admin, perfmon, bpf = 1 << 21, 1 << 38, 1 << 39
    if not (effective & admin or (effective & perfmon and effective & bpf)):
        raise NotPermittedError(
            "killtrace needs root, or CAP_BPF and CAP_PERFMON, to trace", "run it with sudo"
        )


def effective_capabilities(status: Path = Path("/proc/self/status")) -> int:
    """The effective set of this process as a bit mask; 0 where it can't be read."""
    try:
        for line in status.read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except OSError:
        pass
    return 0


@contextmanager
def _quiet_stderr() -> Iterator[Any]:
    """Libbcc writes compiler and verifier output to fd 2: keep it, for --debug and for reports."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield sink
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


class Probe:
    """The loaded programs.  Attached once constructed; closed with `close`.

    `on_record` gets the bytes of each record, copied.  Raises UnsupportedError (69) where the
    kernel or the machine lacks something, NotPermittedError (77) where the user may not.
    """

    def __init__(
        self,
        options: source.Options,
        on_record: Callable[[bytes], None],
        *,
        buffer_pages: int | None = None,
        debug: bool = False,
    ) -> None:
        require_privileges()
        self._bcc = bcc_module.load()
        self._lib = self._bcc.libbcc.lib
        self._debug = debug
        self._on_record = on_record
        self.missing: dict[str, str] = {}
        self._bpf = self._load(options)
        self._fds = {
            name: self._bpf[name.encode()].map_fd
            for name in ("control", "stats", "execs", "fold0", "fold1", "watched", "senders")
        }
        self._fds["users"] = self._bpf[b"users"].map_fd
        self._exec_leaf = ctypes.create_string_buffer(ctypes.sizeof(self._bpf[b"execs"].Leaf))
        self._cpus = len(self._bcc.utils.get_possible_cpus())
        self._generation = 0
        self._rung = False
        self._open_buffers(buffer_pages or default_pages(self._cpus))
        if options.oom_kprobe:
            self._attach_oom()

    # --- loading -------------------------------------------------------------------------------

    def _load(self, options: source.Options) -> Any:
        if not source.BTF_PATH.exists():
            headers = source.installed_headers()
            if headers is None:
                raise UnsupportedError(
                    "this kernel has neither BTF (/sys/kernel/btf/vmlinux) nor installed headers",
                    f"install the headers: {source.headers_hint()}",
                )
            return self._compile(options, headers, {"KT_HEADERS": 1})
        with tempfile.TemporaryDirectory(prefix="killtrace-") as folder:
            features = source.stub_headers(Path(folder))
            return self._compile(options, Path(folder), features)

    def _compile(self, options: source.Options, kernel: Path, features: Any) -> Any:
        saved = os.environ.get("BCC_KERNEL_SOURCE")
        os.environ["BCC_KERNEL_SOURCE"] = str(kernel)
        output = ""
        try:
            with _quiet_stderr() as sink:
                try:
                    return self._bcc.BPF(
                        text=source.program_text(options), cflags=source.flags(options, features)
                    )
                except Exception as error:  # bcc raises nothing more exact
                    sys.stderr.flush()
                    sink.seek(0)
                    output = sink.read().decode(errors="replace")
                    failure = error
        finally:
            if saved is None:
                del os.environ["BCC_KERNEL_SOURCE"]
            else:
                os.environ["BCC_KERNEL_SOURCE"] = saved
        if self._debug:
            sys.stderr.write(output)
        raise UnsupportedError(
            f"the programs do not load on this kernel ({str(failure).splitlines()[0]})",
            "see `killtrace doctor`, and `--debug` for the kernel's own words",
        ) from failure

    def _attach_oom(self) -> None:
        with _quiet_stderr():
            try:
                self._bpf.attach_kprobe(event=_OOM_FUNCTION, fn_name="kt_oom_kill_process")
            except Exception as error:
                self.missing["oom_kill_process"] = str(error).splitlines()[0]

    def _open_buffers(self, pages: int) -> None:
        string_at, on_record = ctypes.string_at, self._on_record

        def take(_cpu: int, data: int, size: int) -> None:
            on_record(string_at(data, size))

        def nothing(*_: object) -> None:
            pass

        # Losses are counted by the programs themselves, exactly: no callback needs to tell.
        # Nor does a record wake the reader: the doorbell does, once for all of a batch.
        never = 1 << 30
        self._bpf[b"signals"].open_perf_buffer(
            take, page_cnt=pages, lost_cb=nothing, wakeup_events=never
        )
        self._bpf[b"deaths"].open_perf_buffer(
            take, page_cnt=max(pages // 4, 8), lost_cb=nothing, wakeup_events=never
        )
        self._bpf[b"doorbell"].open_perf_buffer(self._ring, page_cnt=1, lost_cb=nothing)

    def _ring(self, *_: object) -> None:
        self._rung = True

    # --- reading -------------------------------------------------------------------------------

    def arm(self) -> None:
        """Let the next record ring the doorbell."""
        self._control(_CONTROL_ARMED, 1)

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until the doorbell rings, or so long; True: it rang."""
        self._rung = False
        self._bpf.perf_buffer_poll(timeout_ms)
        return self._rung

    def drain(self) -> None:
        """Hand over all that stands in any buffer."""
        self._bpf.perf_buffer_consume()

    def set_per_cpu_offset(self, address: int) -> None:
        """Say where __per_cpu_offset is, so that per-CPU counters can be summed exactly."""
        self._control(_CONTROL_PER_CPU_OFFSET, address)

    def change_fold_table(self) -> None:
        """Begin new runs in the other table; what rests is read by `read_resting_folds`.

        Programs that are running now may still count in the old one: drain once before reading.
        """
        self._generation ^= 1
        self._control(_CONTROL_FOLD, self._generation)

    def read_resting_folds(self) -> Iterator[FoldRun]:
        """Empty the resting table: the runs that had repeats."""
        values = self._take_all(self._fds[f"fold{self._generation ^ 1}"])
        for position in range(0, len(values), _FOLD_SIZE):
            run = FoldRun(
                *(
                    int.from_bytes(values[at : at + 8], "little")
                    for at in range(position, position + _FOLD_SIZE, 8)
                )
            )
            if run.repeats:
                yield run

    def _take_all(self, map_fd: int) -> bytes:
        """Values of a whole hash table, which is empty afterwards (batch operations, 5.6)."""
        room = 8192
        keys = ctypes.create_string_buffer(room * _FOLD_KEY_SIZE)
        values = ctypes.create_string_buffer(room * _FOLD_SIZE)
        count = ctypes.c_uint32(room)
        token = ctypes.c_uint32()
        out = bytearray()
        start = None
        while True:
            count.value = room
            status = self._lib.bpf_lookup_and_delete_batch(
                map_fd, start, ctypes.byref(token), keys, values, ctypes.byref(count)
            )
            if status == 0 or ctypes.get_errno() in (2, 0):  # ENOENT: that was the last
                out += values.raw[: count.value * _FOLD_SIZE]
            if status != 0:
                return bytes(out)
            start = ctypes.byref(token)

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
        values = (ctypes.c_uint64 * self._cpus)()
        key = ctypes.c_uint32(index)
        self._lib.bpf_lookup_elem(self._fds["stats"], ctypes.byref(key), values)
        return sum(values)

    # --- maps ----------------------------------------------------------------------------------

    def _control(self, index: int, value: int) -> None:
        key, leaf = ctypes.c_uint32(index), ctypes.c_uint64(value)
        self._lib.bpf_update_elem(
            self._fds["control"], ctypes.byref(key), ctypes.byref(leaf), _BPF_ANY
        )

    def watch(self, tgid: int, start_time_ns: int) -> None:
        """Trace signals to this process (programs compiled with only_targets)."""
        key, leaf = ctypes.c_uint32(tgid), ctypes.c_uint64(start_time_ns)
        self._lib.bpf_update_elem(
            self._fds["watched"], ctypes.byref(key), ctypes.byref(leaf), _BPF_ANY
        )

    def allow(self, table: str, keys: Iterable[int]) -> None:
        """Fill the table `senders` (tgids) or `users` (uids)."""
        for number in keys:
            key, leaf = ctypes.c_uint32(number), ctypes.c_uint8(1)
            self._lib.bpf_update_elem(
                self._fds[table], ctypes.byref(key), ctypes.byref(leaf), _BPF_ANY
            )

    def remember_exec(self, tgid: int, entry: bytes) -> None:
        """Put a process that runs already into the map of command lines, unless it is there."""
        key = ctypes.c_uint32(tgid)
        self._lib.bpf_update_elem(self._fds["execs"], ctypes.byref(key), entry, _BPF_NOEXIST)

    def recall_exec(self, tgid: int) -> bytes | None:
        """The entry of the map of command lines, as struct kt_exec; None where there is none."""
        key = ctypes.c_uint32(tgid)
        if self._lib.bpf_lookup_elem(self._fds["execs"], ctypes.byref(key), self._exec_leaf):
            return None
        return self._exec_leaf.raw

    def close(self) -> None:
        """Detach and free all."""
        self._bpf.cleanup()


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
    module: ModuleType = bcc_module.load()
    return str(getattr(module, "__version__", "unknown"))
