"""What a source tells of one death, and how a source itself fared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from killtrace.model import Death

# The time of a death that a log without dates tells of; null once it is written out.
UNKNOWN_NS = 0
# The pid of a process that a source tells of without naming it; null once it is written out.
UNKNOWN_PID = 0

SourceName = Literal["store", "kernel-log", "journal", "audit", "accounting"]


@dataclass(frozen=True)
class Finding:
    """One piece of evidence, of one death.

    `death` holds what the source knows of it, null where it does not; `certain` is whether the
    source saw the cause itself.  `related` says that it explains a death and reports none: by
    pid, by unit, by the `command` that somebody gave, or `everything`: the machine was going down.
    `report`: all lines that belong to it.
    """

    source: SourceName
    time_ns: int | None
    text: str
    death: Death | None = None
    certain: bool = False
    unit: str | None = None
    pid: int | None = None
    comm: str | None = None
    related: bool = False
    report: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    everything: bool = False


@dataclass(frozen=True)
class SourceState:
    """Whether a source was read, and why not; `mend` is what to do about it."""

    name: str
    read: bool
    reason: str | None = None
    mend: str | None = None
