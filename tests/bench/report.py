"""The table: for the terminal, and for docs/overhead.md."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable
from pathlib import Path

from rows import Row
from tabulate import tabulate

PAGE = Path(__file__).resolve().parents[2] / "docs/overhead.md"
_BEGIN, _END = "<!-- table: written by tests/bench -->", "<!-- end of table -->"
_HEADERS = ("what", "", "min", "median", "max", "wanted", "met")


def table(rows: Iterable[Row], style: str = "simple") -> str:
    return tabulate([_cells(row) for row in rows], headers=_HEADERS, tablefmt=style)


def _cells(row: Row) -> tuple[str, ...]:
    figures = (min(row.values), statistics.median(row.values), max(row.values))
    met = {True: "yes", False: "no", None: ""}[row.met()]
    return (row.what, row.unit, *map(_figure, figures), row.wanted, met)


def _figure(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}"


def machine() -> str:
    """One line on what the figures were measured with."""
    version = subprocess.run(["bpftrace", "--version"], capture_output=True, text=True, check=False)
    return (
        f"Linux {platform.release().split('-')[0]} on {platform.machine()},"
        f" {os.cpu_count()} CPUs, Python {platform.python_version()},"
        f" {version.stdout.strip() or 'no bpftrace'}"
    )


def write_page(rows: Iterable[Row], rounds: int) -> None:
    """Put the table into docs/overhead.md."""
    head = f"Measured on {machine()}; {rounds} rounds."
    text = f"{_BEGIN}\n{head}\n\n{table(rows, 'github')}\n{_END}"
    page = PAGE.read_text()
    new, count = re.subn(
        re.escape(_BEGIN) + ".*?" + re.escape(_END), lambda _: text, page, flags=re.S
    )
    assert count == 1, f"{PAGE} has no place for the table"
    PAGE.write_text(new)
