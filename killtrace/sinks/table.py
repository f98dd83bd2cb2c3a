"""Records as a table for people: one aligned line a signal, and one a death when it comes."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import TextIO

from killtrace import signames, text
from killtrace.command_line import base_name
from killtrace.describe import size
from killtrace.model import Ancestor, Attempt, Death, Lost, Origin, Process, Record, Signal
from killtrace.requester import BECOMES
from killtrace.senders import tells_of_a_manager, tells_of_a_timeout
from killtrace.sinks.acts import Acts, victims

_NS = 1_000_000_000
_TIME_WIDTH, _SIGNAL_WIDTH, _TARGET_SHARE = 8, 9, 0.28
_GAP = "  "
_CHAIN = 4
_DIM, _RED, _BOLD, _YELLOW, _RESET = "\033[2m", "\033[31m", "\033[1m", "\033[33m", "\033[0m"
_NOISE_KINDS = {"session-exit", "hangup", "orphaned-group", "pid-namespace", "oom", "cgroup-kill"}
_RESULT_WORDS = {
    "already_pending": "already pending",
    "overflow": "queue full",
    "lost_info": "",
    "ignored": "ignored",
    "delivered": "",
}


def wants_colour(out: TextIO) -> bool:
    """Colour only on a terminal, and not where NO_COLOR is set (no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_width(out: TextIO) -> int:
    """The terminal's columns; 100 where it is none."""
    return shutil.get_terminal_size((100, 24)).columns if out.isatty() else 100


class TableSink:
    """Writes aligned lines; hides what kills nobody, and counts it (`hidden`)."""

    def __init__(
        self,
        out: TextIO,
        *,
        width: int | None = None,
        dates: bool = False,
        verdicts: bool = False,
    ) -> None:
        self._out = out
        self._fixed_width = width
        self._colour = wants_colour(out)
        self._dates = dates
        # A death alone, as --wait shows it, needs its cause said with it.
        self._verdicts = verdicts
        self._header_done = False
        self._acts = Acts()
        self._hidden_targets: dict[tuple[int, int | None], bool] = {}
        self.hidden = 0

    @property
    def _width(self) -> int:
        return self._fixed_width or max(terminal_width(self._out), 60)

    def write(self, record: Record) -> bool:
        """Write one record's lines; False: it was hidden, and counted."""
        if self._is_noise(record):
            self.hidden += 1
            return False
        if not self._acts.take(record):
            self._end_act()
            if not self._acts.take(record):
                self._show(record)
        return True

    def _end_act(self) -> None:
        for held in self._acts.release():
            if isinstance(held, Death):
                self._show(held)
            elif len(held) == 1:
                self._show(held[0])
            else:
                self._act(held)

    def _show(self, record: Record) -> None:
        if not self._verdicts:
            self._header()
        if isinstance(record, Signal):
            self._signal(record)
        elif isinstance(record, Death):
            self._death(record)
        elif isinstance(record, Attempt):
            self._attempt(record)
        else:
            self._lost(record)

    def end_round(self) -> None:
        """Write what is held back, and flush."""
        self._end_act()
        self._out.flush()

    def close(self) -> None:
        """Write what is held back, and flush; on stderr, what was hidden."""
        self._end_act()
        self._out.flush()
        if self.hidden:
            records = "record" if self.hidden == 1 else "records"
            print(
                f"killtrace: {self.hidden} {records} of signals that killed nobody not shown"
                " (--format json shows all)",
                file=sys.stderr,
            )

    # --- noise ---------------------------------------------------------------------------------

    def _is_noise(self, record: Record) -> bool:
        if isinstance(record, Signal):
            quiet = record.result != "delivered" and record.origin.kind in _NOISE_KINDS
            key = (record.target.pid, record.target.start_time_ns)
            self._hidden_targets[key] = quiet and self._hidden_targets.get(key, True)
            if len(self._hidden_targets) > 65536:
                self._hidden_targets.clear()
            return quiet
        if isinstance(record, Death):
            key = (record.process.pid, record.process.start_time_ns)
            quiet = self._hidden_targets.pop(key, False)
            return quiet and record.cause is None
        return False

    # --- lines ---------------------------------------------------------------------------------

    def _header(self) -> None:
        if not self._header_done:
            self._header_done = True
            self._line("TIME", "SIGNAL", "TARGET", "ORIGIN", style=_BOLD)

    def _line(self, when: str, what: str, target: str, origin: str, *, style: str = "") -> None:
        time_width = 19 if self._dates else _TIME_WIDTH
        left = time_width + _SIGNAL_WIDTH + 2 * len(_GAP)
        target_width = max(int((self._width - left) * _TARGET_SHARE), 16)
        room = max(self._width - left - target_width - len(_GAP), 20)
        first, *rest = textwrap.wrap(origin, room, break_on_hyphens=False) or [""]
        if len(target) > target_width:
            target = target[: target_width - 1] + "…"
        head = f"{when:<{time_width}}{_GAP}{what:<{_SIGNAL_WIDTH}}{_GAP}{target:<{target_width}}"
        lines = [f"{head}{_GAP}{first}".rstrip()]
        lines += [" " * (left + target_width + len(_GAP)) + more for more in rest]
        self._emit(lines, style)

    def _emit(self, lines: list[str], style: str) -> None:
        for line in lines:
            shown = f"{style}{line}{_RESET}" if style and self._colour else line
            self._out.write(shown + "\n")

    def _signal(self, record: Signal) -> None:
        origin = origin_text(record.origin, record.sender)
        noted = _notes(record)
        self._line(
            self._clock(record.time_ns),
            signames.name(record.signo),
            target_text(record.target),
            f"{origin} ({noted})" if noted else origin,
        )

    def _act(self, signals: list[Signal]) -> None:
        """One line for one call that reached several processes."""
        self._header()
        first = signals[0]
        named = victims(signals, [_notes(signal) for signal in signals])
        self._line(
            self._clock(first.time_ns),
            signames.name(first.signo),
            f"{len(signals)} processes",
            f"{origin_text(first.origin, first.sender)}: {named}",
        )

    def _death(self, record: Death) -> None:
        when = self._clock(record.time_ns) if self._dates else ""
        verb, sentence = death_text(record)
        if self._verdicts:
            self._emit([f"{verb} {sentence}", *cause_lines(record)], "")
            return
        time_width = 19 if self._dates else _TIME_WIDTH
        indent = time_width + _SIGNAL_WIDTH + 2 * len(_GAP)
        wrapped = textwrap.wrap(sentence, max(self._width - indent, 30), break_on_hyphens=False)
        lines = [f"{when:<{time_width}}{_GAP}{verb:<{_SIGNAL_WIDTH}}{_GAP}{wrapped[0]}"]
        lines += [" " * indent + more for more in wrapped[1:]]
        self._emit(lines, _RED if verb == "died" else _DIM)

    def _attempt(self, record: Attempt) -> None:
        target = "?" if record.target is None else target_text(record.target)
        origin = f"refused with {record.errno}: {chain_text(record.sender)} ({record.syscall})"
        self._line(
            self._clock(record.time_ns), signames.name(record.signo), target, origin, style=_DIM
        )

    def _lost(self, record: Lost) -> None:
        line = f"{self._clock(record.time_ns)}{_GAP}LOST       {record.count} events"
        self._emit([f"{line}: the {record.buffer} buffer was full"], _YELLOW)

    def _clock(self, time_ns: int) -> str:
        stamp = datetime.fromtimestamp(time_ns // _NS)
        return f"{stamp:%Y-%m-%d %H:%M:%S}" if self._dates else f"{stamp:%H:%M:%S}"


def _notes(record: Signal) -> str:
    notes = [_RESULT_WORDS[record.result]]
    if record.repeats:
        notes.append(f"{record.repeats + 1} times more")
    if record.scope == "thread" and record.target.tid not in (None, record.target.pid):
        notes.append(f"to thread {record.target.tid}")
    # Where somebody asked for it, that is what is not proven, and it is said there.
    if not record.origin.certain and record.origin.detail.get("requester") is None:
        notes.append("probably")
    return ", ".join(note for note in notes if note)


def target_text(process: Process) -> str:
    """4716 sleep 100."""
    command = text.command(short(process.cmdline), process.comm)
    if process.container is not None:
        command = f"[{text.escape(process.container.name or process.container.runtime)}] {command}"
    return f"{process.pid} {command}"


def short(cmdline: Sequence[str] | None) -> Sequence[str] | None:
    """A command line with its program by name, without the folder; JSON has the whole."""
    if not cmdline:
        return cmdline
    return [cmdline[0].rpartition("/")[2] or cmdline[0], *cmdline[1:]]


def chain_text(process: Process) -> str:
    """4681 pkill sleep ← bash ← sshd (alice, pts/0)."""
    parts = [f"{process.pid} {text.command(short(process.cmdline), process.comm, 72)}"]
    names = [_ancestor_text(step) for step in process.ancestors if step.pid != 1]
    # A shell in a shell in a shell: once says as much.
    parts += [name for name, _ in groupby(names)][:_CHAIN]
    who = [process.user or (None if process.uid is None else f"uid {process.uid}")]
    who.append(process.tty.removeprefix("/dev/") if process.tty else None)
    noted = ", ".join(text.escape(word) for word in who if word)
    return " ← ".join(parts) + (f" ({noted})" if noted else "")


def _ancestor_text(step: Ancestor) -> str:
    # The name of one that is gone may be unknown: a script's, or its interpreter's.
    return text.escape(step.comm or base_name((step.cmdline or ("?",))[0]))


def origin_text(origin: Origin, sender: Process | None) -> str:
    """What stands in the ORIGIN column."""
    if origin.kind != "process" or sender is None:
        return origin.summary
    requester, via = origin.detail.get("requester"), origin.detail.get("via")
    words = origin.summary.partition("; probably asked by ")[0].partition("; asked by ")[0]
    by_manager = tells_of_a_manager(words)
    shown = words if by_manager else chain_text(sender)
    group = origin.detail.get("group")
    if group == -1:
        shown += " to every process"
    elif group is not None:
        shown += f" to group {group}"
    if tells_of_a_timeout(words):
        shown += f": {words}"
    if not isinstance(requester, Process):
        return shown
    if via in BECOMES:  # sudo pkill: the chain has it, but for who typed it
        by_another = requester.user is not None and requester.user != sender.user
        return shown + (f"; typed by {text.escape(requester.user or '')}" if by_another else "")
    probably = "" if origin.certain else "probably "
    by = f" via {text.escape(via)}" if via and not by_manager else ""
    return f"{shown}; {probably}asked by {chain_text(requester)}{by}"


def death_text(record: Death) -> tuple[str, str]:
    """("died", "4716 of SIGTERM after 0.4 ms") or ("exited", …)."""
    command = text.command(short(record.process.cmdline), record.process.comm, 40)
    who = f"{record.process.pid} {command}"
    after = "" if record.elapsed_ns is None else f" after {span(record.elapsed_ns)}"
    if record.exit.signal is not None:
        core = ", core dumped" if record.exit.core_dumped else ""
        name = signames.name(record.exit.signal)
        return "died", f"{who} of {name}{after}{core}"
    status = record.exit.status
    if record.cause is None:
        return "exited", f"{who} with status {status}, by itself"
    name = signames.name(record.cause.signo)
    return "exited", f"{who} with status {status}{after}, having handled {name}"


def cause_lines(record: Death) -> list[str]:
    """What led to a death, a line a signal, and the cause in words."""
    lines = []
    for brief in record.signals:
        who = f" from {brief.sender_pid} {text.escape(brief.sender_comm or '?')}"
        sent = who if brief.sender_pid is not None else f" ({brief.origin_kind})"
        word = _RESULT_WORDS[brief.result]
        more = f", {brief.repeats + 1} times more" if brief.repeats else ""
        noted = f", {word}" if word else ""
        stamp = datetime.fromtimestamp(brief.time_ns // _NS)
        lines.append(f"  {stamp:%H:%M:%S}  {signames.name(brief.signo)}{sent}{noted}{more}")
    if record.cause is not None:
        lines.append(f"  cause     {origin_text(record.cause.origin, record.cause.sender)}")
    return lines


def span(elapsed_ns: int) -> str:
    """0.4 ms, 12 ms, 1.5 s, 3 min."""
    if elapsed_ns < 10_000_000:
        return f"{elapsed_ns / 1e6:.1f} ms"
    if elapsed_ns < _NS:
        return f"{elapsed_ns / 1e6:.0f} ms"
    if elapsed_ns < 120 * _NS:
        return f"{elapsed_ns / 1e9:.1f} s"
    return f"{elapsed_ns / 60e9:.0f} min"


__all__ = [
    "TableSink",
    "chain_text",
    "death_text",
    "origin_text",
    "size",
    "span",
    "target_text",
]
