"""What stands in a perf buffer is taken apart without being believed."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from killtrace.probe.ring import samples

PERF_RECORD_LOST, PERF_RECORD_SAMPLE = 2, 9


def sample(data: bytes) -> bytes:
    """As the kernel writes it: the raw size counts the padding to 8 bytes, less its own 4."""
    padded = data + bytes(-(len(data) + 4) % 8)
    size = 8 + 4 + len(padded)
    return struct.pack("=IHHI", PERF_RECORD_SAMPLE, 0, size, len(padded)) + padded


def lost(count: int) -> bytes:
    return struct.pack("=IHHQQ", PERF_RECORD_LOST, 0, 24, 1, count)


@given(st.lists(st.one_of(st.binary(max_size=100), st.integers(0, 9))))
def test_samples_come_out_as_they_went_in(items: list[bytes | int]) -> None:
    taken = b"".join(lost(each) if isinstance(each, int) else sample(each) for each in items)
    wanted = [each for each in items if not isinstance(each, int)]
    found = list(samples(taken))
    assert [data[: len(each)] for data, each in zip(found, wanted, strict=True)] == wanted
    assert all(
        len(data) - len(each) < 8 and not any(data[len(each) :])
        for data, each in zip(found, wanted, strict=True)
    )


@given(st.binary(max_size=200))
def test_anything_else_does_no_harm(junk: bytes) -> None:
    assert sum(map(len, samples(junk))) <= len(junk) * 2
