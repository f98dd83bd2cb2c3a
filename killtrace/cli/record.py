"""`killtrace record`: the flight recorder."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from killtrace import signames
from killtrace.cli.options import filter_options, make_filter
from killtrace.cli.times import SPAN, Size, store_option
from killtrace.errors import OutputError
from killtrace.filters import Filter
from killtrace.model import Record

_LEAST_SIZE = 4 << 20
_LONGEST_ROUND_MS = 1000
_ARGUMENTS = "killtrace.record.arguments"
_RETAIN_DEFAULT, _SIZE_DEFAULT = "30d", "1G"


class Source(Protocol):
    """Where records come from: the tracer."""

    def round(self, timeout_ms: int) -> list[Record]:
        """Wait for records, at most so long."""

    def finish(self) -> list[Record]:
        """The last ones."""


class RecordSink(Protocol):
    """Where records go: the store's recorder."""

    def arm(self, scope: str) -> None:
        """Tracing has begun."""

    def write(self, record: Record) -> bool:
        """Take one record."""

    def tick(self) -> None:
        """Between rounds."""

    def wait_ms(self, longest_ms: int) -> int:
        """How long the next round may last."""

    def reopen(self) -> None:
        """Open the files anew."""

    def close(self) -> int:
        """Write all; how many records could not be."""


class Manager(Protocol):
    """The service manager."""

    def tell(self, *states: str) -> None:
        """Send states such as READY=1."""

    def alive(self, now_ns: int) -> None:
        """Feed the watchdog."""


class _Command(click.Command):
    """Keeps its arguments as they were given, for the unit file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note the arguments, and parse them."""
        ctx.meta[_ARGUMENTS] = [word for word in args if word not in ("--install", "--uninstall")]
        return super().parse_args(ctx, args)


@click.command(cls=_Command)
@filter_options
@store_option
@click.option(
    "--retain",
    type=SPAN,
    default=_RETAIN_DEFAULT,
    show_default=True,
    metavar="SPAN",
    help="Delete what is older: 12h, 30d, 8w.",
)
@click.option(
    "--max-size",
    type=Size(_LEAST_SIZE),
    default=_SIZE_DEFAULT,
    show_default=True,
    metavar="SIZE",
    help="Delete the oldest beyond this: 500M, 1G.",
)
@click.option("--redact", is_flag=True, help="Mask the arguments' values in command lines.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Made when all probes are attached.",
)
@click.option("--install", is_flag=True, help="Make this a systemd service, with these options.")
@click.option("--uninstall", is_flag=True, help="Stop the service and take it away.")
@click.pass_context
def record(ctx: click.Context, *, install: bool, uninstall: bool, **options: Any) -> None:
    """Write every record to the store, for `killtrace why` and `killtrace history`.

    It runs until Ctrl-C or SIGTERM; SIGHUP makes it open the store anew.

    \b
    Examples:
      sudo killtrace record --install                  as a service, from every boot on
      sudo killtrace record --install --retain 90d --redact
      sudo killtrace record --store /tmp/kills.db      here and now

    The store is for root and the group adm. It holds command lines, which may hold secrets:
    --redact masks the values in them.
    """
    chosen = make_filter(options)
    if install and uninstall:
        raise click.UsageError("--install and --uninstall contradict each other; give one of them")
    if install:
        _install(ctx.meta[_ARGUMENTS])
    elif uninstall:
        _uninstall(options["store"])
    else:
        _record(options, chosen, debug=bool(ctx.find_root().params.get("debug")))


def _install(arguments: list[str]) -> None:
    from killtrace.store import service

    service.require_systemd()
    path = service.install(service.unit_text(arguments))
    print(f"killtrace: the recorder runs, and will from every boot on ({path})", file=sys.stderr)


def _uninstall(store: Path) -> None:
    from killtrace.store import service

    service.require_systemd()
    if service.uninstall():
        print(f"killtrace: the recorder is gone; its store {store} stays", file=sys.stderr)
    else:
        print("killtrace: no recorder is installed", file=sys.stderr)


def _record(options: Mapping[str, Any], chosen: Filter, *, debug: bool) -> None:
    # Imported here: --help, usage errors and --install come at once, and without bcc.
    from killtrace.cli import session
    from killtrace.enrich.procfs import ProcFs
    from killtrace.privileges import require_privileges
    from killtrace.probe import source
    from killtrace.store.recorder import Recorder
    from killtrace.store.service import Notifier

    require_privileges()
    signals = options["signals"] or session.DEFAULT_MASK
    targets = session.find_targets(chosen.pids, ProcFs())
    recorder = Recorder(
        options["store"],
        retain_ns=options["retain"],
        max_bytes=options["max_size"],
        redact=options["redact"],
    )
    left = 0
    try:
        tracer = session.start_tracer(
            source.Options(**session.kernel_options(options, signals)),
            targets=targets,
            senders=chosen.senders,
            uids=chosen.uids,
            debug=debug,
        )
        try:
            with session.stop_on_signals() as stop, _reopen_on_hangup() as hangup:
                recorder.arm(scope_text(chosen, signals, failed=options["failed"]))
                session.announce(signals, options["ready_file"])
                run(tracer, recorder, chosen, Notifier(), stop=stop, hangup=hangup)
        finally:
            tracer.close()
    finally:
        left = recorder.close()
    if left:
        raise OutputError(f"{left} records could not be written", "free space on its disk")


class Flag(Protocol):
    """Something that a signal asked for."""

    requested: bool


class _Hangup:
    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: object) -> None:
        self.requested = True


@contextmanager
def _reopen_on_hangup() -> Iterator[_Hangup]:
    hangup = _Hangup()
    before = signal.signal(signal.SIGHUP, hangup.request)
    try:
        yield hangup
    finally:
        signal.signal(signal.SIGHUP, before)


def scope_text(chosen: Filter, signals: frozenset[int], *, failed: bool) -> str:
    """What the tracer is armed for, as the store keeps it: absence proves nothing beyond that."""
    filters = {
        name: sorted(value) if isinstance(value, (frozenset, tuple)) else value
        for name, value in vars(chosen).items()
        if value and name != "signals"
    }
    names = [signames.name(signo) for signo in sorted(signals)]
    return json.dumps({"signals": names, "failed": failed, "filters": filters})


def run(
    source: Source,
    sink: RecordSink,
    chosen: Filter,
    manager: Manager,
    *,
    stop: Flag,
    hangup: Flag,
) -> None:
    """Pass records on until `stop`; then what is left, so that nothing is lost by stopping."""
    manager.tell("READY=1", "STATUS=recording")
    while not stop.requested:
        for one in source.round(sink.wait_ms(_LONGEST_ROUND_MS)):
            if chosen.wants(one):
                sink.write(one)
        sink.tick()
        manager.alive(time.monotonic_ns())
        if hangup.requested:
            hangup.requested = False
            sink.reopen()
    manager.tell("STOPPING=1")
    for one in source.finish():
        if chosen.wants(one):
            sink.write(one)
