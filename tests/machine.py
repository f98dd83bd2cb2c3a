"""The machine that tests run on: how slow it is, and how killtrace is called there."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Emulated guests need some ten times as long: KILLTRACE_TEST_SLOW=10.
SLOW = float(os.environ.get("KILLTRACE_TEST_SLOW", "1"))


def seconds(quick: float) -> float:
    """A deadline for this machine, from the one that a quick machine keeps."""
    return quick * SLOW


def command() -> list[str]:
    """How killtrace is called: KILLTRACE_CMD, or this checkout's module."""
    given = os.environ.get("KILLTRACE_CMD")
    return shlex.split(given) if given else [sys.executable, "-m", "killtrace"]


def until(condition: Callable[[], T], what: str, quick_s: float = 10.0) -> T:
    """What `condition` returns once it is true; AssertionError when the deadline has passed."""
    deadline = time.monotonic() + seconds(quick_s)
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds(quick_s):.0f} s: {what}"
        time.sleep(0.01)  # between two looks, not instead of one


def quickest(action: Callable[[], T], runs: int = 5) -> tuple[float, T]:
    """The least time of several runs in seconds, and what the last one returned.

    The least, since other work on the machine only ever adds to it.
    """
    least_s = math.inf
    for _ in range(runs):
        began = time.monotonic()
        result = action()
        least_s = min(least_s, time.monotonic() - began)
    return least_s, result
