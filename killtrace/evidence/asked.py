"""Whether a command that was typed, as sudo logs it, may have asked for a death.  Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from killtrace import commands, senders
from killtrace.command_line import base_name, program
from killtrace.model import Process
from killtrace.requester import reaches

_BY_PID = frozenset({"kill", "skill"})
_BY_NAME = frozenset({"pkill", "killall"})
_MANAGER = Process(1, comm="systemd")


def is_request(command: Sequence[str]) -> bool:
    """Whether a command asks for the end of anything."""
    request = commands.parse(tuple(command))
    if request is not None:
        return not request.starts
    return program(command)[0] in _BY_PID | _BY_NAME


def may_have_asked(command: Sequence[str], process: Process, signo: int | None) -> bool:
    """Whether a command names this process: its pid, name, unit or container, or all there is.

    `signo` is what it died of; None where it exited.
    """
    request = commands.parse(tuple(command))
    if request is not None:
        fits = request.signo in (None, signo) or signo is None
        return fits and not request.starts and reaches(request, _MANAGER, process)
    name, args = program(command)
    if name in _BY_PID:
        return str(process.pid) in args or "-1" in args[1:]
    return name in _BY_NAME and _named(name, command, process)


def _named(tool: str, command: Sequence[str], process: Process) -> bool:
    wanted = senders.pattern(Process(0, cmdline=tuple(command)))
    if wanted is None:
        return False
    cmdline = process.cmdline or ()
    names = [name for name in (process.comm, base_name(cmdline[0]) if cmdline else None) if name]
    if tool == "killall":
        return not {word[:15] for word in wanted.split()}.isdisjoint(name[:15] for name in names)
    try:
        return any(re.search(wanted, text) for text in (*names, " ".join(cmdline)))
    except re.error:
        return False
