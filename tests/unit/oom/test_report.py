from __future__ import annotations

import pytest

from killtrace.model import Container, Process
from killtrace.oom import report
from killtrace.oom.badness import Candidate, Memory, Task
from killtrace.oom.memcg import Pressure, Scope
from killtrace.oom.survey import Ranking

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"


def candidate(rank: int, pid: int, shielded: str | None = None, **changes: object) -> Candidate:
    memory = Memory(90_000, 50_000, 2_000, 0, 1_024, 200)
    fields = {"flags": 0, "memcg": "/", "oom_score_adj": 0, "memory": memory, "oom_score": 667}
    task = Task(pid, str(changes.pop("comm", "hog")), pid, **{**fields, **changes})  # type: ignore[arg-type]
    return Candidate(rank, task, None if shielded else 1000 - rank, shielded)


def plain(one: Candidate) -> Process:
    return Process(one.task.pid, comm=one.task.comm, cmdline=("python3", "hog.py", "a b"))


SCOPE = Scope("/batch", 51_200, 50_176, 51_200, 1_024, None, 2_048, 0, 4, 2, Pressure(12.5, 3.25))


def test_a_cgroup() -> None:
    ranking = Ranking(
        SCOPE,
        [
            candidate(1, 4711, oom_score_adj=500),
            candidate(2, 12),
            candidate(3, 1, "init", comm="systemd"),
            candidate(4, 9, "oom_score_adj -1000", comm="sshd"),
            candidate(5, 2, "kernel thread", memory=None),
            candidate(6, 3, "kernel thread", memory=None),
        ],
    )
    assert report.table(ranking, plain, 10) == [
        "cgroup /batch: 49 MB of 50 MB used (2 MB of it file cache); 1 MB left; OOM kills: 2; "
        "pressure 12.5 %",
        "  RANK  BADNESS  SCORE   ADJ      RSS  SWAP   PID  COMMAND",
        "     1      999    667  +500  50.8 MB  1 MB  4711  python3 hog.py 'a b'",
        "     2      998    667     0  50.8 MB  1 MB    12  python3 hog.py 'a b'",
        "  shielded: 1 systemd (init); 9 sshd (oom_score_adj -1000); 2 kernel threads",
    ]


def test_more_than_there_is_room_for() -> None:
    ranking = Ranking(SCOPE, [candidate(at, at) for at in range(1, 8)])
    lines = report.table(ranking, plain, 2)
    assert lines[-1] == "  and 5 more after these"
    assert len(lines) == 5


def test_nobody() -> None:
    assert report.table(Ranking(SCOPE, []), plain, 5)[1:] == ["  nobody to kill in it"]


@pytest.mark.parametrize(
    ("process", "where"),
    [
        (Process(5, unit="nginx.service"), "nginx.service"),
        (Process(5, unit="x.scope", container=Container("docker", ID, "web")), "docker:web"),
        (Process(5, container=Container("podman", ID)), f"podman:{ID[:12]}"),
        (
            Process(5, container=Container("containerd", ID, "app", None, "web-0", "prod")),
            "prod/web-0/app",
        ),
    ],
)
def test_where_it_runs(process: Process, where: str) -> None:
    lines = report.table(Ranking(SCOPE, [candidate(1, 5)]), lambda _: process, 5)
    assert lines[1].endswith("UNIT OR CONTAINER")
    assert lines[2].endswith(where)


def test_never_wide_and_never_raw() -> None:
    scope = Scope("/" + "x" * 200, 51_200, 50_176, 51_200, 1_024, "/" + "y" * 20)
    evil = Process(5, cmdline=("\x1b]0;x\x07" * 40,), unit="u" * 90)
    ranking = Ranking(
        scope,
        [candidate(1, 5), *(candidate(at, at, "init", comm="\x1b[2J" * 9) for at in range(2, 9))],
        group="/" + "z" * 90,
        policy="vm.panic_on_oom is set: the kernel panics instead",
    )
    lines = report.table(ranking, lambda _: evil, 5)
    assert max(len(line) for line in lines) < 100
    assert all(line.isprintable() for line in lines)
    assert lines[1] == "  vm.panic_on_oom is set: the kernel panics instead"
    assert lines[2].startswith("  memory.oom.group: all of …zzz")


def test_the_tighter_limit_is_named() -> None:
    scope = Scope("/a/b", 900, 300, 900, 50, "/a")
    assert (
        report.headline(scope) == "cgroup /a/b: 300 kB of 900 kB used; 50 kB left below /a's limit"
    )
    free = Scope("/c", None, 300, 900)
    assert report.headline(free) == "cgroup /c: 300 kB used, no limit of its own"


def test_the_record() -> None:
    ranking = Ranking(SCOPE, [candidate(1, 5), candidate(2, 6, "init")], group="/batch")
    first, second = (report.record(ranking, one, plain(one)) for one in ranking.candidates)
    assert list(first) == [
        "type",
        "scope",
        "memcg",
        "rank",
        "process",
        "badness",
        "oom_score",
        "oom_score_adj",
        "memory",
        "shielded",
        "limits",
    ]
    assert (first["type"], first["scope"], first["memcg"]) == ("oom_candidate", "memcg", "/batch")
    assert first["memory"] == {
        "total_vm_kb": 90_000,
        "anon_rss_kb": 50_000,
        "file_rss_kb": 2_000,
        "shmem_rss_kb": 0,
        "swap_kb": 1_024,
        "pgtables_kb": 200,
        "oom_score_adj": 0,
    }
    assert (second["badness"], second["shielded"]) == (None, "init")
    assert first["limits"] == {
        "limit_kb": 51_200,
        "usage_kb": 50_176,
        "headroom_kb": 1_024,
        "bound_by": None,
        "cache_kb": 2_048,
        "swap_kb": 0,
        "oom": 4,
        "oom_kill": 2,
        "pressure_some_avg10": 12.5,
        "pressure_full_avg10": 3.25,
        "oom_group": "/batch",
        "policy": None,
    }


def test_the_system_has_no_memcg() -> None:
    ranking = Ranking(Scope(None, 100, 50, 100), [candidate(1, 5, memory=None)])
    record = report.record(ranking, ranking.candidates[0], plain(ranking.candidates[0]))
    assert (record["scope"], record["memcg"]) == ("system", None)
    assert record["memory"]["anon_rss_kb"] is None
