"""Text from strangers, made safe to show."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def escape(text: str) -> str:
    r"""Escape control characters, so that a process's name can't drive the terminal.

    C0, DEL, C1, bidirectional overrides, other unprintable characters and lone surrogates (bytes
    that are no UTF-8) come out as \xNN or \uNNNN; all else stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def decode(raw: bytes) -> str:
    """Bytes of a name, argument or path as text; nothing is lost (surrogateescape)."""
    return raw.decode("utf-8", "surrogateescape")


def command(cmdline: Sequence[str] | None, comm: str | None, limit: int | None = None) -> str:
    """A command as a shell would take it, escaped, cut to `limit` columns with an ellipsis."""
    text = shlex.join(cmdline) if cmdline else (comm or "?")
    text = escape(text)
    if limit is not None and len(text) > limit:
        return text[: max(limit - 1, 0)] + "…"
    return text
