from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from killtrace.timespec import parse_size, parse_span, parse_time

ZONE = timezone(timedelta(hours=2))
NOW = datetime(2026, 11, 23, 15, 4, 11, tzinfo=ZONE)
NOW_NS = int(NOW.timestamp()) * 10**9 + 5
S = 10**9


def local(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()) * S


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW_NS),
        ("today", local("2026-11-23")),
        ("yesterday", local("2026-11-22")),
        ("Yesterday 14:30", local("2026-11-22T14:30")),
        ("today 02:10:05", local("2026-11-23T02:10:05")),
        ("14:30", local("2026-11-23T14:30")),
        ("2:07", local("2026-11-23T02:07")),
        ("2h ago", NOW_NS - 7200 * S),
        ("2 hours ago", NOW_NS - 7200 * S),
        ("1h 30min ago", NOW_NS - 5400 * S),
        ("30d ago", NOW_NS - 30 * 86400 * S),
        ("1.5 days ago", NOW_NS - 129600 * S),
        ("@1795445051", 1795445051 * S),
        ("@1795445051.25", 1795445051 * S + 250_000_000),
        ("2026-11-22", local("2026-11-22")),
        ("2026-11-22 14:30", local("2026-11-22T14:30")),
        ("2026-11-22T14:30:15", local("2026-11-22T14:30:15")),
        ("2026-11-22T14:30:15.000000001Z", local("2026-11-22T16:30:15") + 1),
        ("2026-11-22T14:30:15,5+00:00", local("2026-11-22T16:30:15") + 500_000_000),
        ("2026-11-22t14:30-0330", local("2026-11-22T20:00")),
        ("2026-11-22 14:30 UTC", local("2026-11-22T16:30")),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text, NOW_NS, ZONE) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "tomorrowish",
        "25:00",
        "14:61",
        "2026-13-01",
        "2026-02-30",
        "-1",
        "2h",
        "ago",
        "h ago",
        "-2h ago",
        "0s ago",
        "@",
        "@99999999999999",
        "1969-01-01",
        "2026-11-22T14:30+99:00",
        "2026-11-22T",
        "yesterday 25:00",
        "99999d ago",
        "\x1b[2J",
        "٢h ago",
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; give"):
        parse_time(text, NOW_NS, ZONE)


def test_the_machines_own_zone_counts_where_none_is_named() -> None:
    assert (
        parse_time("2026-11-22 14:30", NOW_NS)
        == int(datetime(2026, 11, 22, 14, 30).timestamp()) * S
    )


@given(st.text(max_size=20))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        assert parse_time(text, NOW_NS, ZONE) >= 0
    except ValueError as error:
        assert "is no time" in str(error)


@given(st.integers(0, 4_000_000_000))
def test_iso_times_come_back(seconds: int) -> None:
    text = datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat()
    assert parse_time(text, NOW_NS, ZONE) == seconds * S


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("15min", 900),
        ("12h", 43200),
        ("30d", 2592000),
        ("2w", 1209600),
        ("1h 30min", 5400),
        ("1h30m", 5400),
        ("3 days", 259200),
        ("1.5h", 5400),
        ("2 WEEKS", 1209600),
    ],
)
def test_spans(text: str, seconds: int) -> None:
    assert parse_span(text) == seconds * S


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0s", "1x", "1d 2", "1e9d", "nan", "1 ss"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError, match="is no span"):
        parse_span(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20),
        ("1G", 1 << 30),
        ("500m", 500 << 20),
        ("1.5GiB", 3 << 29),
        ("2 TB", 2 << 40),
        ("64k", 65536),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "1X", "1GG", "1e3", "99999999T"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)
