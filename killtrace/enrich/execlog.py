"""What was executed of late that asks for an end, and the processes behind it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

from killtrace import clock, commands, decode
from killtrace.command_line import base_name
from killtrace.enrich.enricher import Enricher
from killtrace.enrich.procfs import TICK_NS, parse_cmdline
from killtrace.enrich.raw import resolved_exe
from killtrace.model import Ancestor, Process
from killtrace.requester import Execution, Requester, became
from killtrace.text import decode as to_text

# Each (tgid, struct kt_exec) of the map; a view that the next step overwrites (probe/execs.py).
Walk = Callable[[], Iterable[tuple[int, "memoryview | bytes"]]]

_ENTRY = struct.Struct("<" + decode.codes(decode.EXEC_FIELDS))
_HEAD = struct.Struct("<" + decode.codes(decode.EXEC_FIELDS[:-2]))  # all but exe and args
_ARGS_AT = _HEAD.size + struct.calcsize(decode.EXEC_FIELDS[-2][1])
_BEGINNING = 128
_UNSET = 0xFFFFFFFF
_KEEP_NS = 3600 * 1_000_000_000
# An execution is in the map a moment after its time.
_LATE_NS = 1_000_000_000
_MAX_KEPT, _MAX_ANCESTORS = 512, 16
# A look at the whole map takes some 20 ms; it never takes more than a twentieth of the time.
_REST = 19


def execution_of(tgid: int, entry: bytes | memoryview) -> Execution | None:
    """One entry of the map of command lines; None where it holds none, or its parent's alone."""
    head = _HEAD.unpack_from(entry)
    start_ns, exec_ns, ppid, uid, flags, exe_len, args_len = head
    if not args_len or flags & decode.INHERITED:
        return None
    from_proc = bool(flags & decode.FROM_PROC)
    exe = to_text(bytes(entry[_HEAD.size : _HEAD.size + exe_len]))
    return Execution(
        pid=tgid,
        start_time_ns=start_ns,
        exec_time_ns=exec_ns,
        ppid=ppid,
        uid=None if uid == _UNSET or from_proc else uid,
        exe=exe or None,
        cmdline=parse_cmdline(bytes(entry[_ARGS_AT : _ARGS_AT + args_len])),
        cmdline_cut=bool(flags & decode.ARGS_CUT),
    )


class ExecLog:
    """Looks for requests in the map when a proxy has sent a signal, and keeps those it found.

    `counted`: how many executions the map has taken in: if none, it need not be looked at.
    `recall` looks one tgid up.  `start_offset_ns` turns boot time into wall time, as for all
    start times of a run.
    """

    def __init__(
        self,
        walk: Walk,
        counted: Callable[[], int],
        recall: Callable[[int], bytes | None],
        enricher: Enricher,
        start_offset_ns: int,
        now_ns: Callable[[], int] = clock.boot_ns,
    ) -> None:
        self._walk = walk
        self._counted = counted
        self._recall = recall
        self._enricher = enricher
        self._offset_ns = start_offset_ns
        self._now_ns = now_ns
        self._kept: dict[tuple[int, int, int], Execution] = {}
        self._seen = -1
        self._looked_ns = self._rests_until_ns = 0

    # --- what was executed -------------------------------------------------------------------

    def before(self, time_ns: int) -> Sequence[Execution]:
        """Commands that ask for an end, executed before this boot time, as far as is known."""
        began_ns = self._now_ns()
        if time_ns > self._looked_ns and began_ns >= self._rests_until_ns:
            seen = self._counted()
            if seen != self._seen:
                self._look(began_ns)
                self._seen = seen
            self._looked_ns = began_ns
        return list(self._kept.values())

    def _look(self, began_ns: int) -> None:
        oldest_ns = began_ns - _KEEP_NS
        try:
            for tgid, entry in self._walk():
                exec_ns, flags = _HEAD.unpack_from(entry)[1:5:3]
                is_old = exec_ns < self._looked_ns - _LATE_NS and self._seen >= 0
                if is_old or flags & decode.INHERITED:
                    continue
                # 16,384 entries: what surely asks for nothing is not taken apart.
                if not commands.may_ask(bytes(entry[_ARGS_AT : _ARGS_AT + _BEGINNING])):
                    continue
                execution = execution_of(tgid, entry)
                if execution is not None and commands.parse(execution.cmdline) is not None:
                    key = (tgid, execution.start_time_ns, exec_ns)
                    self._kept[key] = execution
        except OSError:
            pass  # a kernel that can't be asked for all: what was found before stays
        for key in [key for key in self._kept if 0 < key[2] < oldest_ns]:
            del self._kept[key]
        for key in sorted(self._kept, key=lambda key: key[2])[
            : max(len(self._kept) - _MAX_KEPT, 0)
        ]:
            del self._kept[key]
        ended_ns = self._now_ns()
        self._rests_until_ns = ended_ns + _REST * (ended_ns - began_ns)

    def runs(self, execution: Execution) -> bool:
        """Whether that process is still there."""
        stat = self._enricher.procfs.stat(execution.pid)
        if stat is None or stat.state in ("Z", "X"):
            return False
        return 0 <= execution.start_time_ns - stat.start_ns < TICK_NS

    # --- who it was --------------------------------------------------------------------------

    def process(self, requester: Requester) -> Process | None:
        """The record of who asked."""
        if requester.execution is not None:
            return self._process(requester.execution)
        step = requester.ancestor
        if step is None:
            return None
        execution = self._of_ancestor(step)
        if execution is not None:
            return self._process(execution)
        return Process(pid=step.pid, comm=step.comm, cmdline=step.cmdline)

    def typist(self, process: Process) -> str | None:
        """The user who typed it, by name: the one who ran sudo or su, if it was run so."""
        itself = Ancestor(process.pid, process.comm, process.cmdline)
        step = became((itself, *process.ancestors))
        if step is None:
            return process.user
        execution = self._of_ancestor(step)
        # These become another user once they run: only what they were executed as tells.
        uid = None if execution is None else execution.uid
        return self._enricher.users.name(process.loginuid if uid is None else uid)

    def _of_ancestor(self, step: Ancestor) -> Execution | None:
        entry = self._recall(step.pid)
        execution = None if entry is None else execution_of(step.pid, entry)
        return execution if execution and execution.cmdline == step.cmdline else None

    def _process(self, execution: Execution) -> Process:
        process = Process(
            pid=execution.pid,
            tid=execution.pid,
            start_time_ns=execution.start_time_ns + self._offset_ns,
            exe=None
            if execution.exe is None
            else resolved_exe(execution.exe.encode("utf-8", "surrogateescape")),
            cmdline=execution.cmdline,
            cmdline_cut=execution.cmdline_cut,
            ppid=execution.ppid,
            uid=execution.uid,
            ancestors=self._ancestors(execution.ppid, execution.start_time_ns),
        )
        process = self._enricher.complete(process)
        if process.comm is None:
            comm = comm_of(execution.exe, execution.cmdline)
            process = Process(**{**vars(process), "comm": comm})
        return process

    def _ancestors(self, ppid: int, born_ns: int) -> tuple[Ancestor, ...]:
        """The parents by the map and, where it has them no more, by /proc; nearest first."""
        steps: list[Ancestor] = []
        while ppid > 0 and len(steps) < _MAX_ANCESTORS:
            stat = self._enricher.procfs.stat(ppid)
            entry = self._recall(ppid)
            found = None if entry is None else _ENTRY.unpack(entry)
            if found is not None and found[0] > born_ns:
                found = None  # a later process with its pid
            if stat is not None and stat.start_ns > born_ns:
                stat = None
            same = found is None or stat is None or 0 <= found[0] - stat.start_ns < TICK_NS
            if found is not None and same:
                start_ns, _, above, _, _, exe_len, args_len, exe, args = found
                cmdline = parse_cmdline(args[:args_len]) or None
                comm = stat.comm if stat else comm_of(to_text(exe[:exe_len]), cmdline or ())
            elif stat is not None:
                start_ns, above, comm = stat.start_ns, stat.ppid, stat.comm
                cmdline = self._enricher.procfs.cmdline(ppid) or None
            else:
                break
            steps.append(Ancestor(ppid, comm, cmdline))
            ppid, born_ns = (stat.ppid if stat else above), start_ns
        return tuple(steps)


def comm_of(exe: str | None, cmdline: Sequence[str]) -> str | None:
    """The name that the kernel gives what is executed, or None where a script may have given it.

    A script's interpreter is executed as its first line has it, with the script's path after it
    (fs/binfmt_script.c); then the name is the script's.
    """
    if not exe or (cmdline and cmdline[0] == exe and any("/" in word for word in cmdline[1:3])):
        return None
    name = base_name(exe).encode("utf-8", "surrogateescape")[:15]
    return to_text(name)
