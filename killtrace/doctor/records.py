"""What `killtrace why` can read after the fact."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from killtrace.doctor.machine import Check, Machine

_STORE = "/var/lib/killtrace/killtrace.db"
_AS_ROOT = "run it with sudo"


@dataclass(frozen=True)
class _Log:
    """One source: where it is, what it is for, and how to have it."""

    name: str
    paths: tuple[str, ...]
    gives: str
    mend: str


_LOGS = (
    _Log("kernel log", ("/dev/kmsg",), "OOM reports and faults of this boot", _AS_ROOT),
    _Log(
        "journal",
        ("/var/log/journal", "/run/log/journal"),
        "ends of units, and the kernel log of all boots",
        "mkdir -p /var/log/journal && systemctl restart systemd-journald",
    ),
    _Log(
        "audit log",
        ("/var/log/audit/audit.log",),
        "kill(2) calls, with the user who had logged in",
        "apt-get install auditd && auditctl -a always,exit -F arch=b64 -S kill",
    ),
    _Log(
        "accounting",
        ("/var/log/account/pacct",),
        "that a process died of a signal",
        "apt-get install acct && accton on",
    ),
)


def checks(machine: Machine) -> Iterator[Check]:
    """The recorder's store, and every record that the machine keeps by itself."""
    yield _recorder(machine)
    for log in _LOGS:
        yield _log(machine, log)


def _recorder(machine: Machine) -> Check:
    gives = "all that was traced, for `why` and `history`"
    name = "flight recorder"
    if machine.armed():
        return Check(name, True, False, f"armed; it writes to {_STORE}", gives)
    there = machine.has(_STORE)
    detail = f"not armed; {_STORE} has what was recorded before" if there else "not armed"
    return Check(
        name,
        False,
        False,
        detail,
        gives,
        "the machine's own logs, which seldom name the sender",
        "sudo killtrace record --install",
    )


def _log(machine: Machine, log: _Log) -> Check:
    refused = None
    for path in log.paths:
        reason = _unreadable(machine.path(path))
        if reason is None:
            note = " (this boot alone)" if path.startswith("/run/") else ""
            mend = log.mend if note else None
            return Check(log.name, True, False, path + note, log.gives, mend=mend)
        if reason:
            refused = f"{path}: {reason}"
    if refused is not None:
        return Check(log.name, False, False, refused, log.gives, mend=_AS_ROOT)
    return Check(log.name, False, False, f"nothing at {log.paths[0]}", log.gives, mend=log.mend)


def _unreadable(path: Path) -> str | None:
    """None where it can be read; "" where there is nothing to read; else why it can't be read.

    Permissions alone do not tell: /dev/kmsg refuses when it is opened (dmesg_restrict).  A journal
    is a folder for each machine, with files that only some may read.
    """
    try:
        files = list(path.glob("*/*.journal")) if path.is_dir() else [path]
        for file in files:
            os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return None if files else ""
