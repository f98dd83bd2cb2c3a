"""A finding, and the machine that the checks look at."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from killtrace.probe.running import RunningTracer

CAP_SYS_ADMIN, CAP_SYSLOG, CAP_PERFMON, CAP_BPF = 21, 34, 38, 39


@dataclass(frozen=True)
class Check:
    """One finding: `gives` is what the thing is for, `stand_in` what serves where it is missing.

    `required`: without it there is no live tracing.  `mend` is what to do, None where nothing is
    to be done.
    """

    name: str
    ok: bool
    required: bool
    detail: str
    gives: str
    stand_in: str | None = None
    mend: str | None = None


def _no_trial() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Machine:
    """Where the checks look, and what they try; tests hand in a folder and functions of their own.

    `bcc` gives its version, or raises KilltraceError; `trial` loads and attaches all programs and
    gives what of them is missing, or raises KilltraceError; `attach` tries one raw tracepoint, or
    raises OSError; `tracers` lists those that run, or raises OSError; `armed` says whether a
    recorder writes to the store.
    """

    release: str
    architecture: str
    euid: int
    bcc: Callable[[], str]
    attach: Callable[[str], None]
    tracers: Callable[[], list[RunningTracer]]
    armed: Callable[[], bool]
    host_tgid: Callable[[], int]
    trial: Callable[[], Mapping[str, str]] = _no_trial
    root: Path = field(default=Path("/"))
    btf: str = "/sys/kernel/btf/vmlinux"

    def path(self, path: str) -> Path:
        """A path of the machine, from its absolute name."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """A file's text, stripped; None where it can't be read."""
        try:
            return self.path(path).read_text(errors="replace").strip()
        except OSError:
            return None

    def has(self, path: str) -> bool:
        """Whether a path is there; False where that may not be seen."""
        try:
            return self.path(path).exists()
        except OSError:
            return False

    @cached_property
    def version(self) -> tuple[int, int]:
        """(6, 1) of 6.1.0-18-amd64; (0, 0) where the release says none."""
        match = re.match(r"(\d+)\.(\d+)", self.release)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @cached_property
    def capabilities(self) -> int:
        """The effective set, as a bit mask."""
        match = re.search(r"^CapEff:\s*([0-9a-f]+)$", self.text("/proc/self/status") or "", re.M)
        return int(match[1], 16) if match else 0

    def may(self, capability: int) -> bool:
        """Whether this process has a capability."""
        return bool(self.capabilities >> capability & 1)

    @cached_property
    def may_trace(self) -> bool:
        """CAP_SYS_ADMIN, or CAP_BPF with CAP_PERFMON (capabilities(7), since 5.8)."""
        return self.may(CAP_SYS_ADMIN) or (self.may(CAP_BPF) and self.may(CAP_PERFMON))

    @cached_property
    def symbols(self) -> bytes:
        """/proc/kallsyms: names are there for everyone, addresses may be hidden."""
        try:
            return self.path("/proc/kallsyms").read_bytes()
        except OSError:
            return b""

    def has_symbol(self, name: str) -> bool:
        """Whether the kernel has a function or variable of this name."""
        return re.search(rb" %s$" % re.escape(name.encode()), self.symbols, re.M) is not None

    @cached_property
    def distribution(self) -> frozenset[str]:
        """ID and ID_LIKE of os-release(5)."""
        words: set[str] = set()
        for line in (self.text("/etc/os-release") or "").splitlines():
            key, _, value = line.partition("=")
            if key in ("ID", "ID_LIKE"):
                words.update(value.strip("\"'").split())
        return frozenset(words)
