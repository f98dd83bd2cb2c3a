"""`killtrace doctor`: what this machine can and cannot tell, and the mend for what is missing."""

from __future__ import annotations

import json
import os
import platform
import sys
import textwrap
from collections.abc import Mapping

import click
from tabulate import tabulate

from killtrace.cli.options import format_option
from killtrace.doctor import Check, Machine, checks, exit_status
from killtrace.sinks.table import wants_colour
from killtrace.text import escape

# Two narrow columns stand before it; all of a line is under 100.
_WIDTH = 68


@click.command()
@format_option
def doctor(output_format: str) -> int:
    """Say what this machine can and cannot tell, probe by probe.

    \b
    Example:
      sudo killtrace doctor

    Exit status: 0 live tracing works, 69 the machine lacks something, 77 only root is missing.
    """
    found = list(checks(_this_machine()))
    if output_format == "json":
        for check in found:
            print(json.dumps({"type": "check", **vars(check)}))
    else:
        print(_table(found))
    return exit_status(found)


def _this_machine() -> Machine:
    from killtrace.probe import bpf_calls, loader, running, source
    from killtrace.store import files

    return Machine(
        release=platform.release(),
        architecture=platform.machine(),
        euid=os.geteuid(),
        bcc=loader.bcc_version,
        attach=bpf_calls.try_raw_tracepoint,
        tracers=running.running_tracers,
        armed=lambda: files.is_locked(files.DEFAULT_PATH),
        host_tgid=bpf_calls.host_tgid,
        trial=_trial,
        btf=str(source.BTF_PATH),
    )


def _trial() -> Mapping[str, str]:
    """Load and attach the programs, for real, and take them away again."""
    from killtrace.cli.session import DEFAULT_MASK, mask_of
    from killtrace.probe import source
    from killtrace.probe.loader import Probe, with_kprobes

    options = with_kprobes(source.Options(signal_mask=mask_of(DEFAULT_MASK)))
    probe = Probe(options, buffer_pages=8)
    try:
        return dict(probe.missing)
    finally:
        probe.close()


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
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            escape(line), _WIDTH, subsequent_indent="  ", break_on_hyphens=False
        )
    ]
