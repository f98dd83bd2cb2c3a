"""The clocks: kernel time is boot time, people's time is wall time."""

from __future__ import annotations

import time


def boot_ns() -> int:
    """Nanoseconds since boot, sleep included (CLOCK_BOOTTIME, as bpf_ktime_get_boot_ns)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_offset_ns() -> int:
    """What to add to boot time to get wall time now: epoch nanoseconds minus boot nanoseconds."""
    before = boot_ns()
    wall = time.time_ns()
    after = boot_ns()
    return wall - (before + after) // 2
