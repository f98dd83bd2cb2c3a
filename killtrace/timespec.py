"""Times, spans and sizes as people write them: `yesterday`, `2h ago`, ISO 8601, `30d`, `1G`.

Pure: the time that counts as now is handed in.  What makes no sense is a ValueError whose text
says what would.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta, timezone

_NS = 1_000_000_000
_SECONDS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
    "w": 7 * 86400,
    "week": 7 * 86400,
}
_SHIFTS = {"k": 10, "m": 20, "g": 30, "t": 40}
_PART = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]+)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?", re.ASCII)
_ISO = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[t ]\s*(\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)"
    r"\s*(z|utc|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)(?:i?b)?", re.ASCII)
_TIME_HELP = "give `yesterday`, `2h ago`, `14:30`, or ISO 8601 like 2026-11-22T14:30"


def parse_span(text: str) -> int:
    """Nanoseconds of `90s`, `15m`, `12h`, `30d`, `2w`, `1h 30min`; ValueError."""
    rest = text.strip().lower()
    total = 0.0
    while rest:
        match = _PART.match(rest)
        unit = match[2] if match else ""
        if len(unit) > 2:
            unit = unit.removesuffix("s")
        factor = _SECONDS.get(unit)
        if match is None or factor is None:
            break
        total += float(match[1]) * factor
        rest = rest[match.end() :].lstrip(" ,")
    if rest or not 0 < total < 1e10:
        raise ValueError(f"{text!r} is no span of time; give 90s, 15m, 12h, 30d or 2w")
    return int(total * _NS)


def parse_size(text: str) -> int:
    """Bytes of `500M`, `1G`, `1.5GiB`, `1048576`; the powers are of 1024; ValueError."""
    match = _SIZE.fullmatch(text.strip().lower())
    size = int(float(match[1]) * (1 << _SHIFTS.get(match[2], 0))) if match else 0
    if not 0 < size < 1 << 60:
        raise ValueError(f"{text!r} is no size; give bytes, or 500M, 1G")
    return size


def parse_time(text: str, now_ns: int, zone: timezone | None = None) -> int:
    """Nanoseconds since the epoch, of a time as a person writes it; ValueError.

    `now`, `today` and `yesterday` (their midnights, or with a time of day behind them), `2h ago`,
    `14:30` (of today), `@1795445051` (seconds since the epoch), ISO 8601 with or without a time
    and an offset.  What names no offset is in `zone`, None for the machine's own.
    """
    word = " ".join(text.strip().lower().split())
    now = datetime.fromtimestamp(now_ns // _NS, tz=timezone.utc).astimezone(zone)
    try:
        found = _relative(word, now_ns)
        if found is None:
            found = _day_and_clock(word, now, zone)
        if found is None:
            found = _iso(word, zone)
    except (ValueError, OverflowError, OSError):
        found = None
    if found is None or not 0 <= found < 1 << 62:
        raise ValueError(f"{text!r} is no time; {_TIME_HELP}")
    return found


def _relative(word: str, now_ns: int) -> int | None:
    if word == "now":
        return now_ns
    if word.endswith(" ago"):
        return now_ns - parse_span(word.removesuffix(" ago"))
    if re.fullmatch(r"@\d{1,11}(\.\d{1,9})?", word, re.ASCII):
        seconds, _, fraction = word[1:].partition(".")
        return int(seconds) * _NS + int(fraction.ljust(9, "0"))
    return None


def _day_and_clock(word: str, now: datetime, zone: timezone | None) -> int | None:
    day, _, clock = word.partition(" ")
    days = {"today": 0, "yesterday": 1}.get(day)
    if days is None:
        days, clock = 0, word or "?"
    match = _CLOCK.fullmatch(clock)
    if clock and match is None:
        return None
    moment, fraction_ns = _clock(clock) if clock else (time(), 0)
    date = (now - timedelta(days=days)).date()
    return _epoch_ns(datetime.combine(date, moment), zone, fraction_ns)


def _iso(word: str, zone: timezone | None) -> int | None:
    match = _ISO.fullmatch(word)
    if match is None:
        return None
    day = datetime.strptime(match[1], "%Y-%m-%d")
    moment, fraction_ns = _clock(match[2].replace(",", ".")) if match[2] else (time(), 0)
    naive = datetime.combine(day.date(), moment)
    if match[3]:
        zone = _offset(match[3])
    return _epoch_ns(naive, zone, fraction_ns)


def _offset(text: str) -> timezone:
    if text in ("z", "utc"):
        return timezone.utc
    hours, minutes = int(text[1:3]), int(text[-2:])
    span = timedelta(hours=hours, minutes=minutes)
    return timezone(-span if text[0] == "-" else span)


def _clock(text: str) -> tuple[time, int]:
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(text)
    moment = time(int(match[1]), int(match[2]), int(match[3] or 0))
    return moment, int((match[4] or "0").ljust(9, "0"))


def _epoch_ns(naive: datetime, zone: timezone | None, fraction_ns: int) -> int:
    # The machine's own zone decides for each date anew: offsets change with summer time.
    aware = naive.replace(tzinfo=zone) if zone is not None else naive.astimezone()
    return int(aware.timestamp()) * _NS + fraction_ns
