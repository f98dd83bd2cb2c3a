"""Puts records of several CPUs' buffers in order of time, before they are judged."""

from __future__ import annotations

from bisect import bisect_left
from typing import Generic, TypeVar

Item = TypeVar("Item")

# A probe stamps its record, fills it and submits it with preemption off: far below this.
SLACK_NS = 2_000_000


class Orderer(Generic[Item]):
    """Holds items back until none that is older can still come.

    The reader notes the time, drains every buffer, and then releases what is older than that
    time less SLACK_NS: all such records had been submitted before the draining began.
    """

    def __init__(self) -> None:
        # Each buffer is in order almost: sorting what is made of such runs is merging them.  No
        # two have one number of arrival, so items themselves are never compared.
        self._held: list[tuple[int, int, Item]] = []
        self._sorted = True
        self._arrival = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, time_ns: int, item: Item) -> None:
        """Take in an item, in any order."""
        self._arrival += 1
        self._held.append((time_ns, self._arrival, item))
        self._sorted = False

    def release(self, before_ns: int, most: int | None = None) -> list[Item]:
        """The oldest items, `most` of them, that are older than `before_ns`, oldest first."""
        ripe = self._ripe(before_ns)
        if most is not None:
            ripe = min(ripe, most)
        released = [item for _, _, item in self._held[:ripe]]
        del self._held[:ripe]
        return released

    def has_older(self, before_ns: int) -> bool:
        """Whether `release` would give anything."""
        return self._ripe(before_ns) > 0

    def _ripe(self, before_ns: int) -> int:
        if not self._sorted:
            self._held.sort()
            self._sorted = True
        return bisect_left(self._held, (before_ns,))
