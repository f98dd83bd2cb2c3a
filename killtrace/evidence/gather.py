"""Asks every source in turn, and says of each whether it could be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from killtrace import clock
from killtrace.errors import KilltraceError, NotFoundError, UnsupportedError
from killtrace.evidence import accounting, audit, journal, kernel_source
from killtrace.evidence.findings import Finding, SourceState
from killtrace.model import Death
from killtrace.store.reader import Target, open_store

_STORE_DEATHS = 50
_MENDS = {
    "kernel-log": "read it as root",
    "accounting": "apt-get install acct && accton on",
    "audit": "apt-get install auditd && auditctl -a always,exit -F arch=b64 -S kill",
}


@dataclass(frozen=True)
class Sources:
    """What to read: this machine's own records, or only those that are named.

    `root` stands for another machine's disk, or a folder that holds a var/log.
    """

    store: Path | None = None
    kmsg: Path | None = None
    journal: Path | None = None
    audit: Path | None = None
    pacct: Path | None = None
    root: Path | None = None
    since_ns: int | None = None
    boot: str | None = None

    @property
    def named(self) -> bool:
        """Whether only what is named is to be read."""
        return any((self.kmsg, self.journal, self.audit, self.pacct, self.root))


def gather(
    sources: Sources, target: Target, progress: Callable[[str], None]
) -> tuple[list[Finding], list[SourceState]]:
    """All findings, and how each source fared; a source that fails never stops the others."""
    found: list[Finding] = []
    states: list[SourceState] = []
    for name, read in _readers(sources, target):
        progress(name)
        try:
            found += _recent(read(), sources.since_ns)
            states.append(SourceState(name, True))
        except KilltraceError as error:
            if error.exit_status == 2:
                raise
            states.append(SourceState(name, False, error.what, error.mend))
        except OSError as error:
            reason = f"{error.filename or name}: {error.strerror or error}"
            states.append(SourceState(name, False, reason, _MENDS.get(name)))
    return found, states


def _recent(found: Iterable[Finding], since_ns: int | None) -> Iterator[Finding]:
    for item in found:
        if since_ns is None or item.time_ns is None or item.time_ns >= since_ns:
            yield item


def _readers(
    sources: Sources, target: Target
) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    """(name, reader) of each source that is to be asked."""
    base = sources.root or Path("/")
    here = not sources.named
    if sources.store is not None and (here or sources.root):
        path = sources.store if here else base / str(sources.store).lstrip("/")
        yield "store", lambda: _store(path, target, sources.since_ns)
    if sources.kmsg is not None:
        kmsg = sources.kmsg
        yield "kernel-log", lambda: _kernel_rows(kernel_source.file_rows([kmsg]), None)
    elif here:
        yield "kernel-log", lambda: _kernel_rows(kernel_source.kmsg_rows(), clock.wall_offset_ns())
    if here or sources.root:
        yield "kernel-log", lambda: _syslog(base / "var/log")
        if packed := kernel_source.packed_files(base / "var/log"):
            yield "kernel-log", lambda: _unreadable(packed)
    if here or sources.root or sources.journal:
        folder = sources.journal
        if folder is None and sources.root is not None:
            folder = base / "var/log/journal"
        yield "journal", lambda: _journal(folder, sources)
    if here or sources.root or sources.audit:
        log = sources.audit or base / "var/log/audit/audit.log"
        yield "audit", lambda: audit.findings(log)
    if here or sources.root or sources.pacct:
        pacct = sources.pacct or base / "var/log/account/pacct"
        yield "accounting", lambda: accounting.findings(pacct.read_bytes())


def _store(path: Path, target: Target, since_ns: int | None) -> Iterator[Finding]:
    with open_store(path) as store:
        for death in store.deaths(target, since_ns=since_ns, limit=_STORE_DEATHS):
            yield _recorded(death)
            for gap in store.gaps():
                begins = gap.began_ns is None or gap.began_ns <= death.time_ns
                if begins and (gap.ended_ns is None or death.time_ns <= gap.ended_ns):
                    words = f"nothing was recorded then: {gap.reason}"
                    yield Finding(
                        "store", death.time_ns, words, pid=death.process.pid, related=True
                    )


def _recorded(death: Death) -> Finding:
    process = death.process
    text = "recorded as it happened"
    return Finding(
        "store", death.time_ns, text, death, True, process.unit, process.pid, process.comm
    )


def _kernel_rows(rows: Iterable[str], boot_ns: int | None) -> Iterator[Finding]:
    return kernel_source.findings(rows, boot_ns=boot_ns, now_ns=time.time_ns())


def _syslog(folder: Path) -> Iterator[Finding]:
    files = kernel_source.syslog_files(folder)
    if not files:
        raise NotFoundError(
            f"{folder} has no kern.log, syslog or messages", "the journal may have the same"
        )
    return _kernel_rows(kernel_source.file_rows(files), None)


def _unreadable(files: Sequence[Path]) -> Iterator[Finding]:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    raise UnsupportedError(
        f"{files[0]}{more} can't be read as it is: zstd",
        f"zstdcat {files[0]} > log; killtrace why --kmsg log",
    )


def _journal(folder: Path | None, sources: Sources) -> Iterator[Finding]:
    if folder is not None:
        next(folder.iterdir(), None)  # OSError where it can't be read: journalctl would be silent
    return journal.findings(journal.entries(folder, sources.since_ns, sources.boot))
