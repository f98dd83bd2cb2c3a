"""Memory cgroups: where they are mounted, which have a limit, and how near they are to it.

cgroup version 1 (Documentation/admin-guide/cgroup-v1/memory.rst) and version 2
(Documentation/admin-guide/cgroup-v2.rst) are read into one form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from killtrace import text

# Version 1 writes "no limit" as the most pages that a counter holds, in bytes.
_V1_UNLIMITED = 0x7FFF_FFFF_FFFF_0000
_MAX = "max"


@dataclass(frozen=True)
class Mount:
    """One mounted cgroup hierarchy; `root` is the cgroup that the mount point shows."""

    version: int
    folder: Path
    root: str = "/"
    controllers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Pressure:
    """PSI: the share of the last ten seconds, in percent, that tasks waited for memory."""

    some_avg10: float
    full_avg10: float | None


@dataclass(frozen=True)
class Scope:
    """What an OOM kill would be confined to: the machine (`memcg` None), or a cgroup's subtree.

    Sizes in kB.  `limit_kb` None: no limit of its own.  `total_kb` is what the kernel measures
    oom_score_adj against.  `headroom_kb` is what is left below the nearest limit, which an
    ancestor, `bound_by`, may set.  `cache_kb` is file cache, which is given up before anybody dies.
    """

    memcg: str | None
    limit_kb: int | None
    usage_kb: int | None
    total_kb: int
    headroom_kb: int | None = None
    bound_by: str | None = None
    cache_kb: int | None = None
    swap_kb: int | None = None
    ooms: int | None = None
    kills: int | None = None
    pressure: Pressure | None = None
    disabled: bool = False
    nested: bool = True


@dataclass(frozen=True)
class Machine:
    """Memory and swap of the whole machine in kB, as the kernel counts them."""

    ram_kb: int
    swap_kb: int
    free_swap_kb: int = 0
    available_kb: int | None = None
    swappiness: int = 60


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The cgroup hierarchies of /proc/PID/mountinfo (proc(5))."""
    found = []
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if dash and len(fields) >= 5 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):
            version = 2 if kind[0] == "cgroup2" else 1
            names = frozenset(kind[2].split(",")) if version == 1 else frozenset[str]()
            found.append(Mount(version, Path(_unquoted(fields[4])), _unquoted(fields[3]), names))
    return found


def _unquoted(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), name)


def parse_meminfo(content: str) -> dict[str, int]:
    """/proc/meminfo in kB."""
    return {
        name: int(value.split()[0])
        for name, colon, value in (line.partition(":") for line in content.splitlines())
        if colon and value.split() and value.split()[0].isdecimal()
    }


def parse_pairs(content: str) -> dict[str, int]:
    """A flat keyed file: memory.events, memory.stat, memory.oom_control, /proc/vmstat."""
    pairs = (line.split() for line in content.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def parse_pressure(content: str) -> Pressure | None:
    """A PSI file; None where it has no such lines, or accounting is off."""
    found = dict(re.findall(r"^(some|full) avg10=([0-9.]+)", content, re.MULTILINE))
    if "some" not in found:
        return None
    return Pressure(float(found["some"]), float(found["full"]) if "full" in found else None)


class Hierarchy:
    """The mounted hierarchy that has the memory controller."""

    def __init__(self, mount: Mount, machine: Machine) -> None:
        self.mount = mount
        self.version = mount.version
        self._machine = machine
        self._files = _V1_FILES if mount.version == 1 else _V2_FILES

    @property
    def controller(self) -> str:
        """The hierarchy's key in procfs.parse_cgroups."""
        return "memory" if self.version == 1 else ""

    def exists(self, path: str) -> bool:
        """Whether the cgroup is there, and has memory files."""
        return (self._folder(path) / self._files["usage"]).is_file() or path == self.mount.root

    def limited(self) -> Iterator[str]:
        """Every cgroup with a memory limit of its own, parents before children."""
        for folder, names, _ in os.walk(self.mount.folder):
            names.sort()
            path = self._path(Path(folder))
            if self._limit_kb(path) is not None:
                yield path

    def scope(self, path: str) -> Scope:
        """The figures of one cgroup; what cannot be read is None."""
        limit_kb = self._limit_kb(path)
        usage_kb = self._kb(path, "usage")
        bound_by, headroom_kb = self._tightest(path)
        events = parse_pairs(self._read(path, self._files["events"]))
        stat = parse_pairs(self._read(path, "memory.stat"))
        prefix = "total_" if self.version == 1 else ""
        cache = [stat.get(f"{prefix}{name}_file") for name in ("active", "inactive")]
        return Scope(
            memcg=path,
            limit_kb=limit_kb,
            usage_kb=usage_kb,
            total_kb=self._total_kb(path),
            headroom_kb=headroom_kb,
            bound_by=bound_by if bound_by != path else None,
            cache_kb=sum(part or 0 for part in cache) // 1024 if stat else None,
            swap_kb=self._swap_kb(path, usage_kb),
            ooms=events.get("oom"),
            kills=self._kills(path, events.get("oom_kill")),
            pressure=parse_pressure(self._read(path, "memory.pressure")),
            disabled=events.get("oom_kill_disable") == 1,
            nested=self._nested(path),
        )

    def group(self, path: str, domain: str | None) -> str | None:
        """The cgroup that dies as a whole if one in `path` is chosen (memory.oom.group), or None.

        The topmost that says so, at or below the scope `domain` (mem_cgroup_get_oom_group).
        """
        found = None
        if self.version == 2:
            for up in self._upwards(path):
                if self._read(up, "memory.oom.group").strip() == "1":
                    found = up
                if up == domain:
                    break
        return found

    def _total_kb(self, path: str) -> int:
        """mem_cgroup_get_max: the limit, and as much swap as the cgroup may and can use.

        A cgroup with no limit of its own dies for an ancestor's, or for want of the machine's.
        """
        own = next((up for up in self._upwards(path) if self._limit_kb(up) is not None), None)
        limit_kb = self._limit_kb(own) if own else None
        if own is None or limit_kb is None:
            return self._machine.ram_kb + self._machine.swap_kb
        if not self._swappiness(own):
            return limit_kb
        swap_kb = self._kb(own, "swap_limit")
        if swap_kb is None:
            swap_kb = self._machine.swap_kb
        elif self.version == 1:
            swap_kb = max(swap_kb - limit_kb, 0)
        return limit_kb + min(swap_kb, self._machine.swap_kb)

    def _swappiness(self, path: str) -> int:
        own = self._read(path, "memory.swappiness").strip()  # version 1 only
        return int(own) if own.isdecimal() else self._machine.swappiness

    def _tightest(self, path: str) -> tuple[str | None, int | None]:
        """The cgroup, this one or above, whose limit is nearest, and what is left below it."""
        found: list[tuple[int, int, str]] = []
        for depth, up in enumerate(self._upwards(path)):
            limits = [(self._limit_kb(up), self._kb(up, "usage"))]
            if self.version == 1:  # a second limit, of memory and swap together
                limits.append((self._kb(up, "swap_limit"), self._kb(up, "swap_usage")))
            for limit_kb, usage_kb in limits:
                if limit_kb is not None and usage_kb is not None:
                    found.append((max(limit_kb - usage_kb, 0), depth, up))
        if not found:
            return None, None
        headroom_kb, _, bound_by = min(found)
        return bound_by, headroom_kb

    def _upwards(self, path: str) -> Iterator[str]:
        """The cgroup and its ancestors, as far as they count what it uses."""
        while True:
            yield path
            parent = os.path.dirname(path)  # noqa: PTH120 - a cgroup path, not a file's
            if path in ("/", self.mount.root) or not self._nested(parent):
                return
            path = parent

    def _nested(self, path: str) -> bool:
        # Version 1 before Linux 5.11: a cgroup may be told not to count its children.
        return self._read(path, "memory.use_hierarchy").strip() != "0"

    def _kills(self, path: str, own: int | None) -> int | None:
        """Kills in the subtree; version 1 counts each in the victim's own cgroup alone."""
        if self.version == 2 or own is None:
            return own
        inner = (self._path(Path(folder)) for folder, _, _ in os.walk(self._folder(path)))
        counted = (parse_pairs(self._read(one, self._files["events"])) for one in inner)
        return sum(events.get("oom_kill", 0) for events in counted)

    def _swap_kb(self, path: str, usage_kb: int | None) -> int | None:
        swap_kb = self._kb(path, "swap_usage")
        if self.version == 2 or swap_kb is None or usage_kb is None:
            return swap_kb
        return max(swap_kb - usage_kb, 0)  # version 1 counts memory and swap together

    def _limit_kb(self, path: str) -> int | None:
        return self._kb(path, "limit")

    def _kb(self, path: str, what: str) -> int | None:
        raw = self._read(path, self._files[what]).strip()
        if not raw.isdecimal() or (self.version == 1 and int(raw) >= _V1_UNLIMITED):
            return None  # no such file, or no limit: "max"
        return int(raw) // 1024

    def _read(self, path: str, name: str) -> str:
        try:
            return text.decode((self._folder(path) / name).read_bytes())
        except OSError:
            return ""

    def _folder(self, path: str) -> Path:
        return self.mount.folder / os.path.relpath(path, self.mount.root)

    def _path(self, folder: Path) -> str:
        # Not os.path.normpath: it keeps two slashes at the beginning, and dirname("//") is itself.
        return str(Path(self.mount.root) / folder.relative_to(self.mount.folder))


_V1_FILES: Mapping[str, str] = {
    "limit": "memory.limit_in_bytes",
    "usage": "memory.usage_in_bytes",
    "swap_limit": "memory.memsw.limit_in_bytes",
    "swap_usage": "memory.memsw.usage_in_bytes",
    "events": "memory.oom_control",
}
_V2_FILES: Mapping[str, str] = {
    "limit": "memory.max",
    "usage": "memory.current",
    "swap_limit": "memory.swap.max",
    "swap_usage": "memory.swap.current",
    "events": "memory.events",
}


def memory_mount(mounts: list[Mount]) -> Mount | None:
    """The hierarchy that has the memory controller: version 1's, else version 2's."""
    version_1 = [mount for mount in mounts if "memory" in mount.controllers]
    if version_1:
        return version_1[0]
    for mount in mounts:
        if mount.version == 2:
            try:
                offered = (mount.folder / "cgroup.controllers").read_text().split()
            except OSError:
                continue
            if "memory" in offered:
                return mount
    return None
