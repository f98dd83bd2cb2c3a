"""Options whose values are times, spans and sizes: `--since`, `--retain`, `--max-size`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from killtrace import timespec
from killtrace.store import files

_F = TypeVar("_F", bound=Callable[..., Any])


class When(click.ParamType):
    """A time: `yesterday`, `2h ago`, `14:30`, ISO 8601; in nanoseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text to nanoseconds; a usage error for what is no time."""
        return _convert(
            self, value, lambda text: timespec.parse_time(text, time.time_ns()), param, ctx
        )


class Span(click.ParamType):
    """A span of time: `30d`, `12h`; in nanoseconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text to nanoseconds; a usage error for what is no span."""
        return _convert(self, value, timespec.parse_span, param, ctx)


class Size(click.ParamType):
    """A size: `500M`, `1G`; in bytes."""

    name = "size"

    def __init__(self, least: int = 1) -> None:
        """`least` is the smallest that makes sense."""
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text to bytes; a usage error for what is no size, or too small."""
        size = _convert(self, value, timespec.parse_size, param, ctx)
        if size < self._least:
            self.fail(f"{value!r} is too small; give {self._least >> 20}M at least", param, ctx)
        return size


def _convert(
    kind: click.ParamType,
    value: Any,
    parse: Callable[[str], int],
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> int:
    if isinstance(value, int):
        return value
    try:
        return parse(value)
    except ValueError as error:
        kind.fail(str(error), param, ctx)


WHEN, SPAN = When(), Span()

_RANGE = (
    click.option(
        "--since", type=WHEN, metavar="TIME", help="From then on: `yesterday`, `2h ago`, ISO 8601."
    ),
    click.option("--until", type=WHEN, metavar="TIME", help="Before then."),
)


def range_options(function: _F) -> _F:
    """`--since` and `--until`."""
    for option in reversed(_RANGE):
        function = option(function)
    return function


def check_range(since_ns: int | None, until_ns: int | None) -> None:
    """A usage error where `--until` is not after `--since`."""
    if since_ns is not None and until_ns is not None and until_ns <= since_ns:
        raise click.UsageError("--until is not after --since; swap them, or leave one out")


def store_option(function: _F) -> _F:
    """`--store PATH`."""
    return click.option(
        "--store",
        type=click.Path(path_type=Path, dir_okay=False, readable=False),
        default=files.DEFAULT_PATH,
        show_default=True,
        help="The recorder's database.",
    )(function)
