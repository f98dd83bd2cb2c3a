"""Signal names and numbers, as signal(7) spells them."""

from __future__ import annotations

import signal as _signal

DEFAULT_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGTERM")

# Signals whose default action does not end a process: signal(7), "Ign", "Stop" and "Cont".
_HARMLESS = {"SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"}
_NAME_BY_NUMBER = {int(s): s.name for s in _signal.Signals}
_ALIASES = {"SIGCLD": "SIGCHLD", "SIGPOLL": "SIGIO", "SIGIOT": "SIGABRT", "SIGUNUSED": "SIGSYS"}

# What a shell calls the real-time range: the C library keeps 32 and 33 for itself.
_RTMIN, _RTMAX = 34, 64


def name(signo: int) -> str:
    """Name a signal: 15 is "SIGTERM", 36 is "SIGRTMIN+2"; 32 and 33 are the C library's own."""
    if signo in _NAME_BY_NUMBER:
        return _NAME_BY_NUMBER[signo]
    if _RTMIN < signo < _RTMAX:
        return f"SIGRTMIN+{signo - _RTMIN}"
    return f"SIG{signo}"


def number(text: str) -> int | None:
    """Turn "TERM", "sigterm", "15" or "RTMIN+2" into a number 1..64; None where it is none."""
    text = text.strip().upper()
    if text.isdecimal():
        return int(text) if 1 <= int(text) <= _RTMAX else None
    full = text if text.startswith("SIG") else f"SIG{text}"
    full = _ALIASES.get(full, full)
    if full.startswith("SIGRTMIN+") and full[9:].isdecimal():
        signo = _RTMIN + int(full[9:])
        return signo if signo <= _RTMAX else None
    if full.startswith("SIGRTMAX-") and full[9:].isdecimal():
        signo = _RTMAX - int(full[9:])
        return signo if signo >= _RTMIN else None
    if full[3:].isdecimal():
        return number(full[3:])
    found = [n for n, known in _NAME_BY_NUMBER.items() if known == full]
    return found[0] if found else None


def fatal() -> frozenset[int]:
    """All signals whose default action ends a process (signal(7): Term and Core)."""
    return frozenset(n for n in range(1, _RTMAX + 1) if name(n) not in _HARMLESS)
