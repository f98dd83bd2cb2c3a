"""Findings from the audit log, by audit's own library (auparse, Debian's python3-audit)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from killtrace import signames
from killtrace.errors import UnsupportedError
from killtrace.evidence.findings import Finding
from killtrace.model import Cause, Death, Exit, Origin, Process

_CALLS = {"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"}
# Which argument is the signal, counted from 0: a1 of kill(pid, sig), a2 of tgkill(tgid, tid, sig).
_SIGNAL_ARGUMENT = {"tgkill": "a2", "rt_tgsigqueueinfo": "a2"}


def findings(path: Path) -> Iterator[Finding]:
    """kill-family calls with their target and login user, and abnormal ends (ANOM_ABEND).

    UnsupportedError (69) without the library; OSError where the file can't be read.
    """
    try:
        import auparse
    except ImportError as error:
        raise UnsupportedError(
            "the audit log needs Python's auparse", "apt-get install python3-audit"
        ) from error
    path.open("rb").close()
    parser = auparse.AuParser(auparse.AUSOURCE_FILE, str(path))
    while parser.parse_next_event():
        stamp = parser.get_timestamp()
        time_ns = stamp.sec * 1_000_000_000 + stamp.milli * 1_000_000
        yield from _event(time_ns, _records(parser))


def _records(parser: Any) -> list[dict[str, str]]:
    """The records of an event: {"type": …, field: interpreted, "raw field": as logged}."""
    records = []
    more = parser.first_record()
    while more:
        record = {"type": parser.get_type_name()}
        field = parser.first_field()
        while field:
            name = parser.get_field_name()
            record[name] = parser.interpret_field()
            record[f"raw {name}"] = parser.get_field_str()
            field = parser.next_field()
        records.append(record)
        more = parser.next_record()
    return records


def _event(time_ns: int, records: list[dict[str, str]]) -> Iterator[Finding]:
    calls = [r for r in records if r["type"] == "SYSCALL" and r.get("syscall") in _CALLS]
    targets = [r for r in records if r["type"] == "OBJ_PID"]
    for record in records:
        if record["type"] == "ANOM_ABEND":
            yield _abend(time_ns, record)
    for call in calls:
        for target in targets:
            yield _kill(time_ns, call, target)


def _abend(time_ns: int, record: dict[str, str]) -> Finding:
    pid, signo = int(record.get("raw pid", "0")), int(record.get("raw sig", "0"))
    comm = record.get("comm")
    process = Process(pid, comm=comm, exe=record.get("exe"), uid=_number(record.get("raw uid")))
    text = f"{comm} ({pid}) ended abnormally of {signames.name(signo)}"
    return Finding(
        "audit", time_ns, text, Death(time_ns, process, Exit(signo, None), None), pid=pid, comm=comm
    )


def _kill(time_ns: int, call: dict[str, str], target: dict[str, str]) -> Finding:
    name = call["syscall"]
    raw = call.get(f"raw {_SIGNAL_ARGUMENT.get(name, 'a1')}", "0")
    signo = int(raw, 16) if raw else 0
    sender = Process(
        int(call.get("raw pid", "0")),
        comm=call.get("comm"),
        exe=call.get("exe"),
        ppid=_number(call.get("raw ppid")),
        uid=_number(call.get("raw uid")),
        user=call.get("uid"),
        loginuid=_number(call.get("raw auid")),
        tty=call.get("tty"),
    )
    pid, comm = int(target.get("raw opid", "0")), target.get("ocomm")
    login = call.get("auid") or "unset"
    summary = f"{sender.pid} ({sender.comm}) sent it with {name}(2); logged in as {login}"
    refused = call.get("success") == "no"
    text = f"{summary}; {signames.name(signo)} to {pid} ({comm})" + ("; refused" if refused else "")
    if refused or signo not in signames.fatal():
        return Finding("audit", time_ns, text, pid=pid, comm=comm, related=True)
    origin = Origin("process", summary, True, {"syscall": name})
    death = Death(
        time_ns, Process(pid, comm=comm), Exit(signo, None), Cause(signo, time_ns, sender, origin)
    )
    # The call is certain; that the target died of it another source must tell.
    return Finding("audit", time_ns, text, death, pid=pid, comm=comm)


def _number(text: str | None) -> int | None:
    if text is None or not text.lstrip("-").isdecimal():
        return None
    number = int(text)
    return None if number in (-1, 0xFFFFFFFF) else number
