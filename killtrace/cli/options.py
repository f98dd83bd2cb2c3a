"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from killtrace import signames
from killtrace.filters import Filter
from killtrace.model import ORIGIN_KINDS

_F = TypeVar("_F", bound=Callable[..., Any])


class Pid(click.ParamType):
    """A process id, 1 or more."""

    name = "pid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text to a pid; a usage error for what is none."""
        if isinstance(value, int):
            return value
        if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= 1 << 22:
            self.fail(f"{value!r} is no process id; give a number from 1 to {1 << 22}", param, ctx)
        return int(value)


class Signals(click.ParamType):
    """Names or numbers, a comma list of these, or `fatal`."""

    name = "signals"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[int]:
        """Text to signal numbers; a usage error for what is no signal."""
        if isinstance(value, frozenset):
            return value
        found: set[int] = set()
        for word in value.split(","):
            if word.strip().lower() == "fatal":
                found |= signames.fatal()
                continue
            signo = signames.number(word)
            if signo is None:
                self.fail(
                    f"{word!r} is no signal; give names (TERM, SIGKILL), numbers 1 to 64, a comma"
                    " list, or `fatal`",
                    param,
                    ctx,
                )
            found.add(signo)
        return frozenset(found)


class User(click.ParamType):
    """A user by name or uid; the value is the uid."""

    name = "user"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text to a uid; a usage error for an unknown name."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdecimal():
            return int(value)
        try:
            return pwd.getpwnam(value).pw_uid
        except KeyError:
            self.fail(
                f"there is no user {value!r}; give a name or a uid of this machine", param, ctx
            )


class Seconds(click.ParamType):
    """A time span: 30, 1.5, 10s, 5m, 2h, 1d; in seconds."""

    name = "time"
    _UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Text to seconds above 0; a usage error otherwise."""
        if isinstance(value, float):
            return value
        number, factor = value, 1
        if value[-1:] in self._UNITS:
            number, factor = value[:-1], self._UNITS[value[-1]]
        try:
            seconds = float(number) * factor
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 1e9:
            self.fail(f"{value!r} is no time above 0; give seconds, or 10s, 5m, 2h, 1d", param, ctx)
        return seconds


class Folder(click.ParamType):
    """A cgroup: its path, or its folder below /sys/fs/cgroup."""

    name = "cgroup"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Text to a cgroup path that begins with a slash."""
        path = str(value)
        mount = "/sys/fs/cgroup"
        if path == mount or path.startswith(mount + "/"):
            rest = path[len(mount) :].strip("/").split("/")
            first = Path(mount) / rest[0]
            # v1 and hybrid machines mount each hierarchy in a folder of its own.
            if rest[0] and (first / "cgroup.procs").exists() and not _v2_root(Path(mount)):
                rest = rest[1:]
            path = "/" + "/".join(rest)
        if not path.startswith("/"):
            path = "/" + path
        return path.rstrip("/") or "/"


def _v2_root(mount: Path) -> bool:
    return (mount / "cgroup.controllers").exists()


PID, SIGNALS, USER, SECONDS, CGROUP = Pid(), Signals(), User(), Seconds(), Folder()

_FILTERS = (
    click.option("--pid", "pids", type=PID, multiple=True, help="Target process; repeatable."),
    click.option(
        "--sender", "senders", type=PID, multiple=True, help="Sending process; repeatable."
    ),
    click.option(
        "--signal",
        "signals",
        type=SIGNALS,
        help="Signals by name or number, a comma list, or `fatal`: all that can end a process."
        " Default: HUP, INT, QUIT, KILL, TERM.",
    ),
    click.option("--comm", "comms", multiple=True, metavar="GLOB", help="Name of either end."),
    click.option("--user", "uids", type=USER, multiple=True, help="User of either end."),
    click.option("--cgroup", "cgroups", type=CGROUP, multiple=True, help="cgroup of either end."),
    click.option(
        "--unit", "units", multiple=True, metavar="GLOB", help="systemd unit of either end."
    ),
    click.option(
        "--container",
        "containers",
        multiple=True,
        metavar="NAME",
        help="Name or id of a container.",
    ),
    click.option(
        "--origin",
        "origins",
        type=click.Choice(ORIGIN_KINDS),
        multiple=True,
        metavar="KIND",
        help=f"Where it came from: {', '.join(ORIGIN_KINDS)}.",
    ),
    click.option("--deaths", "deaths_only", is_flag=True, help="Only deaths."),
    click.option(
        "--failed",
        is_flag=True,
        help="Also signals that the kernel refused to send, with the errno.",
    ),
)


def filter_options(function: _F) -> _F:
    """The filters of live, record and history."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


def format_option(function: _F) -> _F:
    """`--format table|json`."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or one JSON object a line.",
    )(function)


def make_filter(options: Mapping[str, Any]) -> Filter:
    """The Filter that the filter options ask for."""
    if options.get("deaths_only") and options.get("failed"):
        raise click.UsageError("--deaths and --failed contradict each other; give one of them")
    return Filter(
        pids=frozenset(options["pids"]),
        senders=frozenset(options["senders"]),
        signals=options["signals"] or frozenset(),
        comms=tuple(options["comms"]),
        uids=frozenset(options["uids"]),
        cgroups=tuple(options["cgroups"]),
        units=tuple(options["units"]),
        containers=tuple(options["containers"]),
        origins=frozenset(options["origins"]),
        deaths_only=bool(options.get("deaths_only")),
    )
