"""Findings that tell of the same death, merged into one verdict each.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from killtrace import signames, text
from killtrace.describe import size
from killtrace.evidence.asked import may_have_asked
from killtrace.evidence.findings import UNKNOWN_NS, UNKNOWN_PID, Finding
from killtrace.model import Death, Process

# Accounting has seconds, the journal is behind the kernel, a stop takes as long as it is given.
_SAME_DEATH_NS = 15_000_000_000
# A death that is told of without its pid: by the second, and no two alike within this.
_UNNAMED_NS = 3_000_000_000
_RELATED_NS = 120_000_000_000
# Logs that round a time down put a death before what led to it.
_SECOND_NS = 1_000_000_000
# Who knows best: the recorder saw it, the kernel did it, audit saw the call.
_TRUST = ("store", "kernel-log", "audit", "journal", "accounting")


@dataclass(frozen=True)
class Verdict:
    """One death: what is known of it, in a sentence, and the evidence for it."""

    death: Death
    certain: bool
    summary: str
    evidence: tuple[Finding, ...]


def verdicts(findings: Iterable[Finding]) -> list[Verdict]:
    """One verdict for each death, latest first; what is only related joins the deaths it fits."""
    deaths: list[list[Finding]] = []
    related: list[Finding] = []
    unnamed: list[Finding] = []
    for found in findings:
        if found.death is None:
            related.append(found)
        elif found.pid is None:
            unnamed.append(found)
        else:
            _join(deaths, [group for group in deaths if _same(group[0], found)][-1:], found)
    for found in unnamed:
        _join(deaths, _candidates(deaths, found), found)
    made = [_verdict(group, [item for item in related if _fits(item, group)]) for group in deaths]
    return sorted(made, key=lambda verdict: -verdict.death.time_ns)


def _same(one: Finding, other: Finding) -> bool:
    if one.pid != other.pid or one.pid is None:
        return False
    if one.comm and other.comm and one.comm[:15] != other.comm[:15]:
        return False
    if one.time_ns is None or other.time_ns is None:
        return True
    return abs(one.time_ns - other.time_ns) <= _SAME_DEATH_NS


def _join(deaths: list[list[Finding]], fitting: list[list[Finding]], found: Finding) -> None:
    """Add a finding to the one group that fits; where none does, or several, it stands alone."""
    if len(fitting) == 1:
        fitting[0].append(found)
    else:
        deaths.append([found])


def _candidates(deaths: Iterable[list[Finding]], found: Finding) -> list[list[Finding]]:
    """The groups that a finding without a pid may belong to: of its unit first, else of none."""
    fitting = [group for group in deaths if all(_alike(member, found) for member in group)]
    of_unit = [group for group in fitting if found.unit and found.unit in _units(group)]
    # systemd ends the main process first, and it is the main one that it tells of so.
    of_unit.sort(key=lambda group: group[0].time_ns or UNKNOWN_NS)
    return of_unit[:1] or [group for group in fitting if not _units(group) or not found.unit]


def _alike(one: Finding, other: Finding) -> bool:
    """Whether two findings, of which one has no pid, may tell of the same death."""
    assert one.death is not None and other.death is not None
    ends = (one.death.exit, other.death.exit)
    if ends[0].signal != ends[1].signal or ends[0].status != ends[1].status:
        return False
    if one.comm and other.comm and one.comm[:15] != other.comm[:15]:
        return False
    # A service's main process is a child of the manager.
    if (one.unit or other.unit) and {one.death.process.ppid, other.death.process.ppid} - {None, 1}:
        return False
    if one.time_ns is None or other.time_ns is None:
        return False
    return abs(one.time_ns - other.time_ns) <= _UNNAMED_NS


def _units(group: Iterable[Finding]) -> set[str]:
    units = {found.unit for found in group if found.unit}
    return units | {f.death.process.unit for f in group if f.death and f.death.process.unit}


def _fits(item: Finding, group: Sequence[Finding]) -> bool:
    times = [found.time_ns for found in group if found.time_ns is not None]
    if item.time_ns is not None and times and abs(item.time_ns - times[0]) > _RELATED_NS:
        return False
    if item.pid is not None:
        return item.pid in {found.pid for found in group}
    if item.command or item.everything:
        return _asked(item, group)
    return item.unit is not None and item.unit in _units(group)


def _asked(item: Finding, group: Sequence[Finding]) -> bool:
    """Whether what was asked for, before the death, is this death."""
    died_ns = next((found.time_ns for found in group if found.time_ns is not None), None)
    if item.time_ns is None or died_ns is None or item.time_ns > died_ns + _SECOND_NS:
        return False
    return item.everything or any(
        may_have_asked(item.command, found.death.process, found.death.exit.signal)
        for found in group
        if found.death is not None
    )


def _verdict(group: list[Finding], related: list[Finding]) -> Verdict:
    ordered = sorted(group, key=lambda found: _TRUST.index(found.source))
    best = next((f for f in ordered if f.death is not None and f.death.cause), ordered[0])
    assert best.death is not None
    death = best.death
    for found in ordered:
        if found.death is not None:
            death = _filled(death, found.death)
    # A call that was audited is the cause for certain where another source tells the same end.
    told = {found.source for found in ordered}
    agreed = len(told) > 1 and best.source == "audit"
    evidence = sorted(_told_once([*group, *related]), key=lambda found: found.time_ns or 0)
    certain = best.certain or agreed or (best.source == "store" and death.cause is not None)
    return Verdict(death, certain, summary(death), tuple(evidence))


def _told_once(findings: Iterable[Finding]) -> Iterable[Finding]:
    """Without what the same source tells again: the journal keeps the kernel's log, too."""
    told: dict[tuple[str, str], int] = {}
    for found in findings:
        key, time_ns = (found.source, found.text), found.time_ns or UNKNOWN_NS
        if key not in told or abs(told[key] - time_ns) > _UNNAMED_NS:
            told[key] = time_ns
            yield found


def _filled(death: Death, other: Death) -> Death:
    """The death with what it does not know taken from another telling of it."""
    changes = {
        name: value
        for name, value in vars(other.process).items()
        if getattr(death.process, name) in (None, ()) and value not in (None, ())
    }
    if death.process.pid == UNKNOWN_PID:
        changes["pid"] = other.process.pid
    process: Process = replace(death.process, **changes)
    time_ns = death.time_ns if death.time_ns != UNKNOWN_NS else other.time_ns
    core = death.exit.core_dumped or other.exit.core_dumped
    return replace(
        death, process=process, time_ns=time_ns, exit=replace(death.exit, core_dumped=core)
    )


def summary(death: Death) -> str:
    """One sentence for a person: what happened to whom, and why."""
    process = death.process
    who = f"{text.command(process.cmdline, process.comm, 60)} ({process.pid})"
    if process.pid == UNKNOWN_PID:
        who = text.escape(process.comm or f"the main process of {process.unit or 'a service'}")
    if death.exit.signal is None:
        status = "an unknown status" if death.exit.status is None else f"status {death.exit.status}"
        if death.cause is None:
            return f"{who} exited by itself with {status}"
        name = signames.name(death.cause.signo)
        return f"{who} exited with {status} after {name}: {death.cause.origin.summary}"
    name = signames.name(death.exit.signal)
    core = ", and dumped core" if death.exit.core_dumped else ""
    if death.cause is None:
        return f"{who} was ended by {name}{core}; no record tells who sent it"
    origin = death.cause.origin
    if origin.kind == "oom":
        return _oom_summary(who, death)
    return f"{who} was ended by {name}{core}: {origin.summary}"


def _oom_summary(who: str, death: Death) -> str:
    assert death.cause is not None
    detail = death.cause.origin.detail
    memory = detail.get("memory") or {}
    parts = [memory.get(f"{kind}_rss_kb") for kind in ("anon", "file", "shmem")]
    held = sum(part for part in parts if part)
    what = f"{who} was killed by the kernel's OOM killer"
    if detail.get("scope") == "memcg":
        limit = detail.get("limit_kb")
        what += f" because cgroup {detail.get('memcg') or '(unknown)'} reached its limit"
        what += f" of {size(limit)}" if limit is not None else ""
    else:
        what += " because the machine ran out of memory"
    if held:
        what += f", while it held {size(held)} of memory"
    adj = memory.get("oom_score_adj")
    return what + (f" (oom_score_adj {adj})" if adj else "")
