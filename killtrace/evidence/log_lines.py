"""Kernel log lines out of every shape in which they are kept: dmesg, /dev/kmsg, syslog, journal."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from killtrace.evidence.kernel_log import KernelLine

_NS = 1_000_000_000
_KMSG = re.compile(r"^(?P<priority>\d+),\d+,(?P<us>\d+),[^;]*;(?P<text>.*)$")
_DMESG = re.compile(r"^(?:<\d+>)?\[ *(?P<s>\d+)\.(?P<us>\d{6})\](?:\[[^\]]*\])? ?(?P<text>.*)$")
_DMESG_DATE = re.compile(r"^\[(?P<date>\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4})\] ?(?P<text>.*)$")
_ISO = re.compile(
    r"^(?P<date>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](?P<part>\d+))?(?P<zone>Z|[+-]\d\d:?\d\d)?"
    r" (?:\S+ )?(?:kernel:)? ?(?P<text>.*)$"
)
_BSD = re.compile(r"^(?P<date>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) \S+ kernel: ?(?P<text>.*)$")
_INNER = re.compile(r"^\[ *\d+\.\d{6}\] ?")


def lines_of(
    rows: Iterable[str], *, boot_ns: int | None = None, now_ns: int = 0
) -> Iterator[KernelLine]:
    """Kernel lines from a log's rows, whichever of the known shapes each has.

    `boot_ns` is the wall time of the boot that dmesg's own times count from, None if it is not
    known; `now_ns` gives the year that BSD syslog leaves out.
    """
    for row in rows:
        yield _line(row.rstrip("\n"), boot_ns, now_ns)


def _line(row: str, boot_ns: int | None, now_ns: int) -> KernelLine:
    if match := _KMSG.match(row):
        since_ns = int(match["us"]) * 1000
        return KernelLine(match["text"], None if boot_ns is None else boot_ns + since_ns)
    if match := _DMESG.match(row):
        since_ns = int(match["s"]) * _NS + int(match["us"]) * 1000
        return KernelLine(match["text"], None if boot_ns is None else boot_ns + since_ns)
    if match := _DMESG_DATE.match(row):
        return KernelLine(match["text"], _local(match["date"], "%a %b %d %H:%M:%S %Y"))
    if match := _ISO.match(row):
        return KernelLine(_bare(match["text"]), _iso(match))
    if match := _BSD.match(row):
        return KernelLine(_bare(match["text"]), _without_year(match["date"], now_ns))
    return KernelLine(row)


def _bare(text: str) -> str:
    return _INNER.sub("", text.removeprefix("kernel: "), count=1)


def _local(text: str, shape: str) -> int | None:
    try:
        return int(datetime.strptime(text, shape).timestamp()) * _NS
    except (ValueError, OverflowError, OSError):
        return None


def _iso(match: re.Match[str]) -> int | None:
    try:
        stamp = datetime.strptime(match["date"], "%Y-%m-%dT%H:%M:%S")
        zone = match["zone"]
        if zone == "Z":
            stamp = stamp.replace(tzinfo=timezone.utc)
        elif zone:
            stamp = datetime.strptime(match["date"] + zone, "%Y-%m-%dT%H:%M:%S%z")
        part = int((match["part"] or "0").ljust(9, "0")[:9])
        return int(stamp.timestamp()) * _NS + part
    except (ValueError, OverflowError, OSError):
        return None


def _without_year(text: str, now_ns: int) -> int | None:
    """A BSD syslog time: the latest year in which it is not in the future."""
    now = datetime.fromtimestamp(now_ns / _NS)
    for year in (now.year, now.year - 1):
        when = _local(f"{year} {text}", "%Y %b %d %H:%M:%S")
        if when is not None and when <= now_ns + 86400 * _NS:
            return when
    return None


def open_log(path: Path) -> Iterator[str]:
    """A log file's rows, compressed (.gz, .xz, .bz2) or not; OSError or EOFError if it fails."""
    opener = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8", errors="surrogateescape") as file:  # type: ignore[operator]
        yield from file
