"""The live tail, and `--wait`: what `killtrace` does with no command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from killtrace import signames
from killtrace.cli.options import SECONDS, filter_options, format_option, make_filter
from killtrace.errors import TimedOutError
from killtrace.filters import Filter
from killtrace.model import Death, Lost, Record
from killtrace.privileges import require_privileges

_F = TypeVar("_F", bound=Callable[..., Any])

_LIVE = (
    click.option("--wait", is_flag=True, help="Wait until the target ends, say how, and exit."),
    click.option("--timeout", type=SECONDS, metavar="TIME", help="Give up after this: exit 124."),
    click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after N records."),
    click.option("--duration", type=SECONDS, metavar="TIME", help="Stop after this."),
    click.option(
        "--ready-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Made when all probes are attached.",
    ),
    click.option(
        "--exec-entries",
        type=click.IntRange(256, 1 << 20),
        default=16384,
        show_default=True,
        metavar="N",
        help="How many processes' command lines are kept.",
    ),
    click.option(
        "--buffer-pages",
        type=click.IntRange(8, 1 << 16),
        metavar="N",
        help="Pages of the signal buffer for each CPU.  [default: by the number of CPUs]",
    ),
    click.option("--stack", is_flag=True, help="OOM kills: the path of the allocation, too."),
)


def live_options(function: _F) -> _F:
    """All options of the live command line."""
    for option in reversed(_LIVE):
        function = option(function)
    return filter_options(format_option(function))


def run_live(options: Mapping[str, Any]) -> None:
    """Check the command line, trace, and show."""
    chosen = make_filter(options)
    _check(options)
    require_privileges()
    # Imported here: --help, usage errors and a lack of rights come at once.
    from killtrace.cli import session
    from killtrace.enrich.procfs import ProcFs
    from killtrace.probe import source

    waiting = bool(options["wait"])
    signals = options["signals"] or (signames.fatal() if waiting else session.DEFAULT_MASK)
    targets = session.find_targets(chosen.pids, ProcFs())
    if chosen.pids:
        chosen = replace(chosen, pids=frozenset(target.pid for target in targets))
    tracer = session.start_tracer(
        source.Options(
            **session.kernel_options(options, signals),
            all_deaths=waiting and not targets,
            oom_stack=bool(options["stack"]),
            exec_entries=options["exec_entries"],
        ),
        targets=targets,
        senders=chosen.senders,
        uids=chosen.uids,
        buffer_pages=options["buffer_pages"],
        debug=bool(options["debug"]),
    )
    try:
        live = _Live(options, chosen, sys.stdout)
        # A wait sees every fatal signal to its target; what was asked for is what is announced.
        live.run(tracer, options["signals"] or session.DEFAULT_MASK)
    finally:
        tracer.close()


def _check(options: Mapping[str, Any]) -> None:
    named = [name for name in ("pids", "comms", "units", "containers") if options[name]]
    if options["wait"]:
        if not named:
            raise click.UsageError(
                "--wait needs a target; add --pid, --comm, --unit or --container"
            )
        if len(named) > 1:
            words = " and ".join("--" + name[:-1] for name in named)
            raise click.UsageError(f"--wait takes one kind of target, not {words}; give one")
        for name in ("count", "duration", "failed"):
            if options[name]:
                raise click.UsageError(
                    f"--wait and --{name} contradict each other; bound a wait with --timeout"
                )
    if options["timeout"] and options["duration"]:
        raise click.UsageError("--timeout and --duration contradict each other; give one of them")


class _Live:
    """One live session: shows records until it is told to stop, or a bound is reached."""

    def __init__(self, options: Mapping[str, Any], chosen: Filter, out: Any) -> None:
        from killtrace.cli import session
        from killtrace.sinks.jsonl import JsonSink
        from killtrace.sinks.table import TableSink

        self._filter = chosen
        self._wait = bool(options["wait"])
        self._left: int | None = 1 if self._wait else options["count"]
        self._ready_file: Path | None = options["ready_file"]
        self._bounds = session.Bounds(options["timeout"], options["duration"])
        is_json = options["output_format"] == "json"
        self._sink: session.Sink = JsonSink(out) if is_json else TableSink(out, verdicts=self._wait)

    def run(self, tracer: Any, signals: frozenset[int]) -> None:
        """Until Ctrl-C, SIGTERM, a bound, or the reader of stdout goes away."""
        from killtrace.cli import session

        with session.stop_on_signals() as stop:
            session.announce(signals, self._ready_file)
            self._bounds.start()
            while not stop.requested:
                self._show(tracer.round(self._bounds.remaining_ms(1000)))
                if self._left == 0 or self._bounds.done():
                    break
                if self._bounds.timed_out():
                    self._sink.close()
                    raise TimedOutError(
                        "nothing ended it in time" if self._wait else "--timeout ran out",
                        "give a longer --timeout, or none",
                    )
            if not self._wait:
                self._show(tracer.finish())
            self._sink.close()

    def _show(self, records: list[Record]) -> None:

        for record in records:
            if self._left == 0 and not isinstance(record, Lost):
                break
            if self._wanted(record) and self._sink.write(record):
                self._count(record)
        self._sink.end_round()

    def _wanted(self, record: Record) -> bool:
        if self._wait and not isinstance(record, (Death, Lost)):
            return False
        return self._filter.wants(record)

    def _count(self, record: Record) -> None:
        if self._left is not None and not isinstance(record, Lost):
            self._left -= 1
