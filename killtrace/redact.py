"""Masks the values in command lines: `--redact`.

Pure.  A program's name, its options' names, and what names a target of a kill stay, since they
tell the story; every other argument is masked, being where passwords, tokens and addresses are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from killtrace import text
from killtrace.model import Ancestor, Attempt, Death, Origin, Process, Record, Signal

MASK = "***"
# Their arguments are pids, signals, names, units and times: nothing of these is a secret.
_HARMLESS = frozenset(
    {
        "fuser",
        "halt",
        "kill",
        "killall",
        "killall5",
        "loginctl",
        "pkill",
        "poweroff",
        "reboot",
        "service",
        "shutdown",
        "skill",
        "sleep",
        "systemctl",
        "telinit",
    }
)
# Their first argument, where it is no option, names the script.
_INTERPRETERS = ("bash", "dash", "java", "node", "perl", "php", "python", "ruby", "sh", "zsh")

# sudoers(5), "LOG FORMAT"; earlyoom since 1.8 names the command line of what it chose.
_SUDO_ENV = re.compile(r"\bENV=.*? ; ")
_SUDO_COMMAND = re.compile(r"(?<=\bCOMMAND=).+")
_EARLYOOM = re.compile(r'\bcmdline "(.*)"')


def redact_cmdline(cmdline: Sequence[str]) -> tuple[str, ...]:
    """A command line with its values masked."""
    if not cmdline:
        return ()
    program = cmdline[0].rpartition("/")[2].lstrip("-")
    if " " in cmdline[0]:
        # A title that was written over the arguments: its first word is the program.
        return (_first_word(cmdline[0]), *(MASK for _ in cmdline[1:]))
    if program in _HARMLESS:
        return tuple(cmdline)
    out = [cmdline[0], *(_masked(argument) for argument in cmdline[1:])]
    is_script = program.rstrip("0123456789.") in _INTERPRETERS
    if is_script and len(cmdline) > 1 and not cmdline[1].startswith("-"):
        out[1] = cmdline[1]
    return tuple(out)


def _masked(argument: str) -> str:
    if argument in ("-", "--"):
        return argument
    if argument.startswith("--"):
        name, equals, _ = argument.partition("=")
        return name + (equals and equals + MASK)
    if argument.startswith("-"):
        # -p, and -psecret, which may as well be a bundle like -xzf: all but the first is masked.
        return argument if len(argument) == 2 else argument[:2] + MASK
    return MASK


def _first_word(title: str) -> str:
    word, space, _ = title.partition(" ")
    return word + (space and space + MASK)


def redact_process(process: Process) -> Process:
    """A process with its own command line and those of its ancestors masked."""
    return replace(
        process,
        cmdline=None if process.cmdline is None else redact_cmdline(process.cmdline),
        title=None if process.title is None else _first_word(process.title),
        ancestors=tuple(_redact_ancestor(step) for step in process.ancestors),
    )


def _redact_ancestor(step: Ancestor) -> Ancestor:
    return step if step.cmdline is None else replace(step, cmdline=redact_cmdline(step.cmdline))


def redact_record(record: Record) -> Record:
    """A record with every command line in it masked, in its sentences too."""
    changes: dict[str, Any] = {
        f.name: redact_process(getattr(record, f.name))
        for f in fields(record)
        if isinstance(getattr(record, f.name), Process)
    }
    known = list(_processes(record))
    if isinstance(record, Signal):
        changes["origin"] = redact_origin(record.origin, known)
    if isinstance(record, Death) and record.cause is not None:
        sender = record.cause.sender
        changes["cause"] = replace(
            record.cause,
            sender=None if sender is None else redact_process(sender),
            origin=redact_origin(record.cause.origin, known),
        )
    return replace(record, **changes)


def redact_origin(origin: Origin, known: Sequence[Process]) -> Origin:
    """An origin with its processes masked, and the commands of all `known` in its sentence."""
    inside = [value for value in origin.detail.values() if isinstance(value, Process)]
    summary = redact_line(origin.summary)
    for process in (*known, *inside):
        summary = _redact_text(summary, process)
    detail = {name: _redact_detail(value, known) for name, value in origin.detail.items()}
    return replace(origin, summary=summary, detail=detail)


def _redact_detail(value: Any, known: Sequence[Process]) -> Any:
    if isinstance(value, Process):
        return redact_process(value)
    if isinstance(value, str):
        for process in known:
            value = _redact_text(value, process)
        return redact_line(value)
    if isinstance(value, Mapping):
        return {
            key: list(redact_cmdline(item)) if key == "cmdline" and item else item
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redact_detail(item, known) for item in value]
    return value


def redact_line(line: str) -> str:
    """A log's line with the command lines that it quotes masked: sudo's, and earlyoom's."""
    line = _SUDO_ENV.sub(f"ENV={MASK} ; ", line)
    line = _SUDO_COMMAND.sub(lambda match: " ".join(redact_cmdline(match[0].split(" "))), line)
    return _EARLYOOM.sub(lambda match: f'cmdline "{_first_word(match[1])}"', line)


def _processes(record: Record) -> Iterator[Process]:
    if isinstance(record, (Signal, Attempt)):
        ends = (record.target, record.sender)
    elif isinstance(record, Death):
        ends = (record.process, None if record.cause is None else record.cause.sender)
    else:
        return
    yield from (end for end in ends if end is not None)


def _redact_text(sentence: str, process: Process) -> str:
    """A sentence with the command of a process masked, also where an ellipsis cuts it short."""
    whole = text.command(process.cmdline, process.comm)
    masked = text.command(
        None if process.cmdline is None else redact_cmdline(process.cmdline), process.comm
    )
    if whole == masked:
        return sentence
    sentence = sentence.replace(whole, masked)
    if "…" in sentence:
        program = text.command((process.cmdline or ("",))[:1], process.comm)
        for length in range(len(whole) - 1, len(program), -1):
            sentence = sentence.replace(whole[:length] + "…", masked)
    return sentence
