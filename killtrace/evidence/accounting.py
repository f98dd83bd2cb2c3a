"""Findings from process accounting: which signal each process died of, acct(5)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from killtrace import signames
from killtrace.errors import InvalidUseError
from killtrace.evidence.findings import UNKNOWN_PID, Finding
from killtrace.model import Death, Exit, Process

_SIZE = 64
_AHZ = 100
_NS = 1_000_000_000
# include/uapi/linux/acct.h: struct acct_v3, and struct acct of version 2.
_V3 = struct.Struct("<BBHIIIIIIf8H16s")
_V2 = struct.Struct("<BBHHHI9HxxI17sBHII")


def findings(data: bytes) -> Iterator[Finding]:
    """Every process that died of a signal, from a pacct file's bytes (versions 2 and 3).

    InvalidUseError (2) where the file is none; a record cut short at the end is left out.
    """
    if data and (data[1] & 0x0F) not in (2, 3):
        raise InvalidUseError(
            "the accounting file is not one of acct(5), version 2 or 3", "give --pacct another"
        )
    for at in range(0, len(data) - _SIZE + 1, _SIZE):
        record = data[at : at + _SIZE]
        version = record[1] & 0x0F
        if version == 3:
            yield from _version_3(record)
        elif version == 2:
            yield from _version_2(record)


def _version_3(record: bytes) -> Iterator[Finding]:
    _, _, _, exitcode, uid, _, pid, ppid, began, elapsed, *_, comm = _V3.unpack(record)
    ended_ns = int((began + elapsed / _AHZ) * _NS)
    yield from _finding(exitcode, uid, pid, ppid, ended_ns, comm)


def _version_2(record: bytes) -> Iterator[Finding]:
    fields = _V2.unpack(record)
    began, exitcode, comm, high, low, uid = (fields[i] for i in (5, 15, 16, 17, 18, 19))
    ended_ns = int((began + (high << 16 | low) / _AHZ) * _NS)
    yield from _finding(exitcode, uid, None, None, ended_ns, comm)


def _finding(
    exitcode: int, uid: int, pid: int | None, ppid: int | None, ended_ns: int, raw: bytes
) -> Iterator[Finding]:
    signo = exitcode & 0x7F
    if not signo:
        return
    comm = raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    core = bool(exitcode & 0x80)
    name = signames.name(signo)
    whose = f", child of {ppid}" if ppid else ""
    process = Process(UNKNOWN_PID if pid is None else pid, comm=comm, ppid=ppid, uid=uid)
    death = Death(ended_ns, process, Exit(signo, None, core), None)
    text = f"{comm} (uid {uid}{whose}) ended by {name}" + (", core dumped" if core else "")
    yield Finding("accounting", ended_ns, text, death, pid=pid, comm=comm)
