"""`killtrace doctor`: what this machine can and cannot tell, and the mend for what is missing."""

from __future__ import annotations

import json
import sys
import textwrap

import click
from tabulate import tabulate

from killtrace.cli.options import format_option
from killtrace.doctor import Check, Machine, checks, exit_status
from killtrace.errors import KilltraceError
from killtrace.sinks.table import wants_colour


@click.command()
@format_option
def doctor(output_format: str) -> int:
    """Say what this machine can and cannot tell, probe by probe.

    \b
    Example:
      sudo killtrace doctor

    Exit status: 0 live tracing works, 69 the machine lacks something, 77 only root is missing.
    """
    found = list(checks(Machine(), trial=_trial))
    if output_format == "json":
        for check in found:
            print(json.dumps({"type": "check", **vars(check)}))
    else:
        print(_table(found))
    return exit_status(found)


def _trial() -> str | None:
    """Load and attach the programs, for real, and take them away again."""
    from killtrace.cli.session import DEFAULT_MASK, mask_of
    from killtrace.probe import source
    from killtrace.probe.loader import Probe, with_kprobes

    options = with_kprobes(source.Options(signal_mask=mask_of(DEFAULT_MASK)))
    try:
        probe = Probe(options, lambda _: None, buffer_pages=8)
    except KilltraceError as error:
        return error.what
    probe.close()
    if probe.missing:
        return f"attached, but for {', '.join(probe.missing)}"
    return None


def _table(found: list[Check]) -> str:
    colour = wants_colour(sys.stdout)
    rows = [(_mark(check, colour), check.name, "\n".join(_words(check))) for check in found]
    return tabulate(rows, headers=("", "CHECK", "FINDING"), tablefmt="plain")


def _mark(check: Check, colour: bool) -> str:
    word, code = ("ok", 32) if check.ok else ("MISSING", 31) if check.required else ("no", 33)
    return f"\033[{code}m{word}\033[0m" if colour else word


def _words(check: Check) -> list[str]:
    lines = [check.detail, f"gives: {check.gives}"]
    if check.stand_in:
        lines.append(f"instead: {check.stand_in}")
    if check.mend:
        lines.append(f"mend: {check.mend}")
    return [part for line in lines for part in textwrap.wrap(line, 72, subsequent_indent="  ")]
