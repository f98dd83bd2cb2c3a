"""Command lines: the program that runs, its words and options, and what it asks for.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from killtrace import signames

SIGTERM, SIGKILL = 15, 9


@dataclass(frozen=True)
class Request:
    """One command that asks for an end, or (`starts`) for a start, which makes earlier ends void.

    `kind` says who is asked: systemd, systemd-user, session, machine, container, pod,
    supervisord, runit, s6, or shutdown.  `names` are units, containers and so on, as they were
    typed; `everything`: whatever there is.  `signo`: the only signal that it can lead to, None for
    a stop, which may use several.  `delay_s`: not before so long after the command; `lingers`: the
    command ends before what it asked for is done.
    """

    tool: str
    kind: str
    verb: str
    names: tuple[str, ...] = ()
    everything: bool = False
    signo: int | None = None
    delay_s: float = 0.0
    lingers: bool = False
    starts: bool = False
    machine: str | None = None


def word_set(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


INTERPRETER = re.compile(r"(?:ba|da|z|k|a)?sh|python[\d.]*|perl[\d.]*|ruby[\d.]*|node")
_SHELL = re.compile(r"(?:ba|da|z|k|a)?sh")

Options = Mapping[str, str]


def program(cmdline: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The program's own name and its arguments: a script's, where an interpreter runs one."""
    return _program(tuple(cmdline)) if cmdline else ("", ())


@lru_cache(maxsize=4096)
def _program(cmdline: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    name, rest = base_name(cmdline[0]).removeprefix("-"), cmdline[1:]
    if not INTERPRETER.fullmatch(name):
        return name, rest
    at = 0
    while not _SHELL.fullmatch(name) and at < len(rest) and re.fullmatch(r"-[A-Zsu]+", rest[at]):
        at += 1
    if at < len(rest) and not rest[at].startswith("-"):
        script = rest[at]
        if "/init.d/" in script:  # /etc/init.d/nginx stop: said as service(8) says it
            return "service", (base_name(script), *rest[at + 1 :])
        return base_name(script), rest[at + 1 :]
    return name, rest


def base_name(path: str) -> str:
    """What stands after the last slash."""
    return path.rpartition("/")[2]


def split(args: Sequence[str], valued: frozenset[str]) -> tuple[list[str], dict[str, str]]:
    """Words and options; an option in `valued` takes the next word unless it has one attached."""
    words: list[str] = []
    options: dict[str, str] = {}
    at = 0
    while at < len(args):
        arg = args[at]
        at += 1
        if arg == "--":
            return words + list(args[at:]), options
        if not arg.startswith("-") or arg == "-":
            words.append(arg)
            continue
        name, equals, value = arg.partition("=")
        if not arg.startswith("--"):
            name, equals, value = arg[:2], arg[2:], arg[2:].removeprefix("=")
            if name not in valued:  # several in one: -rf
                options.update((f"-{letter}", "") for letter in arg[2:] if letter.isalpha())
        if not equals and name in valued and at < len(args):
            value = args[at]
            at += 1
        options[name] = value
    return words, options


def option(options: Options, *names: str) -> str | None:
    """The value of the first of these that was given, or None."""
    return next((options[name] for name in names if name in options), None)


def signal_of(text: str | None, default: int | None) -> int | None:
    """The signal that an option names; what is no name is no signal: -1."""
    if text is None:
        return default
    return signames.number(text) or -1
