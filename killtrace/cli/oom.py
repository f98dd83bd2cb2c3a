"""`killtrace oom`: who would be killed next, and why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

import click

from killtrace import clock
from killtrace.enrich.enricher import Enricher, open_enricher
from killtrace.model import Process
from killtrace.oom import report
from killtrace.oom.badness import Candidate
from killtrace.oom.survey import Surveyor, parse_what_if

_INTERVAL_S = 2.0
_ROWS = 5
_ROWS_ALONE = 20


@dataclass(frozen=True)
class _Wanted:
    """What the command line asks for; `only` is the cgroup of `alone`, None the machine."""

    what_if: Mapping[int, int]
    only: str | None
    alone: bool
    as_json: bool


@click.command("oom")
@click.option("--cgroup", metavar="PATH", help="This cgroup alone: its path, or its folder.")
@click.option(
    "--adj",
    "adjustments",
    metavar="PID=VALUE",
    multiple=True,
    help="Rank as if PID had this oom_score_adj; nothing is changed.  Repeatable.",
)
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people, or one JSON object a line.",
)
def oom(cgroup: str | None, adjustments: tuple[str, ...], watch: bool, form: str) -> None:
    """Who would be killed next if memory ran out, and why.

    Ranks the processes of the machine, and of each cgroup that has a memory limit, as the
    kernel's OOM killer would.  Reads /proc and the cgroup files; kills and changes nothing.

    \b
    Examples:
      sudo killtrace oom
      sudo killtrace oom --cgroup /system.slice/nginx.service
      sudo killtrace oom --adj 4711=-500

    Exit status: 0 done, 3 no such cgroup or process.
    """
    what_if = parse_what_if(adjustments)
    enricher = open_enricher(clock.wall_offset_ns())
    surveyor = Surveyor(enricher.procfs, os.sysconf("SC_PAGE_SIZE") // 1024)
    only = surveyor.resolve(cgroup) if cgroup is not None else None
    wanted = _Wanted(what_if, only, cgroup is not None, form == "json")
    if not surveyor.sees_all:
        click.echo(
            "killtrace: not every process of the machine can be seen from here; "
            "run it as root, outside of containers",
            err=True,
        )
    if watch:
        _watch(surveyor, enricher, wanted)
    else:
        _write("".join(f"{line}\n" for line in _lines(surveyor, enricher, wanted)))


def _lines(surveyor: Surveyor, enricher: Enricher, wanted: _Wanted) -> list[str]:
    known: dict[int, Process] = {}

    def describe(candidate: Candidate) -> Process:
        task = candidate.task
        if task.pid not in known:
            start_ns = task.start_ns + enricher.procfs.wall_offset_ns
            found = enricher.find(task.pid, ancestors=wanted.as_json)
            if found is None or found.start_time_ns != start_ns:  # it ended meanwhile
                found = Process(task.pid, start_time_ns=start_ns, comm=task.comm)
            known[task.pid] = found
        return known[task.pid]

    lines: list[str] = []
    for ranking in surveyor.look(wanted.what_if, wanted.only, wanted.alone):
        if wanted.as_json:
            for candidate in ranking.candidates:
                record = report.record(ranking, candidate, describe(candidate))
                lines.append(json.dumps(record, separators=(",", ":")))
        else:
            lines += [""] if lines else []
            lines += report.table(ranking, describe, _ROWS_ALONE if wanted.alone else _ROWS)
    return lines


def _watch(surveyor: Surveyor, enricher: Enricher, wanted: _Wanted) -> None:
    stop = threading.Event()

    def ended(signo: int, frame: FrameType | None) -> None:
        stop.set()

    for signo in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signo, ended)
    in_place = sys.stdout.isatty() and not wanted.as_json
    if in_place:
        _write("\x1b[2J")
    while not stop.is_set():
        lines = _lines(surveyor, enricher, wanted)
        if in_place:
            rows = shutil.get_terminal_size().lines - 1
            if len(lines) > rows:
                lines = [*lines[: rows - 1], f"({len(lines) - rows + 1} lines more; --cgroup PATH)"]
            # Over the old picture, line by line: clearing it first would flicker.
            _write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
        else:
            _write("".join(f"{line}\n" for line in lines) + ("" if wanted.as_json else "\n"))
        stop.wait(_INTERVAL_S)


def _write(content: str) -> None:
    sys.stdout.write(content)
    sys.stdout.flush()
