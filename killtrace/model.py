"""The records that flow through killtrace: immutable, typed, and free of I/O.

Names follow `docs/records.md`.  A field that is not known is None, never a guess.
All `time_ns` are wall-clock nanoseconds since the epoch; `start_time_ns` likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Union

Result = Literal["delivered", "ignored", "already_pending", "overflow", "lost_info"]
Scope = Literal["process", "thread"]


@dataclass(frozen=True)
class Container:
    """The container that a process ran in; every name as its runtime spells it."""

    runtime: str
    id: str | None = None
    name: str | None = None
    image: str | None = None
    pod: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Ancestor:
    """One step up the family tree; `pid` is a thread group id of the initial namespace."""

    pid: int
    comm: str | None
    cmdline: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Process:
    """One end of a signal: a thread group, identified by (pid, start_time_ns).

    `pid` is the thread group's id in the initial PID namespace, `tid` the thread that sent or was
    named, `ns_pid` the pid in the process's own namespace.  `session_id` is the audit session
    (/proc/PID/sessionid), the companion of `loginuid`; `sid` is setsid(2)'s.
    `cmdline` is as executed; `cmdline_cut` says that the end of it is missing; `title` is what the
    process has since written over it, if that differs.
    """

    pid: int
    tid: int | None = None
    ns_pid: int | None = None
    start_time_ns: int | None = None
    comm: str | None = None
    exe: str | None = None
    cmdline: tuple[str, ...] | None = None
    cmdline_cut: bool = False
    title: str | None = None
    ppid: int | None = None
    uid: int | None = None
    user: str | None = None
    loginuid: int | None = None
    session_id: int | None = None
    sid: int | None = None
    tty: str | None = None
    cgroup: str | None = None
    unit: str | None = None
    container: Container | None = None
    ancestors: tuple[Ancestor, ...] = ()


# What each kind of origin carries beside kind, summary and certain (docs/records.md).
ORIGIN_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "process": ("syscall", "group", "requester", "via"),
        "terminal": ("tty", "key", "holder", "login_user", "remote_host"),
        "hangup": ("tty", "holder", "login_user", "remote_host"),
        "session-exit": ("leader",),
        "orphaned-group": (),
        "parent-death": ("parent",),
        "pid-namespace": ("init",),
        "cgroup-kill": ("cgroup", "requester", "via"),
        "oom": (
            "scope",
            "memcg",
            "limit_kb",
            "usage_kb",
            "trigger",
            "group",
            "memory",
            "badness",
            "order",
            "gfp",
            "candidates",
        ),
        "userspace-oom": ("reason",),
        "cpu-limit": ("limit_s",),
        "timer": (),
        "fd-signal": (),
        "tracer-exit": ("tracer",),
        "sysrq": (),
        "hardware": (),
        "bpf": (),
        "kernel": ("stack",),
    }
)
ORIGIN_KINDS = tuple(ORIGIN_FIELDS)

MEMORY_FIELDS = (
    "total_vm_kb",
    "anon_rss_kb",
    "file_rss_kb",
    "shmem_rss_kb",
    "swap_kb",
    "pgtables_kb",
    "oom_score_adj",
)


@dataclass(frozen=True)
class Origin:
    """Where a signal came from: a kind, one sentence for a person, and what the kind carries.

    `detail` holds exactly the keys of ORIGIN_FIELDS[kind] once it is written out; values are
    JSON values or Process.
    """

    kind: str
    summary: str
    certain: bool = True
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Signal:
    """One signal that was generated, or a run of identical ones (1 + repeats of them)."""

    time_ns: int
    signo: int
    code: int
    result: Result
    scope: Scope
    sender: Process | None
    target: Process
    origin: Origin
    repeats: int = 0


@dataclass(frozen=True)
class Exit:
    """How a process ended, as wait(2) would tell: by a signal, or with a status 0..255."""

    signal: int | None
    status: int | None
    core_dumped: bool = False


@dataclass(frozen=True)
class Cause:
    """The signal that ended a process."""

    signo: int
    time_ns: int
    sender: Process | None
    origin: Origin


@dataclass(frozen=True)
class SignalBrief:
    """One line of the story that led to a death."""

    signo: int
    time_ns: int
    result: Result
    sender_pid: int | None
    sender_comm: str | None
    origin_kind: str
    repeats: int = 0


@dataclass(frozen=True)
class Death:
    """The end of a process, with the signals that reached it, oldest first."""

    time_ns: int
    process: Process
    exit: Exit
    cause: Cause | None
    signals: tuple[SignalBrief, ...] = ()
    elapsed_ns: int | None = None


@dataclass(frozen=True)
class Attempt:
    """A signal that the kernel refused to send; `errno` is its symbolic name."""

    time_ns: int
    signo: int
    errno: str
    syscall: str
    sender: Process
    target: Process | None


@dataclass(frozen=True)
class Lost:
    """Events that never reached the reader; `buffer` says which buffer overflowed."""

    time_ns: int
    count: int
    buffer: str


Record = Union[Signal, Death, Attempt, Lost]  # noqa: UP007 - evaluated at run time on 3.10
