"""Ends of signals as the kernel gave them, made into process records."""

from __future__ import annotations

import re
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from killtrace import decode
from killtrace.decode import RawAncestor, RawTask
from killtrace.enrich.enricher import Enricher
from killtrace.enrich.procfs import TICK_NS, parse_cmdline
from killtrace.model import Ancestor, Process
from killtrace.text import decode as to_text

_UNSET = 0xFFFFFFFF
_PTS = re.compile(r"pts(\d+)$")
# A process's own files are read again after this: its title may change, its place hardly.
_CACHE_S = 1.0
_CACHE_ENTRIES = 1024
# In a storm, the same few ancestors come again and again; but each may exec at any time.
_ANCESTOR_S = 0.05
_EXEC = struct.Struct("<" + decode.codes(decode.EXEC_FIELDS))

RecallExec = Callable[[int], "bytes | None"]


class Ends:
    """Makes a model.Process of a RawTask: kernel facts first, /proc where it still has more.

    `recall_exec` looks a tgid up in the map of command lines, for ancestors.  `start_offset_ns`
    turns boot time into wall time, once for the whole run: start times are identities.
    """

    def __init__(self, enricher: Enricher, recall_exec: RecallExec, start_offset_ns: int) -> None:
        self._enricher = enricher
        self._recall_exec = recall_exec
        self._offset_ns = start_offset_ns
        self._ancestors: dict[RawAncestor, tuple[float, Ancestor]] = {}
        self._cache: OrderedDict[tuple[int, int, int, bytes], tuple[float, Process]] = OrderedDict()

    def process(self, raw: RawTask) -> Process:
        """The record of one end."""
        # What was executed is part of the key: a forked child execs with its identity kept.
        key = (raw.tid, raw.start_time_ns, raw.exec_id, raw.args)
        now = time.monotonic()
        cached = self._cache.get(key)
        if cached is not None and now - cached[0] < _CACHE_S:
            return cached[1]
        process = self._complete(raw)
        self._cache[key] = (now, process)
        if len(self._cache) > _CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return process

    def _complete(self, raw: RawTask) -> Process:
        cmdline = parse_cmdline(raw.args) if raw.args else None
        process = Process(
            pid=raw.tgid,
            tid=raw.tid,
            ns_pid=raw.ns_tgid or None,
            start_time_ns=raw.start_time_ns + self._offset_ns,
            comm=to_text(raw.comm),
            exe=resolved_exe(raw.exe),
            cmdline=cmdline,
            cmdline_cut=bool(raw.exec_flags & decode.ARGS_CUT),
            ppid=raw.ppid,
            uid=None if raw.uid == _UNSET else raw.uid,
            loginuid=None if raw.loginuid == _UNSET else raw.loginuid,
            session_id=None if raw.session_id == _UNSET else raw.session_id,
            sid=raw.sid or None,
            tty=tty_path(raw.tty),
            cgroup=to_text(raw.cgroup),
            ancestors=tuple(self._ancestor(step) for step in raw.ancestors),
        )
        if cmdline is None:
            return self._enricher.complete(process)
        if process.exe is None:
            process = replace(process, exe=self._enricher.procfs.exe(raw.tgid))
        return self._titled(self._enricher.place(process), raw)

    def _titled(self, process: Process, raw: RawTask) -> Process:
        """With what the process has written over its arguments since, if it runs and did so."""
        procfs = self._enricher.procfs
        stat = procfs.stat(raw.tgid)
        if stat is None or not 0 <= raw.start_time_ns - stat.start_ns < TICK_NS:
            return process
        current = procfs.cmdline(raw.tgid)
        # The name changes with an exec: then these are another program's arguments, no title.
        same_name = stat.comm == process.comm
        if not current or current == process.cmdline or process.cmdline_cut or not same_name:
            return process
        return replace(process, title=" ".join(current).strip())

    def _ancestor(self, raw: RawAncestor) -> Ancestor:
        now = time.monotonic()
        cached = self._ancestors.get(raw)
        if cached is not None and now - cached[0] < _ANCESTOR_S:
            return cached[1]
        if len(self._ancestors) > _CACHE_ENTRIES:
            self._ancestors.clear()
        ancestor = self._looked_up(raw)
        self._ancestors[raw] = (now, ancestor)
        return ancestor

    def _looked_up(self, raw: RawAncestor) -> Ancestor:
        cmdline: tuple[str, ...] | None = None
        entry = self._recall_exec(raw.tgid)
        if entry is not None:
            start_ns, _, _, _, flags, _, args_len, _, args = _EXEC.unpack(entry)
            same_ns = raw.start_time_ns
            if flags & decode.FROM_PROC:
                same_ns -= same_ns % TICK_NS
            if start_ns == same_ns and args_len:
                cmdline = parse_cmdline(args[:args_len])
        if cmdline is None:
            stat = self._enricher.procfs.stat(raw.tgid)
            if stat is not None and 0 <= raw.start_time_ns - stat.start_ns < TICK_NS:
                cmdline = self._enricher.procfs.cmdline(raw.tgid) or None
        return Ancestor(raw.tgid, to_text(raw.comm), cmdline)


def tty_path(name: bytes) -> str | None:
    """b"pts3" (tty_struct.name) to "/dev/pts/3"; None for none."""
    if not name:
        return None
    text = to_text(name)
    match = _PTS.match(text)
    return f"/dev/pts/{match[1]}" if match else f"/dev/{text}"


@lru_cache(maxsize=4096)
def resolved_exe(path: bytes) -> str | None:
    """The file that was executed, links resolved as /proc/PID/exe has it; None if relative."""
    if not path.startswith(b"/") or path.startswith((b"/dev/fd/", b"/proc/")):
        return None
    try:
        return str(Path(to_text(path)).resolve())
    except OSError:
        return to_text(path)


def pack_exec(start_time_ns: int, ppid: int, uid: int, exe: bytes, args: bytes) -> bytes:
    """Struct kt_exec for a process that ran before tracing began."""
    flags = decode.FROM_PROC
    if len(args) >= 1024:
        args, flags = args[:1023], flags | decode.ARGS_CUT
    exe = exe if len(exe) < 256 else b""
    return _EXEC.pack(start_time_ns, 0, ppid, uid, flags, len(exe), len(args), exe, args)
