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
_MAX_STOPS, _MAX_HIT, _MAX_SENDERS = 1024, 512, 4096
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


@dataclass(frozen=True)
class Act:
    """One signal and its ends; `wall_ns` since the epoch, the other times are boot time."""

    sender: Process
    target: Process
    signo: int
    time_ns: int
    wall_ns: int
    sender_start_ns: int
    target_start_ns: int

    @property
    def hit(self) -> tuple[int, int]:
        """The target's identity."""
        return self.target.pid, self.target_start_ns


# Who asked, as find() has it and as a record.
_Asked = tuple[Requester, Process]


@dataclass
class _Stop:
    """An end that a proxy is bringing about, of one unit, container or process; boot time."""

    began_ns: int
    signo: int
    asked: _Asked | None
    hit: set[tuple[int, int]] = field(default_factory=set)

    def covers(self, act: Act, asked: _Asked | None) -> bool:
        """Whether a signal belongs to it."""
        if act.time_ns - self.began_ns > _STOP_NS or _is_single(self.asked):
            return False
        execution = None if asked is None else asked[0].execution
        if execution is not None and execution.exec_time_ns > self.began_ns:
            return False  # asked for after the stop had begun: an act of its own
        return act.target_start_ns <= self.began_ns or act.hit in self.hit


def _is_single(asked: _Asked | None) -> bool:
    """Whether what was asked for is one signal, after which nothing follows."""
    request = None if asked is None else asked[0].request
    return request is not None and (request.signo is not None or request.verb == "reload")


@dataclass(frozen=True)
class _Sender:
    """What is the same for all that a sender sends: looked up once, for storms to be cheap."""

    what: Proxy | None
    limits: bool  # it is timeout(1)
    beside: str  # what is to be said beside the sender's name
    asked: _Asked | None  # who ran it, if it is no proxy


class Explainer:
    """Completes origins, in the order of their signals."""

    def __init__(self, executions: Executions, reason: Reason = lambda *_: None) -> None:
        self._senders: dict[tuple[object, ...], _Sender] = {}
        self._executions = executions
        self._reason = reason
        self._stops: OrderedDict[tuple[object, ...], _Stop] = OrderedDict()

    def explain(self, origin: Origin, act: Act) -> Origin:
        """The origin with who asked, and why."""
        if origin.kind == "userspace-oom":
            return self._with_reason(origin, act)
        if origin.kind not in _KINDS:
            return origin
        known = self._known(act)
        if known.what is not None:
            return self._by_proxy(known.what, origin, act)
        if known.limits:
            age_ns = act.time_ns - act.sender_start_ns
            words = senders.timeout_words(act.sender, act.target, act.signo, age_ns)
            origin = replace(origin, summary=words or origin.summary)
        elif known.beside:
            origin = replace(origin, summary=origin.summary + known.beside)
        return origin if known.asked is None else self._with_requester(origin, *known.asked)

    def _known(self, act: Act) -> _Sender:
        sender = act.sender
        key = (sender.pid, act.sender_start_ns, sender.cmdline)
        known = self._senders.get(key)
        if known is None:
            what = proxy(sender)
            sought, job = senders.pattern(sender), senders.setting(sender.ancestors)
            beside = "" if sought is None else f', as to all that match "{sought}"'
            beside += "" if job is None else f", in {job}"
            asked = self._asked(act, ()) if what is None else None
            limits = program(sender.cmdline or ())[0] == "timeout"
            if len(self._senders) >= _MAX_SENDERS:
                self._senders.clear()
            known = self._senders[key] = _Sender(what, limits, beside, asked)
        return known

    def _asked(self, act: Act, before: Iterable[Execution]) -> _Asked | None:
        found = find(act.sender, act.target, act.signo, act.time_ns, before, self._executions.runs)
        process = None if found is None else self._executions.process(found)
        return None if found is None or process is None else (found, process)

    def _by_proxy(self, what: Proxy, origin: Origin, act: Act) -> Origin:
        asked = self._asked(act, self._executions.before(act.time_ns))
        # A tool that systemd ran for ExecReload= sends its one signal, and that is all.
        if is_systemd(act.sender) or program(act.sender.cmdline or ())[0] not in TOOLS:
            stop, begins = self._stop(what, act, asked)
            origin = replace(origin, summary=_words(what, stop, act, begins) or origin.summary)
            asked = stop.asked = asked if begins else stop.asked or asked
            if len(stop.hit) < _MAX_HIT:
                stop.hit.add(act.hit)
        return origin if asked is None else self._with_requester(origin, *asked)

    def _stop(self, what: Proxy, act: Act, asked: _Asked | None) -> tuple[_Stop, bool]:
        """The stop that a signal belongs to, and whether it begins with it."""
        key = _stop_key(what, act)
        stop = self._stops.get(key)
        if stop is not None and stop.covers(act, asked):
            return stop, False
        stop = self._stops[key] = _Stop(act.time_ns, act.signo, asked)
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

    def _with_reason(self, origin: Origin, act: Act) -> Origin:
        reason = self._reason(act.sender, act.target, act.wall_ns)
        if reason is None:
            return origin
        summary = f"{origin.summary}: {text.escape(reason)}"
        return replace(origin, summary=summary, detail={**origin.detail, "reason": reason})


def _stop_key(what: Proxy, act: Act) -> tuple[object, ...]:
    container, unit = act.target.container, act.target.unit
    if container is not None and container.id and "container" in what.kinds:
        return "container", container.id
    if is_systemd(act.sender) and unit is not None:
        return act.sender.pid, unit
    return act.sender.pid, *act.hit


def _words(what: Proxy, stop: _Stop, act: Act, begins: bool) -> str | None:
    """Why a proxy sends this, where it is known; None: nothing to add."""
    by_systemd = is_systemd(act.sender)
    container, unit = act.target.container, act.target.unit
    was_hit = act.hit in stop.hit
    final = not begins and act.signo == _SIGKILL and stop.signo != _SIGKILL
    if final and was_hit and stop.signo != _SIGHUP:
        who = "systemd" if by_systemd else (container.runtime if container else what.via)
        elapsed_ns = act.time_ns - stop.began_ns
        return senders.escalation(who, unit if by_systemd else None, stop.signo, elapsed_ns)
    if not by_systemd:
        return None
    of = text.escape(unit) if unit else "a unit"
    if act.signo == _SIGABRT and not _is_single(stop.asked):
        return f"systemd: watchdog of {of} ran out, or a timeout that is set to abort"
    if final and not was_hit:
        return f"systemd: SIGKILL to what its main process left of {of} (KillMode=mixed)"
    name, first = signames.name(act.signo), signames.name(stop.signo)
    if not begins and act.signo == _SIGHUP and was_hit and stop.signo != _SIGHUP:
        return f"systemd: SIGHUP to {of} beside its {first} (SendSIGHUP=)"
    return f"systemd: {name} to {of}"
