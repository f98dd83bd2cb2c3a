"""Records as the JSON objects of docs/records.md, and back again.

Every field of the contract is present; what is not known is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from killtrace import signames
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

Json = dict[str, Any]
_NS = 1_000_000_000


def format_time(time_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds, from nanoseconds since the epoch."""
    seconds, nanoseconds = divmod(time_ns, _NS)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, tz=timezone.utc):%Y-%m-%dT%H:%M:%S}"


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch, from what format_time writes; ValueError for other text."""
    seconds, _, rest = text.rstrip("Z").partition(".")
    stamp = datetime.strptime(seconds, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return int(stamp.timestamp()) * _NS + int((rest or "0").ljust(9, "0")[:9])


def _time_or_none(time_ns: int | None) -> str | None:
    return None if time_ns is None else format_time(time_ns)


def process_to_json(process: Process | None) -> Json | None:
    """A process record, or null."""
    if process is None:
        return None
    return {
        "pid": process.pid,
        "tid": process.tid,
        "ns_pid": process.ns_pid,
        "start_time": _time_or_none(process.start_time_ns),
        "comm": process.comm,
        "exe": process.exe,
        "cmdline": None if process.cmdline is None else list(process.cmdline),
        "cmdline_cut": process.cmdline_cut,
        "title": process.title,
        "ppid": process.ppid,
        "uid": process.uid,
        "user": process.user,
        "loginuid": process.loginuid,
        "session_id": process.session_id,
        "sid": process.sid,
        "tty": process.tty,
        "cgroup": process.cgroup,
        "unit": process.unit,
        "container": _container_to_json(process.container),
        "ancestors": [
            {
                "pid": step.pid,
                "comm": step.comm,
                "cmdline": None if step.cmdline is None else list(step.cmdline),
            }
            for step in process.ancestors
        ],
    }


def _container_to_json(container: Container | None) -> Json | None:
    return None if container is None else dict(vars(container))


def origin_to_json(origin: Origin) -> Json:
    """An origin with every field that its kind carries."""
    out: Json = {"kind": origin.kind, "summary": origin.summary, "certain": origin.certain}
    for name in ORIGIN_FIELDS[origin.kind]:
        value = origin.detail.get(name)
        out[name] = process_to_json(value) if isinstance(value, Process) else value
    return out


def _brief_to_json(brief: SignalBrief) -> Json:
    known = brief.sender_pid is not None
    return {
        "signal": signames.name(brief.signo),
        "time": format_time(brief.time_ns),
        "result": brief.result,
        "sender": {"pid": brief.sender_pid, "comm": brief.sender_comm} if known else None,
        "origin": {"kind": brief.origin_kind},
        "repeats": brief.repeats,
    }


def _cause_to_json(cause: Cause | None) -> Json | None:
    if cause is None:
        return None
    return {
        "signal": signames.name(cause.signo),
        "time": format_time(cause.time_ns),
        "sender": process_to_json(cause.sender),
        "origin": origin_to_json(cause.origin),
    }


def _code_name(code: int) -> str:
    known = {
        0: "SI_USER",
        0x80: "SI_KERNEL",
        -1: "SI_QUEUE",
        -2: "SI_TIMER",
        -3: "SI_MESGQ",
        -4: "SI_ASYNCIO",
        -5: "SI_SIGIO",
        -6: "SI_TKILL",
        -7: "SI_DETHREAD",
        -60: "SI_ASYNCNL",
    }
    return known.get(code, str(code))


def record_to_json(record: Record) -> Json:
    """The JSON object of one record, in the contract's order of fields."""
    if isinstance(record, Signal):
        return {
            "type": "signal",
            "time": format_time(record.time_ns),
            "signal": signames.name(record.signo),
            "signo": record.signo,
            "code": _code_name(record.code),
            "result": record.result,
            "scope": record.scope,
            "sender": process_to_json(record.sender),
            "target": process_to_json(record.target),
            "origin": origin_to_json(record.origin),
            "repeats": record.repeats,
        }
    if isinstance(record, Death):
        return {
            "type": "death",
            "time": format_time(record.time_ns),
            "process": process_to_json(record.process),
            "exit": {
                "signal": None if record.exit.signal is None else signames.name(record.exit.signal),
                "status": record.exit.status,
                "core_dumped": record.exit.core_dumped,
            },
            "cause": _cause_to_json(record.cause),
            "signals": [_brief_to_json(brief) for brief in record.signals],
            "elapsed_ns": record.elapsed_ns,
        }
    if isinstance(record, Attempt):
        return {
            "type": "attempt",
            "time": format_time(record.time_ns),
            "signal": signames.name(record.signo),
            "signo": record.signo,
            "errno": record.errno,
            "syscall": record.syscall,
            "sender": process_to_json(record.sender),
            "target": process_to_json(record.target),
        }
    return {
        "type": "lost",
        "time": format_time(record.time_ns),
        "count": record.count,
        "buffer": record.buffer,
    }


def process_from_json(data: Mapping[str, Any] | None) -> Process | None:
    """The process of a JSON process record; unknown keys are left out."""
    if data is None:
        return None
    fields: dict[str, Any] = {k: data[k] for k in Process.__dataclass_fields__ if k in data}
    fields["start_time_ns"] = None if not data.get("start_time") else parse_time(data["start_time"])
    fields["cmdline"] = None if data.get("cmdline") is None else tuple(data["cmdline"])
    fields["cmdline_cut"] = bool(data.get("cmdline_cut"))
    container = data.get("container")
    fields["container"] = None if container is None else Container(**container)
    fields["ancestors"] = tuple(
        Ancestor(s["pid"], s["comm"], None if s["cmdline"] is None else tuple(s["cmdline"]))
        for s in data.get("ancestors") or ()
    )
    return Process(**fields)


def origin_from_json(data: Mapping[str, Any]) -> Origin:
    """The origin of a JSON origin; process records in it become Process again."""
    detail: dict[str, Any] = {}
    for name in ORIGIN_FIELDS[data["kind"]]:
        value = data.get(name)
        is_process = isinstance(value, dict) and "ancestors" in value
        detail[name] = process_from_json(value) if is_process else value
    return Origin(data["kind"], data["summary"], data["certain"], detail)


def _signo(name: str | None) -> int | None:
    return None if name is None else signames.number(name)


def _brief_from_json(data: Mapping[str, Any]) -> SignalBrief:
    sender = data["sender"] or {}
    return SignalBrief(
        signo=_signo(data["signal"]) or 0,
        time_ns=parse_time(data["time"]),
        result=data["result"],
        sender_pid=sender.get("pid"),
        sender_comm=sender.get("comm"),
        origin_kind=data["origin"]["kind"],
        repeats=data.get("repeats", 0),
    )


def _death_from_json(data: Mapping[str, Any]) -> Death:
    cause = data["cause"]
    process = process_from_json(data["process"])
    assert process is not None
    return Death(
        time_ns=parse_time(data["time"]),
        process=process,
        exit=Exit(
            _signo(data["exit"]["signal"]), data["exit"]["status"], data["exit"]["core_dumped"]
        ),
        cause=None
        if cause is None
        else Cause(
            _signo(cause["signal"]) or 0,
            parse_time(cause["time"]),
            process_from_json(cause["sender"]),
            origin_from_json(cause["origin"]),
        ),
        signals=tuple(_brief_from_json(brief) for brief in data["signals"]),
        elapsed_ns=data["elapsed_ns"],
    )


def _signal_from_json(data: Mapping[str, Any]) -> Signal:
    codes = {_code_name(code): code for code in (0, 0x80, -1, -2, -3, -4, -5, -6, -7, -60)}
    target = process_from_json(data["target"])
    assert target is not None
    return Signal(
        time_ns=parse_time(data["time"]),
        signo=data["signo"],
        code=codes[data["code"]] if data["code"] in codes else int(data["code"]),
        result=data["result"],
        scope=data["scope"],
        sender=process_from_json(data["sender"]),
        target=target,
        origin=origin_from_json(data["origin"]),
        repeats=data["repeats"],
    )


def record_from_json(data: Mapping[str, Any]) -> Record:
    """The record of a JSON object that record_to_json wrote; KeyError or ValueError otherwise."""
    kind = data["type"]
    if kind == "signal":
        return _signal_from_json(data)
    if kind == "death":
        return _death_from_json(data)
    if kind == "attempt":
        sender = process_from_json(data["sender"])
        assert sender is not None
        return Attempt(
            parse_time(data["time"]),
            data["signo"],
            data["errno"],
            data["syscall"],
            sender,
            process_from_json(data["target"]),
        )
    if kind == "lost":
        return Lost(parse_time(data["time"]), data["count"], data["buffer"])
    raise ValueError(f"unknown record type {kind!r}")
