"""`killtrace why`: what killed it, after the fact, from every record that the machine keeps."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from killtrace import text, wire
from killtrace.cli.options import format_option
from killtrace.cli.times import WHEN, store_option
from killtrace.describe import size
from killtrace.errors import NotFoundError
from killtrace.evidence.findings import UNKNOWN_NS, UNKNOWN_PID, Finding, SourceState
from killtrace.evidence.gather import Sources, gather
from killtrace.evidence.merge import Verdict, summary, verdicts
from killtrace.redact import redact_line, redact_record
from killtrace.sinks.table import cause_lines
from killtrace.store.reader import Target

_SHOWN = 10
_NS = 1_000_000_000
_UNIT_ENDS = (".service", ".scope", ".socket", ".mount", ".slice")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False, readable=True)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("target", required=False)
@click.option(
    "--since", type=WHEN, metavar="TIME", help="From then on: `yesterday`, `2h ago`, ISO."
)
@click.option("--boot", metavar="ID", help="The journal of one boot: 0 this one, -1 the last, …")
@click.option("--root", type=_FOLDER, help="Another machine's disk, or a folder with its var/log.")
@click.option("--kmsg", type=_FILE, help="A kernel log, as dmesg or /dev/kmsg prints it.")
@click.option("--journal", type=_FOLDER, help="A folder of journal files.")
@click.option("--audit", type=_FILE, help="An audit log.")
@click.option("--pacct", type=_FILE, help="A process accounting file.")
@click.option("--redact", is_flag=True, help="Mask the arguments' values in command lines.")
@store_option
@format_option
def why(target: str | None, output_format: str, redact: bool, **options: Any) -> None:
    """Say what killed TARGET: a pid, a name or glob, a unit, or a container; else the latest.

    \b
    Examples:
      killtrace why nginx
      killtrace why 4716 --since yesterday
      killtrace why --root /mnt/olddisk 'python*'
      dmesg > log; killtrace why --kmsg log

    Where --root, --kmsg, --journal, --audit or --pacct is given, only what is named is read.
    Exit status: 0 answered, 3 nothing found.
    """
    names = {name: options[name] for name in ("store", "kmsg", "journal", "audit", "pacct", "root")}
    sources = Sources(**names, since_ns=options["since"], boot=options["boot"])
    asked = _target(target)
    found, states = gather(sources, asked, _progress)
    _progress_ends()
    told = [verdict for verdict in verdicts(found) if _asked_for(verdict, target)]
    shown = told if output_format == "json" else told[:_SHOWN]
    for verdict in shown:
        _show(_redacted(verdict) if redact else verdict, output_format)
    _tell_sources(states, output_format)
    if len(told) > len(shown):
        more = len(told) - len(shown)
        print(
            f"killtrace: {more} older deaths not shown (--format json shows all)", file=sys.stderr
        )
    if not told:
        raise NotFoundError(
            f"no record tells of the death of {target or 'any process'}",
            "arm the flight recorder, so that next time there is an answer:"
            " sudo killtrace record --install",
        )


def _target(target: str | None) -> Target:
    if target is None:
        return Target()
    if target.isascii() and target.isdecimal():
        return Target(pid=int(target))
    return Target(unit=target) if target.endswith(_UNIT_ENDS) else Target(comm=target)


def _asked_for(verdict: Verdict, target: str | None) -> bool:
    if target is None:
        return True
    process = verdict.death.process
    if target.isascii() and target.isdecimal():
        return process.pid == int(target)
    program = process.cmdline[0].rpartition("/")[2] if process.cmdline else None
    container = process.container
    units = [found.unit for found in verdict.evidence]
    names = [process.comm, program, process.unit, *units]
    if container is not None:
        names += [container.name, container.id, container.pod]
    globs = (target, f"{target}.service", target[:15])
    return any(fnmatchcase(name, glob) for name in names if name for glob in globs)


def _redacted(verdict: Verdict) -> Verdict:
    death = redact_record(verdict.death)
    evidence = tuple(replace(found, text=redact_line(found.text)) for found in verdict.evidence)
    return replace(verdict, death=death, summary=summary(death), evidence=evidence)  # type: ignore[arg-type]


def _progress(name: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[Kreading {name} …", end="", file=sys.stderr, flush=True)


def _progress_ends() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _show(verdict: Verdict, output_format: str) -> None:
    if output_format == "json":
        print(json.dumps(verdict_to_json(verdict)))
        return
    sure = "" if verdict.certain else "  (not certain)"
    print(f"{_when(verdict.death.time_ns)}  {text.escape(verdict.summary)}{sure}")
    for line in cause_lines(verdict.death) if verdict.death.signals else ():
        print(f"  {line}")
    for found in verdict.evidence:
        print(f"    {found.source:<11} {_when(found.time_ns)}  {text.escape(found.text)}")
    _candidates(verdict)


def _candidates(verdict: Verdict) -> None:
    """The rank table beside an OOM kill."""
    cause = verdict.death.cause
    rows: Sequence[Mapping[str, Any]] = (
        cause.origin.detail.get("candidates") if cause else []
    ) or []
    if not rows:
        return
    table = [
        (
            row["pid"],
            text.escape(str(row["comm"])),
            "-" if row["badness"] is None else row["badness"],
            size(row["rss_kb"]),
            size(row["swap_kb"]),
            row["oom_score_adj"],
        )
        for row in rows[:_SHOWN]
    ]
    headers = ("PID", "NAME", "BADNESS", "RSS", "SWAP", "ADJ")
    shown = tabulate(table, headers=headers, tablefmt="plain")
    print("\n".join(f"      {line}" for line in shown.splitlines()))


def _when(time_ns: int | None) -> str:
    if not time_ns:
        return "at an unknown time"
    return f"{datetime.fromtimestamp(time_ns // _NS):%Y-%m-%d %H:%M:%S}"


def _tell_sources(states: Sequence[SourceState], output_format: str) -> None:
    for state in states:
        if output_format == "json":
            print(
                json.dumps(
                    {
                        "type": "source",
                        "name": state.name,
                        "read": state.read,
                        "reason": state.reason,
                        "mend": state.mend,
                    }
                )
            )
        elif not state.read:
            mend = f"; {state.mend}" if state.mend else ""
            line = f"killtrace: {state.name} not read: {state.reason}{mend}"
            print(text.escape(line), file=sys.stderr)


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """The contract's verdict record; a time that no source knew is null."""
    death = wire.record_to_json(verdict.death)
    if verdict.death.time_ns == UNKNOWN_NS:
        death["time"] = None
        if death["cause"] is not None:
            death["cause"]["time"] = None
    if verdict.death.process.pid == UNKNOWN_PID:
        death["process"]["pid"] = None
    return {
        "type": "verdict",
        "death": death,
        "certain": verdict.certain,
        "summary": verdict.summary,
        "evidence": [_evidence(found) for found in verdict.evidence],
    }


def _evidence(found: Finding) -> dict[str, Any]:
    when = None if found.time_ns is None else wire.format_time(found.time_ns)
    return {
        "source": found.source,
        "time": when,
        "text": found.text,
        "unit": found.unit,
        "report": list(found.report) or None,
    }
