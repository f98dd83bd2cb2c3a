"""Records of several CPUs come out in order of time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from records import signal

from killtrace.decode import RawSignal
from killtrace.order import Orderer


@given(st.lists(st.integers(0, 50)), st.integers(0, 50))
def test_what_is_ripe_comes_in_order_and_the_rest_stays(times: list[int], now: int) -> None:
    orderer = Orderer[RawSignal]()
    for time_ns in times:
        orderer.add(time_ns, signal(time_ns=time_ns))
    ripe = sorted(time_ns for time_ns in times if time_ns < now)
    assert orderer.has_older(now) == bool(ripe)
    released = [record.time_ns for record in orderer.release(now, 2)]
    assert released == ripe[:2]
    released += [record.time_ns for record in orderer.release(now)]
    assert released == ripe
    assert len(orderer) == len(times) - len(released)
    assert [r.time_ns for r in orderer.release(1 << 62)] == sorted(t for t in times if t >= now)


def test_equal_times_keep_their_order() -> None:
    orderer = Orderer[RawSignal]()
    for signo in (1, 2, 3):
        orderer.add(7, signal(time_ns=7, signo=signo))
    assert [record.signo for record in orderer.release(8)] == [1, 2, 3]
