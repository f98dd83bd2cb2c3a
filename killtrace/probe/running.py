"""The tracers that run on this machine now, found by their maps: how full they are, what they lost.

Needs CAP_SYS_ADMIN: bpf(2)'s calls by id do.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from killtrace.probe.bpf_calls import call

_LOOKUP, _NEXT_KEY = 1, 4
_PROG_NEXT_ID, _PROG_BY_ID, _MAP_BY_ID, _INFO = 11, 13, 14, 15
_MAX_MAPS = 64
# Counted one by one; a table that is larger than this is not.
_MOST_COUNTED = 1 << 16

# enum kt_stat of bpf/killtrace.h; tests/unit/test_doctor_checks.py compares.
STATS = {
    "signals": 0,
    "lost_signals": 1,
    "lost_deaths": 2,
    "untracked": 3,
    "execs": 4,
    "forks": 5,
}


@dataclass(frozen=True)
class RunningTracer:
    """One loaded killtrace: its table of command lines, and its counters since it began.

    `kept` of `entries` are in use, None where they are too many to count.  `stats` has the names
    of STATS.
    """

    entries: int
    kept: int | None
    stats: dict[str, int]

    @property
    def made_way(self) -> int:
        """About how many command lines were given up for newer ones (LRU), at most.

        Each fork adds one, but where an earlier process had its pid: that one's is replaced.
        """
        return max(self.stats["forks"] - (self.entries if self.kept is None else self.kept), 0)


def running_tracers() -> list[RunningTracer]:
    """All of them; OSError where the kernel does not say (EPERM: no CAP_SYS_ADMIN)."""
    found: dict[int, RunningTracer] = {}
    for maps in _maps_of_programs():
        names = {}
        for number in maps:
            try:
                with _opened(_MAP_BY_ID, number) as descriptor:
                    name, entries = _map_info(descriptor)
            except FileNotFoundError:
                continue
            names[name] = number, entries
        if "execs" in names and "stats" in names and "tracked" in names:
            number, entries = names["execs"]
            if number not in found:
                found[number] = _tracer(number, entries, names["stats"][0])
    return list(found.values())


def _tracer(execs: int, entries: int, stats: int) -> RunningTracer:
    with _opened(_MAP_BY_ID, execs) as descriptor:
        kept = _count(descriptor) if entries <= _MOST_COUNTED else None
    with _opened(_MAP_BY_ID, stats) as descriptor:
        values = {name: _per_cpu_sum(descriptor, index) for name, index in STATS.items()}
    return RunningTracer(entries, kept, values)


@contextmanager
def _opened(command: int, number: int) -> Iterator[int]:
    descriptor = call(command, struct.pack("=I", number))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _maps_of_programs() -> Iterator[tuple[int, ...]]:
    attr = ctypes.create_string_buffer(struct.pack("=II", 0, 0), 128)
    while True:
        try:
            call(_PROG_NEXT_ID, attr)
        except FileNotFoundError:
            return
        number = struct.unpack_from("=I", attr.raw, 4)[0]
        struct.pack_into("=II", attr, 0, number, 0)
        try:
            with _opened(_PROG_BY_ID, number) as descriptor:
                yield _map_ids(descriptor)
        except FileNotFoundError:
            continue  # unloaded while we looked


def _map_ids(program: int) -> tuple[int, ...]:
    """The maps of a program; in struct bpf_prog_info, nr_map_ids is at 52, map_ids at 56."""
    ids = (ctypes.c_uint32 * _MAX_MAPS)()
    info = ctypes.create_string_buffer(128)
    struct.pack_into("=IQ", info, 52, _MAX_MAPS, ctypes.addressof(ids))
    call(_INFO, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    return tuple(ids[: min(struct.unpack_from("=I", info, 52)[0], _MAX_MAPS)])


def _map_info(descriptor: int) -> tuple[str, int]:
    """Name and entries; struct bpf_map_info: max_entries is at 16, name at 24."""
    info = ctypes.create_string_buffer(80)
    call(_INFO, struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info)))
    name = info.raw[24:40].split(b"\0", 1)[0].decode("ascii", "replace")
    return name, struct.unpack_from("=I", info, 16)[0]


def _count(descriptor: int) -> int:
    """How many keys (of 4 bytes) a table has, about: it changes meanwhile."""
    key, following = ctypes.c_uint32(), ctypes.c_uint32()
    addresses = ctypes.addressof(key), ctypes.addressof(following)
    attr = ctypes.create_string_buffer(struct.pack("=I4xQQ", descriptor, 0, addresses[1]), 128)
    count = 0
    try:
        while count < _MOST_COUNTED:
            call(_NEXT_KEY, attr)
            count += 1
            key.value = following.value
            struct.pack_into("=Q", attr, 8, addresses[0])
    except FileNotFoundError:
        pass
    return count


def _per_cpu_sum(descriptor: int, index: int) -> int:
    values = (ctypes.c_uint64 * _possible_cpus())()
    key = ctypes.c_uint32(index)
    call(
        _LOOKUP,
        struct.pack("=I4xQQ", descriptor, ctypes.addressof(key), ctypes.addressof(values)),
    )
    return sum(values)


def _possible_cpus() -> int:
    """The kernel writes a value for each (Documentation/admin-guide/cputopology.rst)."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(ranges.replace(",", "-").split("-")[-1]) + 1
