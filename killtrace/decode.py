"""Bytes from the perf buffers, as immutable records: bpf/killtrace.h, the reader's half.

Pure: no I/O, no kernel.  The tables below are compared with the header, field by field, in
tests/unit/test_layout.py.  All `time_ns` here are boot time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Union

Fields = Sequence[tuple[str, str]]

HEADER_FIELDS: Fields = (("time_ns", "Q"), ("cpu", "I"), ("type", "B"), ("pad", "3s"))
ANCESTOR_FIELDS: Fields = (("start_time_ns", "Q"), ("tgid", "I"), ("pad", "I"), ("comm", "16s"))
TASK_FIELDS: Fields = (
    ("start_time_ns", "Q"),
    ("exec_id", "Q"),
    ("tgid", "I"),
    ("tid", "I"),
    ("ns_tgid", "I"),
    ("ppid", "I"),
    ("uid", "I"),
    ("loginuid", "I"),
    ("session_id", "I"),
    ("sid", "I"),
    ("pgid", "I"),
    ("flags", "I"),
    ("exec_flags", "I"),
    ("ancestors_len", "H"),
    ("cgroup_len", "H"),
    ("exe_len", "H"),
    ("args_len", "H"),
    ("cgroup_v1", "B"),
    ("pad", "3s"),
    ("comm", "16s"),
    ("tty", "32s"),
)
MEMORY_FIELDS: Fields = (
    ("total_vm", "Q"),
    ("file_rss", "Q"),
    ("anon_rss", "Q"),
    ("swap", "Q"),
    ("shmem_rss", "Q"),
    ("pgtables_bytes", "Q"),
    ("mm", "Q"),
    ("memcg_usage", "Q"),
    ("memcg_limit", "Q"),
    ("oom_score_adj", "i"),
    ("memcg_level", "I"),
)
SIGNAL_FIELDS: Fields = (
    ("fold_id", "Q"),
    ("rlim_cpu_s", "Q"),
    ("rlim_rttime_us", "Q"),
    ("signo", "i"),
    ("code", "i"),
    ("claimed_pid", "I"),
    ("result", "B"),
    ("group", "B"),
    ("disposition", "B"),
    ("blocked", "B"),
    ("target_ended", "B"),
    ("vintr", "B"),
    ("vquit", "B"),
    ("pad", "B"),
    ("stack_len", "H"),
    ("memory_len", "H"),
)
DEATH_FIELDS: Fields = (("exit_code", "i"), ("signals", "I"))
ATTEMPT_FIELDS: Fields = (
    ("signo", "i"),
    ("error", "i"),
    ("target_id", "i"),
    ("tid", "i"),
    ("syscall", "I"),
    ("pad", "I"),
)
OOM_FIELDS: Fields = (
    ("totalpages", "Q"),
    ("memcg_usage", "Q"),
    ("memcg_limit", "Q"),
    ("chosen_points", "q"),
    ("victim_tgid", "I"),
    ("constraint", "I"),
    ("gfp", "I"),
    ("order", "i"),
    ("is_memcg", "B"),
    ("pad", "B"),
    ("memcg_len", "H"),
    ("stack_len", "H"),
    ("pad2", "H"),
)
EXEC_FIELDS: Fields = (
    ("start_time_ns", "Q"),
    ("exec_time_ns", "Q"),
    ("ppid", "I"),
    ("uid", "I"),
    ("flags", "I"),
    ("exe_len", "H"),
    ("args_len", "H"),
    ("exe", "256s"),
    ("args", "1024s"),
)

SIGNAL, DEATH, ATTEMPT, OOM = 1, 2, 3, 4
ARGS_CUT, INHERITED, FROM_PROC, KERNEL_ONLY = 1, 2, 4, 8
ENDED_NOT, ENDED_DYING, ENDED_DEAD = 0, 1, 2
DISPOSITION_DEFAULT, DISPOSITION_IGNORED, DISPOSITION_HANDLED = 1, 2, 3


class DecodeError(ValueError):
    """Bytes that are no record of this version of killtrace."""


class RawAncestor(NamedTuple):
    """One step up the family tree."""

    start_time_ns: int
    tgid: int
    comm: bytes


class RawTask(NamedTuple):
    """One end, as the kernel gave it; `exe` and `args` are b"" where the map had none."""

    start_time_ns: int
    exec_id: int
    tgid: int
    tid: int
    ns_tgid: int
    ppid: int
    uid: int
    loginuid: int
    session_id: int
    sid: int
    pgid: int
    flags: int
    exec_flags: int
    cgroup_v1: bool
    comm: bytes
    tty: bytes
    ancestors: tuple[RawAncestor, ...]
    cgroup: bytes
    exe: bytes
    args: bytes


class RawMemory(NamedTuple):
    """A victim's memory in pages; `memcg_level` counts up from its own memcg."""

    total_vm: int
    file_rss: int
    anon_rss: int
    swap: int
    shmem_rss: int
    pgtables_bytes: int
    mm: int
    memcg_usage: int
    memcg_limit: int
    oom_score_adj: int
    memcg_level: int


class RawSignal(NamedTuple):
    """One generated signal; `stack` holds return addresses, nearest first."""

    time_ns: int
    cpu: int
    fold_id: int
    rlim_cpu_s: int
    rlim_rttime_us: int
    signo: int
    code: int
    claimed_pid: int
    result: int
    group: bool
    disposition: int
    blocked: bool
    target_ended: int
    vintr: int
    vquit: int
    stack: tuple[int, ...]
    memory: RawMemory | None
    sender: RawTask
    target: RawTask


class RawDeath(NamedTuple):
    """One process that ended; `exit_code` as wait(2) gives it."""

    time_ns: int
    cpu: int
    exit_code: int
    signals: int
    process: RawTask


class RawAttempt(NamedTuple):
    """One signal call that was refused; `error` is a positive errno."""

    time_ns: int
    cpu: int
    signo: int
    error: int
    target_id: int
    tid: int
    syscall: int
    sender: RawTask


class RawOom(NamedTuple):
    """One call of oom_kill_process(); memory in pages."""

    time_ns: int
    cpu: int
    totalpages: int
    memcg_usage: int
    memcg_limit: int
    chosen_points: int
    victim_tgid: int
    constraint: int
    gfp: int
    order: int
    memcg: bytes | None
    stack: tuple[int, ...]
    trigger: RawTask


RawRecord = Union[RawSignal, RawDeath, RawAttempt, RawOom]  # noqa: UP007 - evaluated at run time


def codes(fields: Fields) -> str:
    """The struct codes of a table of fields."""
    return "".join(code for _, code in fields)


_TIME = struct.Struct("<Q")
_HEADER = struct.Struct("<" + codes(HEADER_FIELDS))
_ANCESTOR = struct.Struct("<" + codes(ANCESTOR_FIELDS))
_TASK = struct.Struct("<" + codes(TASK_FIELDS))
_MEMORY = struct.Struct("<" + codes(MEMORY_FIELDS))
_SIGNAL = struct.Struct("<" + codes(SIGNAL_FIELDS))
_DEATH = struct.Struct("<" + codes(DEATH_FIELDS))
_ATTEMPT = struct.Struct("<" + codes(ATTEMPT_FIELDS))
_OOM = struct.Struct("<" + codes(OOM_FIELDS))


# The lengths of a task's sections, and where they stand in it.
_LENGTHS = struct.Struct("<4H")
_LENGTHS_AT = struct.calcsize(
    "<" + codes(TASK_FIELDS[: [name for name, _ in TASK_FIELDS].index("ancestors_len")])
)


class _Payload:
    """Cuts the payload into its sections; a record cut short raises DecodeError."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.data, self.offset = data, offset

    def task(self, offset: int) -> RawTask:
        """The task whose fixed part is at `offset`, with its sections, which come next."""
        fixed = self.data[offset : offset + _TASK.size]
        return _task(fixed, self.take(sum(_LENGTHS.unpack_from(fixed, _LENGTHS_AT))))

    def take(self, length: int) -> bytes:
        end = self.offset + length
        if end > len(self.data):
            raise DecodeError("a record is cut short")
        section = self.data[self.offset : end]
        self.offset = end
        return section

    def stack(self, length: int) -> tuple[int, ...]:
        return _stack(self.take(length))


@lru_cache(maxsize=1024)
def _stack(raw: bytes) -> tuple[int, ...]:
    return tuple(a for a in struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8]) if a)


def time_of(data: bytes) -> int:
    """When a record was made, before it is decoded; 0 for bytes that are none."""
    return int(_TIME.unpack_from(data)[0]) if len(data) >= _TIME.size else 0


def decode(data: bytes) -> RawRecord:
    """One record from a perf buffer's bytes; DecodeError where they are none."""
    try:
        time_ns, cpu, kind, _ = _HEADER.unpack_from(data)
        if kind == SIGNAL:
            return _signal(data, time_ns, cpu)
        if kind == DEATH:
            return _death(data, time_ns, cpu)
        if kind == ATTEMPT:
            return _attempt(data, time_ns, cpu)
        if kind == OOM:
            return _oom(data, time_ns, cpu)
    except struct.error as error:
        raise DecodeError("a record is cut short") from error
    raise DecodeError(f"a record of unknown type {kind}")


# The same few processes send, and are sent, most signals: each is taken apart once.
@lru_cache(maxsize=1024)
def _task(fixed: bytes, sections: bytes) -> RawTask:
    (*head, ancestors_len, cgroup_len, exe_len, args_len, cgroup_v1, _, comm, tty) = (
        _TASK.unpack_from(fixed)
    )
    payload = _Payload(sections, 0)
    steps = payload.take(ancestors_len)
    whole = len(steps) // _ANCESTOR.size * _ANCESTOR.size
    ancestors = tuple(
        RawAncestor(start, tgid, _text(name))
        for start, tgid, _, name in _ANCESTOR.iter_unpack(steps[:whole])
    )
    cgroup, exe, args = (payload.take(length) for length in (cgroup_len, exe_len, args_len))
    return RawTask._make(
        (*head, bool(cgroup_v1), _text(comm), _text(tty), ancestors, _path(cgroup), exe, args)
    )


def _text(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


def _path(names: bytes) -> bytes:
    r"""b"leaf\0parent\0" to b"/parent/leaf"; the root is b"/"."""
    return b"/" + b"/".join(reversed(names.split(b"\0")[:-1]))


def _signal(data: bytes, time_ns: int, cpu: int) -> RawSignal:
    offset = _HEADER.size
    (*head, group, disposition, blocked, ended, vintr, vquit, _, stack_len, memory_len) = (
        _SIGNAL.unpack_from(data, offset)
    )
    offset += _SIGNAL.size
    payload = _Payload(data, offset + 2 * _TASK.size)
    stack = payload.stack(stack_len)
    memory = RawMemory(*_MEMORY.unpack(payload.take(memory_len))) if memory_len else None
    flags = (bool(group), disposition, bool(blocked), ended, vintr, vquit)
    ends = (payload.task(offset), payload.task(offset + _TASK.size))
    return RawSignal._make((time_ns, cpu, *head, *flags, stack, memory, *ends))


def _death(data: bytes, time_ns: int, cpu: int) -> RawDeath:
    exit_code, signals = _DEATH.unpack_from(data, _HEADER.size)
    offset = _HEADER.size + _DEATH.size
    process = _Payload(data, offset + _TASK.size).task(offset)
    return RawDeath(time_ns, cpu, exit_code, signals, process)


def _attempt(data: bytes, time_ns: int, cpu: int) -> RawAttempt:
    signo, error, target_id, tid, syscall, _ = _ATTEMPT.unpack_from(data, _HEADER.size)
    offset = _HEADER.size + _ATTEMPT.size
    sender = _Payload(data, offset + _TASK.size).task(offset)
    return RawAttempt(time_ns, cpu, signo, -error, target_id, tid, syscall, sender)


def _oom(data: bytes, time_ns: int, cpu: int) -> RawOom:
    (*head, is_memcg, _, memcg_len, stack_len, _) = _OOM.unpack_from(data, _HEADER.size)
    offset = _HEADER.size + _OOM.size
    payload = _Payload(data, offset + _TASK.size)
    memcg = _path(payload.take(memcg_len))
    stack = payload.stack(stack_len)
    trigger = payload.task(offset)
    return RawOom._make((time_ns, cpu, *head, memcg if is_memcg else None, stack, trigger))
