from __future__ import annotations

import pytest

from killtrace.oom import badness
from killtrace.oom.badness import PF_KTHREAD, Memory, Task, rank


def task(pid: int, rss_kb: int = 0, adj: int = 0, **changes: object) -> Task:
    fields: dict[str, object] = {
        "pid": pid,
        "comm": "hog",
        "start_ns": pid,
        "flags": 0,
        "memcg": "/",
        "oom_score_adj": adj,
        "memory": Memory(anon_rss_kb=rss_kb),
    }
    return Task(**{**fields, **changes})  # type: ignore[arg-type]


def test_all_that_counts() -> None:
    memory = Memory(999_999, 400, 200, 100, 80, 40)
    assert badness.badness(task(1, memory=memory), 10_000, 4) == 820 // 4


@pytest.mark.parametrize(
    ("adj", "total_pages", "expected"),
    [
        (0, 10_000, 100),
        (1, 10_000, 110),
        (-1, 10_000, 90),
        (1000, 10_000, 10_100),
        (-999, 10_000, 100 - 9990),
        (500, 1_999, 600),  # the kernel divides first: 1 page a thousandth, not 1.999
        (500, 999, 100),
    ],
)
def test_the_adjustments_share(adj: int, total_pages: int, expected: int) -> None:
    assert badness.badness(task(1, 400, adj), total_pages, 4) == expected


def test_other_page_sizes() -> None:
    assert badness.badness(task(1, 640), 10_000, 64) == 10


def test_the_order() -> None:
    tasks = [task(5, 400), task(6, 800), task(7, 40, adj=100), task(8, 4000, adj=-1000)]
    found = rank(tasks, 10_000, 4)
    assert [(one.rank, one.task.pid, one.badness) for one in found] == [
        (1, 7, 1010),
        (2, 6, 200),
        (3, 5, 100),
        (4, 8, None),
    ]


def test_of_equals_the_youngest() -> None:
    tasks = [task(5, 400, start_ns=9), task(6, 400, start_ns=8), task(4, 400, start_ns=9)]
    assert [one.task.pid for one in rank(tasks, 1000, 4)] == [5, 4, 6]


def test_negative_badness_is_still_a_candidate() -> None:
    found = rank([task(5, 4, adj=-999)], 10_000, 4)
    assert (found[0].badness, found[0].shielded) == (1 - 9990, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adj": -1000}, "oom_score_adj -1000"),
        ({"is_init": True}, "init"),
        ({"flags": PF_KTHREAD, "memory": None}, "kernel thread"),
        ({"memory": None}, "already exiting"),
        ({"in_vfork": True}, "in vfork: it still runs in its parent's memory"),
        ({"adj": -999}, None),
    ],
)
def test_shields(changes: dict[str, object], reason: str | None) -> None:
    assert badness.shield(task(5, 400, **changes)) == reason  # type: ignore[arg-type]


def test_what_if() -> None:
    assert badness.adjusted(task(5, adj=3), {5: -7}).oom_score_adj == -7
    assert badness.adjusted(task(5, adj=3), {6: -7}).oom_score_adj == 3
