"""Records, clocks and stores made up for the tests of the recorder."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from killtrace.model import (
    ORIGIN_FIELDS,
    Ancestor,
    Attempt,
    Cause,
    Container,
    Death,
    Exit,
    Lost,
    Origin,
    Process,
    Record,
    Signal,
    SignalBrief,
)
from killtrace.store.recorder import Recorder

S = 1_000_000_000
NOW_NS = 1_795_445_051 * S

SHELL = (
    Ancestor(900, "bash", ("-bash",)),
    Ancestor(899, "sshd", ("sshd: alice@pts/3",)),
    Ancestor(700, "sshd", ("/usr/sbin/sshd", "-D")),
    Ancestor(1, "systemd", ("/sbin/init",)),
)


def process(pid: int, *cmdline: str, **changes: Any) -> Process:
    """A process as a login shell's child has it."""
    words = cmdline or ("sleep", "100")
    fields: dict[str, Any] = {
        "tid": pid,
        "ns_pid": pid,
        "start_time_ns": NOW_NS + pid * 1000,
        "comm": words[0].rpartition("/")[2][:15],
        "exe": f"/usr/bin/{words[0].rpartition('/')[2]}",
        "cmdline": words,
        "ppid": 900,
        "uid": 1000,
        "user": "alice",
        "loginuid": 1000,
        "session_id": 3,
        "sid": 900,
        "tty": "/dev/pts/3",
        "cgroup": "/user.slice/user-1000.slice/session-3.scope",
        "unit": "session-3.scope",
        "ancestors": SHELL,
    }
    return Process(pid, **{**fields, **changes})


KILLER = process(500, "pkill", "-x", "sleep")
SENT = Origin(
    "process",
    "500 (pkill -x sleep), run by alice sent it with kill(2)",
    True,
    {"syscall": "kill", "group": None},
)


def signal(number: int = 0, **changes: Any) -> Signal:
    """One SIGTERM; each number has a target and a time of its own."""
    fields: dict[str, Any] = {
        "time_ns": NOW_NS + number * 1_000_000,
        "signo": 15,
        "code": 0,
        "result": "delivered",
        "scope": "process",
        "sender": KILLER,
        "target": process(2000 + number, "sleep", str(number)),
        "origin": SENT,
    }
    return Signal(**{**fields, **changes})


def death(of: Signal, **changes: Any) -> Death:
    """The death that a signal caused."""
    sender = of.sender
    brief = SignalBrief(
        of.signo,
        of.time_ns,
        of.result,
        None if sender is None else sender.pid,
        None if sender is None else sender.comm,
        of.origin.kind,
    )
    fields: dict[str, Any] = {
        "time_ns": of.time_ns + 400_000,
        "process": of.target,
        "exit": Exit(of.signo, None),
        "cause": Cause(of.signo, of.time_ns, of.sender, of.origin),
        "signals": (brief,),
        "elapsed_ns": 400_000,
    }
    return Death(**{**fields, **changes})


def kills(count: int, first: int = 0) -> Iterator[Record]:
    """Signals, each with its death."""
    for number in range(first, first + count):
        sent = signal(number)
        yield sent
        yield death(sent)


# --- any record at all -----------------------------------------------------------------------

_NAMES = st.sampled_from(
    ["sh", "nginx", "python3", "sleep", "a b", "caf\u00e9", "\x1b[2J", "\udcff"]
)
# What surrogateescape makes of bytes that are no UTF-8.
_BYTES = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)
_TEXT = _NAMES | st.text(max_size=8) | st.text(_BYTES, max_size=2)
_SMALL = st.integers(0, 5)
_NUMBER = st.integers(0, (1 << 32) - 1)
_TIME = st.integers(NOW_NS - 10 * S, NOW_NS + 10 * S)
_SIGNO = st.sampled_from([1, 2, 9, 15, 34, 63, 64])


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_CMDLINE = _maybe(st.lists(_TEXT, max_size=3).map(tuple))
_ANCESTORS = st.lists(
    st.builds(Ancestor, pid=_NUMBER, comm=_maybe(_TEXT), cmdline=_CMDLINE), max_size=2
).map(tuple)
_CONTAINER = st.builds(
    Container,
    runtime=st.sampled_from(["docker", "podman"]),
    id=_maybe(st.text(string.hexdigits, min_size=4, max_size=8)),
    name=_maybe(st.sampled_from(["web", "db"])),
    image=_maybe(_TEXT),
    pod=_maybe(st.sampled_from(["web", "db"])),
    namespace=_maybe(_TEXT),
)
PROCESSES = st.builds(
    Process,
    pid=_SMALL,
    tid=_maybe(_SMALL),
    ns_pid=_maybe(_NUMBER),
    start_time_ns=_maybe(st.sampled_from([NOW_NS, NOW_NS + 1])),
    comm=_maybe(_NAMES),
    exe=_maybe(_TEXT),
    cmdline=_CMDLINE,
    cmdline_cut=st.booleans(),
    title=_maybe(_TEXT),
    ppid=_maybe(_NUMBER),
    uid=_maybe(_SMALL),
    user=_maybe(_NAMES),
    loginuid=_maybe(_NUMBER),
    session_id=_maybe(_NUMBER),
    sid=_maybe(_NUMBER),
    tty=_maybe(_TEXT),
    cgroup=_maybe(st.sampled_from(["/", "/a", "/a/b", "/ab"])),
    unit=_maybe(st.sampled_from(["nginx.service", "cron.service", "session-3.scope"])),
    container=_maybe(_CONTAINER),
    ancestors=_ANCESTORS,
)
_DETAIL = st.none() | st.booleans() | _NUMBER | _TEXT | PROCESSES | st.lists(_TEXT, max_size=2)


@st.composite
def _origins(draw: st.DrawFn) -> Origin:
    kind = draw(st.sampled_from(sorted(ORIGIN_FIELDS)))
    names = draw(st.sets(st.sampled_from(ORIGIN_FIELDS[kind]))) if ORIGIN_FIELDS[kind] else set()
    detail = {name: draw(_DETAIL) for name in sorted(names)}
    return Origin(kind, draw(_TEXT), draw(st.booleans()), detail)


ORIGINS = _origins()
_RESULTS = st.sampled_from(["delivered", "ignored", "already_pending", "overflow", "lost_info"])
_BRIEFS = st.builds(
    SignalBrief,
    signo=_SIGNO,
    time_ns=_TIME,
    result=_RESULTS,
    sender_pid=_maybe(_NUMBER),
    sender_comm=_maybe(_TEXT),
    origin_kind=st.sampled_from(sorted(ORIGIN_FIELDS)),
    repeats=_SMALL,
)
_SIGNALS = st.builds(
    Signal,
    time_ns=_TIME,
    signo=_SIGNO,
    code=st.sampled_from([0, 128, -1, -6, 7]),
    result=_RESULTS,
    scope=st.sampled_from(["process", "thread"]),
    sender=_maybe(PROCESSES),
    target=PROCESSES,
    origin=ORIGINS,
    repeats=_SMALL,
)
_DEATHS = st.builds(
    Death,
    time_ns=_TIME,
    process=PROCESSES,
    exit=st.builds(Exit, signal=_SIGNO, status=st.none(), core_dumped=st.booleans())
    | st.builds(Exit, signal=st.none(), status=_maybe(st.integers(0, 255))),
    cause=_maybe(
        st.builds(Cause, signo=_SIGNO, time_ns=_TIME, sender=_maybe(PROCESSES), origin=ORIGINS)
    ),
    signals=st.lists(_BRIEFS, max_size=3).map(tuple),
    elapsed_ns=_maybe(_NUMBER),
)
_ATTEMPTS = st.builds(
    Attempt,
    time_ns=_TIME,
    signo=_SIGNO,
    errno=st.sampled_from(["EPERM", "ESRCH"]),
    syscall=st.just("kill"),
    sender=PROCESSES,
    target=_maybe(PROCESSES),
)
_LOSSES = st.builds(Lost, time_ns=_TIME, count=_NUMBER, buffer=st.just("signals"))
RECORDS = _SIGNALS | _DEATHS | _ATTEMPTS | _LOSSES


# --- recorders -------------------------------------------------------------------------------


class FakeClock:
    """Clocks that go only when they are told to."""

    def __init__(self) -> None:
        self.boot = 1000 * S
        self.offset = NOW_NS - self.boot

    def wall_ns(self) -> int:
        return self.boot + self.offset

    def boot_ns(self) -> int:
        return self.boot

    def sleep(self, seconds: float) -> None:
        self.boot += int(seconds * S)


class Bench:
    """A recorder on a clock of its own, with what it told."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.clock = FakeClock()
        self.told: list[str] = []
        self.options = options
        self.recorder = self.start()

    def start(self) -> Recorder:
        """Another recorder on the same store and clock, armed."""
        self.recorder = Recorder(self.path, time=self.clock, tell=self.told.append, **self.options)
        self.recorder.arm()
        return self.recorder

    def write(self, *records: Record) -> None:
        """Write records, and wait until they are written."""
        for record in records:
            self.recorder.write(record)
        self.pause(0.2)

    def pause(self, seconds: float) -> None:
        """Let time pass, with a tick at its end."""
        self.clock.sleep(seconds)
        self.recorder.tick()
