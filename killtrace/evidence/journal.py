"""Findings from the systemd journal, by its JSON: journalctl(1), systemd.journal-fields(7)."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from killtrace import signames
from killtrace.errors import UnsupportedError
from killtrace.evidence import kernel_log
from killtrace.evidence.asked import is_request
from killtrace.evidence.findings import UNKNOWN_NS, UNKNOWN_PID, Finding
from killtrace.evidence.kernel_log import KernelLine
from killtrace.evidence.kernel_source import finding as kernel_finding
from killtrace.model import Cause, Death, Exit, Origin, Process

# journalctl --list-catalog: systemd's own message ids.
_COREDUMP = "fc2e22bc6ee647b6b90729ab34a250b1"
_PROCESS_EXITED = "98e322203f7a4ed290d09fe03c09fe15"
_UNIT_FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
_UNIT_OOM = "fe6faa94e7774663a0da52717891d8ef"
_KILLING = re.compile(r"Killing process (?P<pid>\d+) \((?P<comm>.*?)\) with signal (?P<signal>\w+)")
_MAIN_ENDED = re.compile(
    r"Main process exited, code=(?P<code>killed|dumped|exited), status=(?P<n>\d+)"
)
_EARLYOOM = re.compile(
    r"sending (?P<signal>SIG\w+) to process (?P<pid>\d+)(?: uid \d+)? \"(?P<comm>.*?)\""
)
_OOMD = re.compile(r"Killed (?P<cgroup>/\S+) due to (?P<reason>.*)")
_SUDO = re.compile(r"COMMAND=(?P<command>.*)")
_SESSION = re.compile(r"(?:Removed session|Session) (?P<id>\w+)(?:\.$| logged out)")
_GOES_DOWN = re.compile(r"System is (?:rebooting|powering down|halting)|The system will \w+")
_MATCHES = (
    "_TRANSPORT=kernel + _PID=1 + SYSLOG_IDENTIFIER=systemd + SYSLOG_IDENTIFIER=sudo"
    f" + MESSAGE_ID={_COREDUMP} + SYSLOG_IDENTIFIER=earlyoom + _COMM=systemd-oomd"
    " + SYSLOG_IDENTIFIER=systemd-logind"
).split()
_FIELDS = (
    "MESSAGE,MESSAGE_ID,_TRANSPORT,UNIT,USER_UNIT,EXIT_CODE,EXIT_STATUS,UNIT_RESULT,_PID,_UID,"
    "SYSLOG_IDENTIFIER,COREDUMP_PID,COREDUMP_SIGNAL,COREDUMP_COMM,COREDUMP_CMDLINE,COREDUMP_UID,"
    "COREDUMP_UNIT,COREDUMP_EXE,_COMM,COMMAND"
)

_SIGKILL = 9

Entry = Mapping[str, Any]


def entries(folder: Path | None, since_ns: int | None, boot: str | None) -> Iterator[Entry]:
    """The journal's entries that may tell of a death; all boots unless one is named.

    UnsupportedError (69) where there is no journalctl, or it fails.
    """
    command = ["journalctl", "--no-pager", "-q", "-o", "json", f"--output-fields={_FIELDS}"]
    if folder is not None:
        command += ["--directory", str(folder)]
    if since_ns is not None:
        command += ["--since", f"@{since_ns // 1_000_000_000}"]
    if boot is not None:
        command += ["--boot", boot]
    try:
        process = subprocess.Popen(
            [*command, *_MATCHES], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise UnsupportedError(
            "there is no journalctl here", "install systemd, or name another source"
        ) from error
    assert process.stdout is not None and process.stderr is not None
    with process:
        for line in process.stdout:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry
        said = process.stderr.read().decode(errors="replace").strip()
    if process.returncode not in (0, 1) or (process.returncode and said):
        raise UnsupportedError(f"journalctl failed ({said})", "read it as root or group adm")


def findings(rows: Iterable[Entry]) -> Iterator[Finding]:
    """What the journal tells of deaths: the kernel's lines of every boot, and systemd's."""
    parsers: dict[str, kernel_log.Parser] = {}
    for entry in rows:
        if entry.get("_TRANSPORT") == "kernel":
            parser = parsers.setdefault(str(entry.get("_BOOT_ID")), kernel_log.Parser())
            event = parser.feed(KernelLine(_text(entry, "MESSAGE"), _time(entry)))
            if event is not None:
                yield kernel_finding(event)
        else:
            found = finding(entry)
            if found is not None:
                yield found


def finding(entry: Entry) -> Finding | None:
    """What one entry of systemd, sudo or an OOM daemon tells, or None."""
    message, identity = _text(entry, "MESSAGE"), entry.get("MESSAGE_ID")
    time_ns, unit = _time(entry), _text(entry, "UNIT") or _text(entry, "USER_UNIT") or None
    if identity == _COREDUMP:
        return _coredump(entry, time_ns, message)
    if killing := _KILLING.search(message):
        return _killing(killing, time_ns, message, unit)
    if early := _EARLYOOM.search(message):
        origin = Origin("userspace-oom", f"earlyoom: {message}", True, {"reason": message})
        pid, comm = int(early["pid"]), early["comm"]
        signo = 9 if early["signal"] == "SIGKILL" else 15
        when_ns = time_ns or UNKNOWN_NS
        cause = Cause(signo, when_ns, None, origin)
        death = Death(when_ns, Process(pid, comm=comm), Exit(signo, None), cause)
        return Finding("journal", time_ns, message, death, True, pid=pid, comm=comm)
    if unit is not None and (ended := _MAIN_ENDED.search(message)):
        return _main_ended(ended, time_ns, message, unit)
    of_unit = (
        identity in (_PROCESS_EXITED, _UNIT_FAILED, _UNIT_OOM) or "timed out. Killing" in message
    )
    if unit is not None and of_unit:
        return Finding("journal", time_ns, message, unit=unit, related=True)
    if _OOMD.search(message):
        return Finding("journal", time_ns, message, unit=unit, related=True)
    if entry.get("SYSLOG_IDENTIFIER") == "sudo":
        return _sudo(time_ns, message.strip())
    if entry.get("SYSLOG_IDENTIFIER") == "systemd-logind":
        return _logind(time_ns, message)
    return None


def _sudo(time_ns: int | None, message: str) -> Finding | None:
    """Who became another user to give a command that ends something, sudoers(5)."""
    match = _SUDO.search(message)
    # sudo writes the arguments with spaces between them, and none are quoted.
    command = tuple(match["command"].split()) if match else ()
    if not is_request(command):
        return None
    return Finding("journal", time_ns, f"sudo: {message}", related=True, command=command)


def _logind(time_ns: int | None, message: str) -> Finding | None:
    """A session that ended, and with it what it left behind; or the whole machine."""
    if ended := _SESSION.match(message):
        scope = f"session-{ended['id']}.scope"
        return Finding("journal", time_ns, f"logind: {message}", unit=scope, related=True)
    if _GOES_DOWN.match(message):
        return Finding("journal", time_ns, f"logind: {message}", related=True, everything=True)
    return None


def _killing(match: re.Match[str], time_ns: int | None, message: str, unit: str | None) -> Finding:
    """Systemd's SIGKILL, which it tells of; of another signal the target need not have died."""
    pid, comm, signo = int(match["pid"]), match["comm"], signames.number(match["signal"])
    if signo != _SIGKILL:
        return Finding("journal", time_ns, message, unit=unit, pid=pid, comm=comm, related=True)
    of = f", of {unit}" if unit else ""
    origin = Origin("process", f"systemd killed it{of}", True, {"syscall": "kill"})
    when_ns = time_ns or UNKNOWN_NS
    cause = Cause(signo, when_ns, Process(1, comm="systemd"), origin)
    death = Death(when_ns, Process(pid, comm=comm, unit=unit), Exit(signo, None), cause)
    return Finding("journal", time_ns, message, death, True, unit, pid, comm)


def _main_ended(match: re.Match[str], time_ns: int | None, message: str, unit: str) -> Finding:
    """How a service's main process ended: systemd tells neither its pid nor its name."""
    number, when_ns = int(match["n"]), time_ns or UNKNOWN_NS
    ended = Exit(None, number)
    if match["code"] != "exited":
        ended = Exit(number, None, match["code"] == "dumped")
    death = Death(when_ns, Process(UNKNOWN_PID, unit=unit), ended, None)
    return Finding("journal", time_ns, message, death, unit=unit)


def _coredump(entry: Entry, time_ns: int | None, message: str) -> Finding | None:
    try:
        pid, signo = int(entry["COREDUMP_PID"]), int(entry["COREDUMP_SIGNAL"])
    except (KeyError, ValueError, TypeError):
        return None
    unit, comm = _text(entry, "COREDUMP_UNIT") or None, _text(entry, "COREDUMP_COMM") or None
    line = _text(entry, "COREDUMP_CMDLINE")
    process = Process(
        pid,
        comm=comm,
        exe=_text(entry, "COREDUMP_EXE") or None,
        cmdline=tuple(line.split()) or None,
        unit=unit,
    )
    death = Death(time_ns or UNKNOWN_NS, process, Exit(signo, None, True), None)
    text = message.splitlines()[0] if message else f"{comm} dumped core"
    return Finding("journal", time_ns, text, death, unit=unit, pid=pid, comm=comm)


def _time(entry: Entry) -> int | None:
    try:
        return int(entry["__REALTIME_TIMESTAMP"]) * 1000
    except (KeyError, ValueError, TypeError):
        return None


def _text(entry: Entry, name: str) -> str:
    """A field's text; the journal gives bytes that are no UTF-8 as a list of numbers."""
    value = entry.get(name)
    if isinstance(value, list):
        try:
            return bytes(value).decode("utf-8", "surrogateescape")
        except (ValueError, TypeError):
            return ""
    return value if isinstance(value, str) else ""
