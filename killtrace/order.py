"""Puts records of several CPUs' buffers in order of time, before they are judged."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from killtrace.decode import RawRecord

# A probe stamps its record, fills it and submits it with preemption off: far below this.
SLACK_NS = 2_000_000


class Orderer:
    """Holds records back until none that is older can still come.

    The reader notes the time, drains every buffer, and then releases what is older than that
    time less SLACK_NS: all such records had been submitted before the draining began.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, RawRecord]] = []
        self._arrival = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, record: RawRecord) -> None:
        """Take in a record, in any order."""
        self._arrival += 1
        heapq.heappush(self._heap, (record.time_ns, self._arrival, record))

    def release(self, before_ns: int) -> Iterator[RawRecord]:
        """The records older than `before_ns` (boot time), oldest first."""
        while self._heap and self._heap[0][0] < before_ns:
            yield heapq.heappop(self._heap)[2]
