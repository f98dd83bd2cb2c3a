"""Why a userspace OOM killer chose its victim: what the daemon logged at that moment."""

from __future__ import annotations

import re
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from killtrace.model import Process
from killtrace.text import decode

_NS = 1_000_000_000
# systemd-oomd logs when it has killed all of a cgroup, the others before they kill.
_PATIENCE_S, _PAUSE_S = 0.25, 0.05
_JOURNALCTL_S = 0.5
_BEFORE_NS = 10 * _NS
_TAIL = 1 << 16
_MAX_KNOWN = 256

_OOMD = re.compile(r"\b(?:Killed|Marked) (?P<cgroup>/\S*)[^/]*? due to (?P<reason>.+)")
_FACEBOOK = re.compile(
    r"oomd kill: [\d.]+ [\d.]+ [\d.]+ (?P<cgroup>\S+) \d+ (?P<reason>ruleset:.+)"
)
_EARLYOOM = re.compile(r"sending SIG\w+ to process (?P<pid>\d+) ")
_EARLYOOM_WHY = re.compile(r"low memory! at or below SIG\w+ limits.*")
_NOHANG_WHY = "Memory status that requires corrective actions:"
# A line of syslog: what stands before the daemon's own words.
_SYSLOG = re.compile(r"^.*? (?P<name>[\w.-]+)\[(?P<pid>\d+)\]: (?P<text>.*)$")

Lines = Callable[[Process, int], Sequence[str]]


def reason_in(lines: Sequence[str], target: Process) -> str | None:
    """The reason for killing `target` in a daemon's lines, oldest first; None where none is."""
    for at in range(len(lines) - 1, -1, -1):
        line = lines[at]
        found = _OOMD.search(line) or _FACEBOOK.search(line)
        if found is not None and _is_in(target.cgroup, found["cgroup"]):
            return found["reason"].strip()
        sending = _EARLYOOM.search(line)
        if sending is not None and int(sending["pid"]) == target.pid:
            before = (_EARLYOOM_WHY.search(text) for text in reversed(lines[max(at - 6, 0) : at]))
            why = next((match[0].strip() for match in before if match), None)
            return why or line[sending.start() :].strip()
        if _NOHANG_WHY in line:
            details = []
            for text in lines[at + 1 :]:
                if not text.startswith("  "):
                    break
                details.append(text.strip())
            return "; ".join(details) or None
    return None


def _is_in(cgroup: str | None, killed: str) -> bool:
    path, top = (cgroup or "").strip("/"), killed.strip("/")
    return bool(top) and (path == top or path.startswith(top + "/"))


class OomReasons:
    """Asks the logs, at most for a moment: the signal is told without a reason, rather than late.

    One act has one reason: the victims of a cgroup that come within a second share it.
    """

    def __init__(
        self,
        sources: Sequence[Lines] | None = None,
        pause: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = (journal_lines, syslog_lines) if sources is None else sources
        self._pause = pause
        self._monotonic = monotonic
        self._silent: dict[int, int] = {}
        self._known: OrderedDict[tuple[int, str | None], tuple[int, str | None]] = OrderedDict()

    def __call__(self, daemon: Process, target: Process, wall_ns: int) -> str | None:
        """Why `daemon` signalled `target` at this wall time, or None."""
        key = (daemon.pid, target.cgroup if target.cgroup not in (None, "/") else str(target.pid))
        known = self._known.get(key)
        if known is not None and abs(wall_ns - known[0]) <= _NS:
            return known[1]
        if abs(wall_ns - self._silent.get(daemon.pid, -_NS)) < _NS:
            return None  # it logs elsewhere: its next victims need not wait for it
        reason = self._ask(daemon, target, wall_ns)
        if reason is None:
            self._silent = {daemon.pid: wall_ns}
        self._known[key] = wall_ns, reason
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return reason

    def _ask(self, daemon: Process, target: Process, wall_ns: int) -> str | None:
        give_up = self._monotonic() + _PATIENCE_S
        while True:
            heard = False
            for source in self._sources:
                lines = source(daemon, wall_ns)
                heard = heard or bool(lines)
                found = reason_in(lines, target)
                if found is not None:
                    return found
            # A daemon that has logged nothing of late logs elsewhere, or not yet: one more look.
            if self._monotonic() + _PAUSE_S >= give_up:
                return None
            self._pause(_PAUSE_S if heard else _PATIENCE_S / 2)


def journal_lines(daemon: Process, wall_ns: int) -> Sequence[str]:
    """What the journal has of the daemon from the last seconds; [] where there is no journal."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=200"]
    command += [f"--since=@{(wall_ns - _BEFORE_NS) // _NS}", f"_PID={daemon.pid}"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_JOURNALCTL_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return decode(done.stdout).splitlines()


def syslog_lines(daemon: Process, _: int, logs: Path = Path("/var/log")) -> Sequence[str]:
    """The daemon's lines at the end of the system log, without their heads; [] without a log."""
    for name in ("syslog", "messages", "daemon.log"):
        try:
            with (logs / name).open("rb") as file:
                file.seek(max(file.seek(0, 2) - _TAIL, 0))
                rows = decode(file.read()).splitlines()
        except OSError:
            continue
        matches = (_SYSLOG.match(row) for row in rows)
        found = [match["text"] for match in matches if match and int(match["pid"]) == daemon.pid]
        if found:
            return found
    return []
