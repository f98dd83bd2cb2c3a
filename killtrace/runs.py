"""Runs of identical signals: the first is told at once, the rest as one record with its repeats.

Pure.  The programs count repeats in one of two tables; the reader changes tables, and reads out
the one that rests (bpf/signal.c, kt_folded).  1 + repeats, summed over all records of a run, is
exactly how many signals it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from killtrace.model import Signal
from killtrace.order import SLACK_NS

PERIOD_NS = 200_000_000
# So many firsts, and the tables are changed sooner: each has KT_FOLD_ENTRIES (8192).
_MOST = 4096


class Run(NamedTuple):
    """The rest of a run, as the programs counted it: struct kt_fold; times are boot time."""

    fold_id: int
    repeats: int
    last_time_ns: int


class First(NamedTuple):
    """The signal that a run began with; `target` is its (tgid, start time)."""

    signal: Signal
    target: tuple[int, int]
    disposition: int


class Runs:
    """Remembers the first of each run until the rest of it was told.

    `change` makes the programs begin new runs in the other table, `read` empties the one that
    rests; `now_ns` is boot time.
    """

    def __init__(
        self,
        change: Callable[[], None],
        read: Callable[[], Iterable[Run]],
        now_ns: Callable[[], int],
    ) -> None:
        self._change, self._read, self._now_ns = change, read, now_ns
        self._firsts: dict[int, First] = {}
        self._resting: dict[int, First] | None = None
        self._changed_ns = now_ns()

    @property
    def are_resting(self) -> bool:
        """Whether a table waits to be read."""
        return self._resting is not None

    @property
    def are_open(self) -> bool:
        """Whether there are runs that may go on."""
        return bool(self._firsts)

    def begin(self, fold_id: int, first: First) -> None:
        """The first of a run was judged."""
        self._firsts[fold_id] = first

    def change(self) -> None:
        """Let the programs count in the other table from now on."""
        self._change()
        # Afterwards: a program that still used the old table has ended SLACK_NS after this.
        self._changed_ns = self._now_ns()
        self._resting, self._firsts = self._firsts, {}

    def upkeep(self, judged_before_ns: int) -> Iterator[tuple[Run, First | None]]:
        """What is due: the rest of each run, with its first; None: the first was lost.

        All records older than `judged_before_ns` (boot time) have been judged, and no other.
        """
        since_change_ns = judged_before_ns - self._changed_ns
        if self._resting is not None:
            # Only then the firsts of all these runs have been judged.
            if since_change_ns > SLACK_NS:
                yield from self._take(self._resting)
                self._resting = None
        elif self._firsts and (since_change_ns >= PERIOD_NS or len(self._firsts) >= _MOST):
            self.change()

    def _take(self, resting: dict[int, First]) -> Iterator[tuple[Run, First | None]]:
        for run in self._read():
            # A first that was generated before the change may have been judged after it.
            yield run, resting.get(run.fold_id) or self._firsts.get(run.fold_id)


def rest_of(run: Run, first: First, offset_ns: int) -> Signal:
    """The record of the rest of a run; `offset_ns` turns boot time into wall time."""
    return replace(first.signal, time_ns=run.last_time_ns + offset_ns, repeats=run.repeats - 1)
