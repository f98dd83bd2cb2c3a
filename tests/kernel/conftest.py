"""Fixtures of the tests on a real kernel: tracers, the stage, and what the machine must have."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import Stage, Tracer
from workloads.features import missing

# What must be here: a feature in this list that is missing is a failure, not a skip.
_MUST = {name for name in os.environ.get("KILLTRACE_MUST", "").split(",") if name}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs(*features): what the machine must have (tests/kernel/workloads/features.py); "
        "skipped where it has not, failed where KILLTRACE_MUST names it or is 'all'",
    )
    # nohup, and a shell's &, would leave these ignored in all that the tests start.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    features = [name for mark in item.iter_markers("needs") for name in mark.args]
    for feature in ("root", *features):
        reason = missing(feature)
        if reason is not None and _MUST & {feature, "all"}:
            pytest.fail(f"this machine must have {feature}: {reason}")
        if reason is not None:
            pytest.skip(f"needs {feature}: {reason}")


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Where workloads are played."""
    theatre = Stage()
    yield theatre
    theatre.close()


@pytest.fixture(scope="session")
def default_tracer() -> Iterator[Tracer]:
    """One killtrace for all tests that need no option of it."""
    with Tracer() as tracer:
        yield tracer


@pytest.fixture(scope="session")
def fatal_tracer() -> Iterator[Tracer]:
    """One killtrace for all tests of signals that are not traced by default."""
    with Tracer("--signal", "fatal") as tracer:
        yield tracer


@pytest.fixture
def tracer() -> Callable[..., Tracer]:
    """A killtrace of the test's own: `with tracer("--pid", "1") as killtrace:`."""
    return Tracer
