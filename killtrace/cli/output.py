"""Output that fails: told as error 74, and what is left in the buffer of stdout given up."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from killtrace.errors import OutputError


def discard_stdout() -> None:
    """Let the interpreter's own flush at exit find nothing to complain about.

    Otherwise Python ends with 120 whatever status was asked for (Py_FinalizeEx).
    """
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # none, closed, or a test's
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def guarded(write: Callable[[], Any]) -> Any:
    """Run a write; a full or broken output is OutputError (74), a closed pipe passes."""
    try:
        return write()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"records can't be written ({error.strerror})", "free space, or give another output"
        ) from error
