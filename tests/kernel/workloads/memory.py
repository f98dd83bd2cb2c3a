"""Real out-of-memory kills, each in a memory cgroup of its own; cgroup v1 and v2."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import NoReturn

from workloads.actors import (
    Gate,
    died_of,
    end,
    fork,
    pause_for_ever,
    sender,
    temporary_cgroup,
    waiting,
)
from workloads.features import memory_v1_root, memory_v2_root
from workloads.registry import Sent, Truth, case

_MB = 1 << 20
LIMIT_MB = 32


@contextmanager
def limited(name: str, limit_mb: int = LIMIT_MB) -> Iterator[Path]:
    """A memory cgroup with a limit and no swap; it is removed afterwards."""
    v2 = memory_v2_root()
    root = v2 or memory_v1_root()
    assert root is not None, "asked for by needs=memcg"
    if v2 is not None:
        (v2 / "cgroup.subtree_control").write_text("+memory")
    folder = temporary_cgroup(root, name)
    limit = "memory.max" if v2 else "memory.limit_in_bytes"
    (folder / limit).write_text(str(limit_mb * _MB))
    swap = folder / ("memory.swap.max" if v2 else "memory.swappiness")
    if swap.exists():
        swap.write_text("0")
    try:
        yield folder
    finally:
        folder.rmdir()


def hold(megabytes: int) -> mmap.mmap:
    """Map memory and touch every page of it; it is given back with the returned object."""
    pages = mmap.mmap(-1, megabytes * _MB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    ctypes.memset(address, 1, megabytes * _MB)
    return pages


def pause_for_ever_with(_held: mmap.mmap) -> NoReturn:
    pause_for_ever()


def join(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def adjust(value: int) -> None:
    Path("/proc/self/oom_score_adj").write_text(str(value))


def _hog(folder: Path, megabytes: int) -> None:
    join(folder)
    pause_for_ever_with(hold(megabytes))


def _oom(folder: Path, victim: int, trigger: int) -> Sent:
    detail = {
        "scope": "memcg",
        "memcg": f"/{folder.name}",
        "trigger": {"pid": trigger},
        "group": False,
    }
    return Sent(SIGKILL, victim, "oom", "SI_KERNEL", detail=detail)


@case("memcg")
def memcg_oom() -> Truth:
    """a process that outgrows its memory cgroup"""
    with limited("oom") as folder:
        victim = fork(_hog, folder, 4 * LIMIT_MB)
        died = died_of(victim, SIGKILL)
    return Truth([_oom(folder, victim, victim)], [died])


@case("memcg")
def memcg_oom_of_another() -> Truth:
    """a process that is chosen because another one asked for memory"""
    with limited("other") as folder:
        full = Gate()

        def body() -> None:
            adjust(1000)
            join(folder)
            held = hold(LIMIT_MB * 5 // 8)
            full.open()
            pause_for_ever_with(held)

        def asking() -> None:
            join(folder)
            pause_for_ever_with(hold(LIMIT_MB * 5 // 8))

        victim = fork(body)
        full.wait()
        trigger = fork(asking)
        died = died_of(victim, SIGKILL)
        end([trigger])
    # That last SIGKILL reaches the trigger, so it dies too; of a kill(2) that is no part of this.
    return Truth([_oom(folder, victim, trigger)], [died])


@case("memcg")
def not_oom() -> Truth:
    """SIGKILL to a process in a memory cgroup, with room left: status 137, and no OOM"""
    with limited("room") as folder:
        victim = waiting(lambda: (join(folder), hold(8)))
        by = sender(lambda: os.kill(victim, SIGKILL))
        died = died_of(victim, SIGKILL)
    return Truth([Sent(SIGKILL, victim, "process", "SI_USER", by)], [died])
