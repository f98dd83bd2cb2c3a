from __future__ import annotations

from pathlib import Path

import pytest
from machines import FakeMachine

from killtrace.oom import memcg
from killtrace.oom.memcg import Hierarchy, Machine, Mount, Pressure

RAM_KB = 1_000_000


def hierarchy(machine: FakeMachine, swap_kb: int = 0, swappiness: int = 60) -> Hierarchy:
    controllers = frozenset({"memory"} if machine.version == 1 else ())
    mount = Mount(machine.version, machine.mount, "/", controllers)
    return Hierarchy(mount, Machine(RAM_KB, swap_kb, swappiness=swappiness))


def test_mounts() -> None:
    found = memcg.parse_mounts(
        "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "36 31 0:33 /docker/x /mnt/a\\040b rw shared:5 - cgroup2 cgroup2 rw\n"
        "37 31 0:34 / /tmp rw - tmpfs tmpfs rw\n"
        "broken\n"
    )
    assert found == [
        Mount(1, Path("/sys/fs/cgroup/memory"), "/", frozenset({"rw", "memory"})),
        Mount(2, Path("/mnt/a b"), "/docker/x"),
    ]


def test_the_hierarchy_with_memory(v2: FakeMachine, tmp_path: Path) -> None:
    version_1 = Mount(1, Path("/m"), "/", frozenset({"rw", "memory"}))
    version_2 = Mount(2, v2.mount)
    bare = Mount(2, tmp_path)
    assert memcg.memory_mount([bare, version_2, version_1]) == version_1
    assert memcg.memory_mount([bare, version_2]) == version_2
    assert memcg.memory_mount([bare, Mount(1, Path("/c"), "/", frozenset({"cpu"}))]) is None


def test_only_limited_cgroups_parents_first(either: FakeMachine) -> None:
    either.cgroup("/a", limit_kb=500)
    either.cgroup("/a/inner", limit_kb=100)
    either.cgroup("/b")
    either.cgroup("/b/c", limit_kb=100)
    assert list(hierarchy(either).limited()) == ["/a", "/a/inner", "/b/c"]


def test_the_figures_of_version_2(v2: FakeMachine) -> None:
    v2.cgroup("/a", limit_kb=500, usage_kb=300)
    found = hierarchy(v2).scope("/a")
    assert (found.limit_kb, found.usage_kb, found.headroom_kb, found.bound_by) == (
        500,
        300,
        200,
        None,
    )
    assert (found.cache_kb, found.swap_kb, found.ooms, found.kills) == (3, 4, 4, 2)
    assert found.pressure == Pressure(12.3, None)


def test_the_figures_of_version_1(v1: FakeMachine) -> None:
    v1.cgroup("/a", limit_kb=500, usage_kb=300)
    v1.cgroup("/a/b")
    found = hierarchy(v1).scope("/a")
    assert (found.limit_kb, found.usage_kb, found.headroom_kb) == (500, 300, 200)
    assert (found.cache_kb, found.swap_kb, found.ooms, found.pressure) == (3, 0, None, None)
    assert found.kills == 4  # each cgroup counts its own


@pytest.mark.parametrize(
    ("version", "swap_limit_kb", "machine_swap_kb", "swappiness", "expected"),
    [
        (2, None, 0, 60, 500),
        (2, None, 300, 60, 800),
        (2, 100, 300, 60, 600),
        (2, 400, 300, 60, 800),
        (2, 0, 300, 60, 500),
        (2, 100, 300, 0, 500),
        (1, None, 300, 60, 800),
        (1, 600, 300, 60, 600),
        (1, 500, 300, 60, 500),
        (1, None, 0, 60, 500),
    ],
)
def test_what_the_adjustment_is_a_share_of(
    tmp_path: Path,
    version: int,
    swap_limit_kb: int | None,
    machine_swap_kb: int,
    swappiness: int,
    expected: int,
) -> None:
    machine = FakeMachine(tmp_path / "m", version)
    machine.cgroup("/a", limit_kb=500, swap_limit_kb=swap_limit_kb)
    assert hierarchy(machine, machine_swap_kb, swappiness).scope("/a").total_kb == expected


def test_version_1_has_a_swappiness_for_each(v1: FakeMachine) -> None:
    v1.cgroup("/a", limit_kb=500, memory__swappiness="0")
    assert hierarchy(v1, swap_kb=300).scope("/a").total_kb == 500


def test_a_tighter_limit_above(either: FakeMachine) -> None:
    either.cgroup("/a", limit_kb=500, usage_kb=450)
    either.cgroup("/a/b", limit_kb=900, usage_kb=300)
    found = hierarchy(either).scope("/a/b")
    assert (found.limit_kb, found.headroom_kb, found.bound_by) == (900, 50, "/a")


def test_no_limit_of_its_own(either: FakeMachine) -> None:
    either.cgroup("/a", limit_kb=500, usage_kb=450)
    either.cgroup("/a/b", usage_kb=300)
    either.cgroup("/c", usage_kb=300)
    found = hierarchy(either).scope("/a/b")
    assert (found.limit_kb, found.headroom_kb, found.bound_by) == (None, 50, "/a")
    assert found.total_kb == 500
    free = hierarchy(either, swap_kb=7).scope("/c")
    assert (free.headroom_kb, free.bound_by, free.total_kb) == (None, None, RAM_KB + 7)


def test_version_1_counts_memory_with_swap_too(v1: FakeMachine) -> None:
    folder = v1.cgroup("/a", limit_kb=500, usage_kb=300, swap_limit_kb=600)
    v1.write(folder / "memory.memsw.usage_in_bytes", str(580 << 10))
    found = hierarchy(v1).scope("/a")
    assert (found.headroom_kb, found.swap_kb, found.bound_by) == (20, 280, None)


def test_version_1_without_hierarchy(v1: FakeMachine) -> None:
    v1.cgroup("/a", limit_kb=100, usage_kb=90, memory__use_hierarchy="0")
    v1.cgroup("/a/b", limit_kb=500, usage_kb=300)
    found = hierarchy(v1).scope("/a/b")
    assert (found.headroom_kb, found.bound_by) == (200, None)
    assert hierarchy(v1).scope("/a").nested is False


def test_version_1_may_forbid_kills(v1: FakeMachine) -> None:
    v1.cgroup("/a", limit_kb=500, memory__oom_control="oom_kill_disable 1\nunder_oom 0\n")
    found = hierarchy(v1).scope("/a")
    assert (found.disabled, found.kills) == (True, None)


def test_who_dies_as_a_whole(v2: FakeMachine) -> None:
    v2.cgroup("/a", memory__oom__group="1")
    v2.cgroup("/a/b", limit_kb=500)
    v2.cgroup("/a/b/c", memory__oom__group="1")
    v2.cgroup("/a/b/c/d")
    tree = hierarchy(v2)
    assert tree.group("/a/b/c/d", "/a/b") == "/a/b/c"
    assert tree.group("/a/b/c/d", None) == "/a"
    assert tree.group("/a/b", "/a/b") is None


def test_a_mount_that_shows_a_part(v2: FakeMachine) -> None:
    v2.cgroup("/x", limit_kb=500, usage_kb=100)
    tree = Hierarchy(Mount(2, v2.mount, "/docker/c"), Machine(RAM_KB, 0))
    assert list(tree.limited()) == ["/docker/c/x"]
    assert tree.scope("/docker/c/x").headroom_kb == 400
    assert tree.exists("/docker/c")
    assert not tree.exists("/docker/c/y")


@pytest.mark.parametrize("content", ["", "nonsense\n", "some avg60=1\n"])
def test_no_pressure(content: str) -> None:
    assert memcg.parse_pressure(content) is None
