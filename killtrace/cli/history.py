"""`killtrace history`: what the flight recorder has written down."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import click

from killtrace import text
from killtrace.cli.options import filter_options, format_option, make_filter
from killtrace.cli.times import check_range, range_options, store_option
from killtrace.errors import NotFoundError
from killtrace.redact import redact_record
from killtrace.store.query import Query
from killtrace.store.reader import Store, open_store
from killtrace.store.stats import SUBJECTS, Row, Stats

_SHOWN_ROWS = 10
_FLUSH_RECORDS = 1000


@click.command()
@filter_options
@range_options
@format_option
@click.option("--stats", is_flag=True, help="Counts: by origin, signal, sender, victim, unit, day.")
@click.option("--redact", is_flag=True, help="Mask the arguments' values in command lines.")
@store_option
def history(
    *,
    store: Path,
    since: int | None,
    until: int | None,
    output_format: str,
    stats: bool,
    redact: bool,
    **options: Any,
) -> None:
    """List what was recorded, oldest first.

    \b
    Examples:
      killtrace history --since yesterday --comm 'nginx*'
      killtrace history --pid 4716 --format json
      killtrace history --origin oom --since '30d ago'
      killtrace history --stats --since 2026-11-01

    Exit status: 0 done, 3 nothing found, 77 the store may not be read.
    """
    check_range(since, until)
    query = Query(make_filter(options), since, until, attempts=bool(options["failed"]))
    with open_store(store) as opened:
        found = (
            _show_stats(opened, query, output_format)
            if stats
            else _show(opened, query, output_format, redact)
        )
        if not found:
            raise NotFoundError(
                "nothing that matches was recorded",
                "give fewer filters or an earlier --since; `killtrace why` looks in other records,"
                " too",
            )


def _show(store: Store, query: Query, output_format: str, redact: bool) -> bool:
    """Print the records; whether there were any."""
    from killtrace.sinks.jsonl import JsonSink
    from killtrace.sinks.table import TableSink

    is_json = output_format == "json"
    sink: JsonSink | TableSink = (
        JsonSink(sys.stdout) if is_json else TableSink(sys.stdout, dates=True)
    )
    records = store.records(query)
    found = False
    while some := list(islice(records, _FLUSH_RECORDS)):
        found = True
        for record in some:
            sink.write(redact_record(record) if redact else record)
        sink.end_round()
    if found:
        sink.close()
    return found


def _show_stats(store: Store, query: Query, output_format: str) -> bool:
    """Print the counts; whether there were any."""
    sums = Stats(store.grouped(query))
    if not sums:
        return False
    if output_format == "json":
        for by in SUBJECTS:
            for row in sums.rows(by):
                print(json.dumps({"type": "stats", **vars(row)}))
        return True

    sections = []
    for by in SUBJECTS:
        rows = list(sums.rows(by))
        sections.append(_section(by, rows if by == "day" else rows[:_SHOWN_ROWS], query.attempts))
        if by != "day" and len(rows) > _SHOWN_ROWS:
            sections[-1] += f"\n(and {len(rows) - _SHOWN_ROWS} more: --format json shows all)"
    print("\n\n".join(sections))
    if sums.lost:
        print(f"\n{sums.lost} events were lost and are not in these counts")
    return True


def _section(by: str, rows: Iterable[Row], with_refused: bool) -> str:
    from tabulate import tabulate

    headers = [by.upper(), "SIGNALS", "DEATHS", *(["REFUSED"] if with_refused else [])]
    cells = [
        [_value(row), row.signals, row.deaths, *([row.refused] if with_refused else [])]
        for row in rows
    ]
    return tabulate(cells, headers=headers, tablefmt="plain", disable_numparse=[0])


def _value(row: Row) -> str:
    if row.value is not None:
        return text.escape(row.value)
    return {"origin": "(ended by itself)", "signal": "(exited)"}.get(row.by, "(none)")
