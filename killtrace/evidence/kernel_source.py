"""Findings from the kernel log: /dev/kmsg, files of it, and what syslog kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from killtrace import describe
from killtrace.enrich.cgroup import place
from killtrace.evidence import kernel_log
from killtrace.evidence.findings import UNKNOWN_NS, Finding
from killtrace.evidence.kernel_log import KernelEvent, OomKill
from killtrace.evidence.log_lines import lines_of, open_log
from killtrace.model import Cause, Death, Exit, Origin, Process

_SIGKILL, _SIGSEGV, _SIGTRAP = 9, 11, 5
_SYSLOGS = ("kern.log", "syslog", "messages")
_PACKED = ".zst"


def kmsg_rows(path: Path = Path("/dev/kmsg")) -> list[str]:
    """All rows of the running kernel's log; OSError where it may not be read."""
    rows: list[str] = []
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                record = os.read(fd, 8192)
            except BrokenPipeError:
                continue  # overwritten while we read
            except BlockingIOError:
                return rows
            if not record:
                return rows
            rows.append(record.decode("utf-8", "surrogateescape").partition("\n")[0])
    finally:
        os.close(fd)


def syslog_files(log_folder: Path) -> list[Path]:
    """kern.log, syslog and messages, rotated and compressed ones too, oldest first."""
    found = [
        path
        for name in _SYSLOGS
        for path in log_folder.glob(f"{name}*")
        if path.is_file() and path.suffix != _PACKED
    ]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def packed_files(log_folder: Path) -> list[Path]:
    """Logs that can't be read as they are: Python has no zstd before 3.14."""
    return sorted(path for name in _SYSLOGS for path in log_folder.glob(f"{name}*{_PACKED}"))


def file_rows(paths: Iterable[Path]) -> Iterator[str]:
    """Rows of log files; a file cut off in its compression ends there."""
    for path in paths:
        try:
            yield from open_log(path)
        except EOFError:
            continue


def findings(rows: Iterable[str], *, boot_ns: int | None, now_ns: int) -> Iterator[Finding]:
    """What the kernel log tells of deaths."""
    events = kernel_log.parse(lines_of(rows, boot_ns=boot_ns, now_ns=now_ns))
    return (finding(event) for event in events)


def finding(event: KernelEvent) -> Finding:
    """One event of the kernel log as a finding."""
    if isinstance(event, OomKill):
        return _oom(event)
    if isinstance(event, kernel_log.Fault):
        signo = _SIGTRAP if event.what.startswith("trap") else _SIGSEGV
        summary = f"the kernel: {event.what}"
        return Finding(
            "kernel-log",
            event.time_ns,
            event.text,
            _death(event.pid, event.comm, event.time_ns, signo, Origin("kernel", summary)),
            True,
            pid=event.pid,
            comm=event.comm,
        )
    return Finding(
        "kernel-log", event.time_ns, event.text, pid=event.pid, comm=event.comm, related=True
    )


def _oom(kill: OomKill) -> Finding:
    report = kill.report
    memory: dict[str, int | None] = {
        "total_vm_kb": kill.total_vm_kb,
        "anon_rss_kb": kill.anon_rss_kb,
        "file_rss_kb": kill.file_rss_kb,
        # Before 4.5 (commit eca56ff906bd) shared memory was counted as file pages.
        "shmem_rss_kb": kill.shmem_rss_kb,
        "swap_kb": None,
        "pgtables_kb": kill.pgtables_kb,
        "oom_score_adj": kill.oom_score_adj,
    }
    trigger = None
    if report.trigger_pid is not None:
        trigger = Process(report.trigger_pid, comm=report.trigger_comm)
    story = describe.Oom(
        scope=report.scope or ("memcg" if kill.in_memcg else "system"),
        memcg=report.oom_memcg,
        limit_kb=report.limit_kb,
        usage_kb=report.usage_kb,
        trigger=trigger,
        group=report.group,
        memory=memory,
        order=report.order,
        gfp=report.gfp,
        candidates=list(report.candidates()) or None,
    )
    origin = describe.oom_origin(story, True)
    death = _death(kill.pid, kill.comm, kill.time_ns, _SIGKILL, origin, kill.uid)
    # The report names the cgroup of the chosen one; those that go with it may be in others.
    cgroup = report.task_memcg if report.chosen_pid in (None, kill.pid) else None
    where = place(cgroup) if cgroup is not None else None
    if where is not None:
        process = replace(death.process, cgroup=cgroup, unit=where.unit, container=where.container)
        death = replace(death, process=process)
    return Finding(
        "kernel-log",
        kill.time_ns,
        kill.text,
        death,
        True,
        unit=None if where is None else where.unit,
        pid=kill.pid,
        comm=kill.comm,
        report=tuple(report.lines),
    )


def _death(
    pid: int, comm: str, time_ns: int | None, signo: int, origin: Origin, uid: int | None = None
) -> Death:
    when_ns = time_ns or UNKNOWN_NS
    return Death(
        time_ns=when_ns,
        process=Process(pid, comm=comm, uid=uid),
        exit=Exit(signo, None),
        cause=Cause(signo, when_ns, None, origin),
    )
