"""Output that fails: told as error 74, and what is left in the buffer of stdout given up."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

from killtrace.errors import OutputError

_T = TypeVar("_T")


class ClosedOutputError(Exception):
    """Who reads stdout has gone (`| head`): a quiet end, and no OSError, which click makes 1."""


class _Stdout:
    """Stdout, whose own failures can be told from those of any other file."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, content: str) -> int:
        """As TextIOBase.write; OutputError where it is full, ClosedOutputError on EPIPE."""
        return _told(lambda: int(self._stream.write(content)))

    def flush(self) -> None:
        """As TextIOBase.flush, with the errors of `write`."""
        _told(self._stream.flush)


def _told(work: Callable[[], _T]) -> _T:
    try:
        return work()
    except BrokenPipeError as error:
        raise ClosedOutputError from error
    except OSError as error:
        raise OutputError(
            f"records can't be written ({error.strerror})", "free space, or give another output"
        ) from error


@contextmanager
def guarded_stdout() -> Iterator[None]:
    """Within it, and at its end, a stdout that fails is OutputError or ClosedOutputError.

    What is left in the buffer then is given up, for the interpreter's own flush at exit would end
    with 120 whatever status was asked for (Py_FinalizeEx).
    """
    # None where the caller closed it (>&-): then every write fails, as write(2) would.
    stream: Any = sys.stdout or os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    stdout: Any = _Stdout(stream)
    try:
        with redirect_stdout(stdout):
            try:
                yield
            finally:
                stdout.flush()
    except (OutputError, ClosedOutputError):
        _discard(stream)
        raise


def _discard(stream: Any) -> None:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # closed, or a test's
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
