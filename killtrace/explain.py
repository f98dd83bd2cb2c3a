"""Looks behind a sender: who asked it, and what a well-known one means by its signal.

An origin comes in as attribute and describe made it, and goes out with `requester`, `via` and a
summary that says so.  It remembers which stops are under way: the SIGKILL that ends one was asked
for by whoever asked for the SIGTERM before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from killtrace import senders, signames, text
from killtrace.command_line import program
from killtrace.describe import named
from killtrace.model import Origin, Process
from killtrace.requester import (
    TOOLS,
    Execution,
    Proxy,
    Requester,
    find,
    is_systemd,
    proxy,
)

_KINDS = ("process", "cgroup-kill")
_SIGHUP, _SIGABRT, _SIGKILL = 1, 6, 9
_MAX_STOPS, _MAX_HIT = 1024, 512
_S = 1_000_000_000
# TimeoutStopSec= and `docker stop -t` are seconds to minutes; after this it is another story.
_STOP_NS = 3600 * _S


class Executions(Protocol):
    """What was executed of late, and the processes behind it (killtrace/enrich/execlog.py)."""

    def before(self, time_ns: int) -> Iterable[Execution]:
        """Commands that ask for an end, executed before this boot time."""

    def runs(self, execution: Execution) -> bool:
        """Whether that process is still there."""

    def process(self, requester: Requester) -> Process | None:
        """The record of who asked."""

    def typist(self, process: Process) -> str | None:
        """The user who ran the sudo or su above a process, by name."""


# The reason that a userspace OOM killer logged: (daemon, target, wall time).
Reason = Callable[[Process, Process, int], "str | None"]


# Who asked, as find() has it and as a record.
_Asked = tuple[Requester, Process]


@dataclass
class _Stop:
    """An end that a proxy is bringing about, of one unit, container or process; boot time."""

    began_ns: int
    began_wall_ns: int
    signo: int
    asked: _Asked | None
    hit: set[tuple[int, int | None]] = field(default_factory=set)

    def covers(self, target: Process, time_ns: int, asked: _Asked | None) -> bool:
        """Whether a signal to this process belongs to it."""
        if time_ns - self.began_ns > _STOP_NS or _is_single(self.asked):
            return False
        execution = None if asked is None else asked[0].execution
        if execution is not None and execution.exec_time_ns > self.began_ns:
            return False  # asked for after the stop had begun: an act of its own
        was_there = (target.start_time_ns or self.began_wall_ns + 1) <= self.began_wall_ns
        return was_there or identity(target) in self.hit


def identity(process: Process) -> tuple[int, int | None]:
    """(pid, start time)."""
    return process.pid, process.start_time_ns


def _is_single(asked: _Asked | None) -> bool:
    """Whether what was asked for is one signal, after which nothing follows."""
    request = None if asked is None else asked[0].request
    return request is not None and (request.signo is not None or request.verb == "reload")


class Explainer:
    """Completes origins, in the order of their signals."""

    def __init__(self, executions: Executions, reason: Reason = lambda *_: None) -> None:
        self._executions = executions
        self._reason = reason
        self._stops: OrderedDict[tuple[object, ...], _Stop] = OrderedDict()

    def explain(
        self, origin: Origin, sender: Process, target: Process, signo: int, time_ns: int, wall: int
    ) -> Origin:
        """The origin with who asked, and why; `time_ns` is boot time, `wall` since the epoch."""
        if origin.kind == "userspace-oom":
            return self._with_reason(origin, sender, target, wall)
        if origin.kind not in _KINDS:
            return origin
        what = proxy(sender)
        asked = self._asked(what, sender, target, signo, time_ns)
        if what is None:
            origin = self._self_explained(origin, sender, target, signo, wall)
        elif sender.pid == 1 or program(sender.cmdline or ())[0] not in TOOLS:
            stop, begins = self._stop(what, sender, target, signo, time_ns, wall, asked)
            words = _words(what, stop, sender, target, signo, time_ns, begins)
            asked = asked if begins else stop.asked or asked
            stop.asked = asked
            if len(stop.hit) < _MAX_HIT:
                stop.hit.add(identity(target))
            if words is not None:
                origin = replace(origin, summary=words)
        return origin if asked is None else self._with_requester(origin, *asked)

    def _asked(
        self, what: Proxy | None, sender: Process, target: Process, signo: int, time_ns: int
    ) -> _Asked | None:
        before = () if what is None else self._executions.before(time_ns)
        found = find(sender, target, signo, time_ns, before, self._executions.runs)
        process = None if found is None else self._executions.process(found)
        return None if found is None or process is None else (found, process)

    def _stop(
        self,
        what: Proxy,
        sender: Process,
        target: Process,
        signo: int,
        time_ns: int,
        wall: int,
        asked: _Asked | None,
    ) -> tuple[_Stop, bool]:
        """The stop that a signal belongs to, and whether it begins with it."""
        key = _stop_key(what, sender, target)
        stop = self._stops.get(key)
        if stop is not None and stop.covers(target, time_ns, asked):
            return stop, False
        stop = self._stops[key] = _Stop(time_ns, wall, signo, asked)
        self._stops.move_to_end(key)
        if len(self._stops) > _MAX_STOPS:
            self._stops.popitem(last=False)
        return stop, True

    # --- words -----------------------------------------------------------------------------

    def _with_requester(self, origin: Origin, found: Requester, process: Process) -> Origin:
        user = self._executions.typist(process) or process.user
        by = f", run by {text.escape(user)}" if user else ""
        probably = "" if found.certain else "probably "
        return replace(
            origin,
            summary=f"{origin.summary}; {probably}asked by {named(process)}{by}",
            certain=origin.certain and found.certain,
            detail={**origin.detail, "requester": process, "via": found.via},
        )

    def _self_explained(
        self, origin: Origin, sender: Process, target: Process, signo: int, wall: int
    ) -> Origin:
        age_ns = None if sender.start_time_ns is None else wall - sender.start_time_ns
        words = senders.timeout_words(sender, target, signo, age_ns)
        if words is not None:
            return replace(origin, summary=words)
        summary = origin.summary
        sought = senders.pattern(sender)
        if sought is not None:
            summary += f", as to all that match {sought!r}"
        job = senders.setting(sender.ancestors)
        if job is not None:
            summary += f", in {job}"
        return replace(origin, summary=summary)

    def _with_reason(self, origin: Origin, sender: Process, target: Process, wall: int) -> Origin:
        reason = self._reason(sender, target, wall)
        if reason is None:
            return origin
        summary = f"{origin.summary}: {text.escape(reason)}"
        return replace(origin, summary=summary, detail={**origin.detail, "reason": reason})


def _stop_key(what: Proxy, sender: Process, target: Process) -> tuple[object, ...]:
    if target.container is not None and "container" in what.kinds and target.container.id:
        return "container", target.container.id
    if what.via.startswith("systemd") and target.unit is not None:
        return sender.pid, target.unit
    return sender.pid, target.pid, target.start_time_ns


def _words(
    what: Proxy,
    stop: _Stop,
    sender: Process,
    target: Process,
    signo: int,
    time_ns: int,
    begins: bool,
) -> str | None:
    """Why a proxy sends this, where it is known; None: nothing to add."""
    by_systemd = is_systemd(sender)
    hit = identity(target) in stop.hit
    elapsed_ns = time_ns - stop.began_ns
    if not begins and signo == _SIGKILL and hit and stop.signo not in (_SIGKILL, _SIGHUP):
        runtime = None if target.container is None else target.container.runtime
        unit = target.unit if by_systemd else None
        who = "systemd" if by_systemd else (runtime or what.via)
        return senders.escalation(who, unit, stop.signo, elapsed_ns)
    if not by_systemd:
        return None
    unit = text.escape(target.unit) if target.unit else "a unit"
    name = signames.name(signo)
    if signo == _SIGABRT and not _is_single(stop.asked):
        return f"systemd: watchdog of {unit} ran out, or a timeout that is set to abort"
    if not begins and signo == _SIGKILL and stop.signo != _SIGKILL:
        return f"systemd: SIGKILL to what its main process left of {unit} (KillMode=mixed)"
    if not begins and signo == _SIGHUP and hit and stop.signo != _SIGHUP:
        return f"systemd: SIGHUP to {unit} beside its {signames.name(stop.signo)} (SendSIGHUP=)"
    return f"systemd: {name} to {unit}"
