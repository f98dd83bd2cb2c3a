"""Standard output that failed: what is left in its buffer is given up."""

from __future__ import annotations

import os
import sys


def discard_stdout() -> None:
    """Let the interpreter's own flush at exit find nothing to complain about.

    Otherwise Python ends with 120 whatever status was asked for (Py_FinalizeEx).
    """
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # none, closed, or a test's
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
