from __future__ import annotations

import pytest
from machines import PAGE_KB, FakeMachine

from killtrace.enrich.procfs import ProcFs
from killtrace.errors import InvalidUseError, NotFoundError, UnsupportedError
from killtrace.oom.survey import Ranking, Surveyor, parse_what_if


def surveyor(machine: FakeMachine) -> Surveyor:
    return Surveyor(ProcFs(machine.proc), PAGE_KB)


def look(
    machine: FakeMachine, what_if: dict[int, int] | None = None, only: str | None = None
) -> list[Ranking]:
    return list(surveyor(machine).look(what_if or {}, only, only is not None))


def pids(ranking: Ranking) -> list[int]:
    return [candidate.task.pid for candidate in ranking.candidates]


def test_the_machine_and_each_limited_cgroup(either: FakeMachine) -> None:
    either.cgroup("/a", limit_kb=4000)
    either.cgroup("/a/b")
    either.process(1, 100, comm="systemd")
    either.process(2, kernel=True, comm="kthreadd")
    either.process(50, 800)
    either.process(51, 400, cgroup="/a")
    either.process(52, 600, cgroup="/a/b")
    either.process(53, 500, cgroup="/ab")
    system, inner = look(either)
    assert (system.scope.memcg, pids(system)) == (None, [50, 52, 53, 51, 1, 2])
    assert [one.shielded for one in system.candidates[4:]] == ["init", "kernel thread"]
    assert (inner.scope.memcg, pids(inner)) == ("/a", [52, 51])


def test_the_machines_figures(either: FakeMachine) -> None:
    either.memory(1_000_000, swap_kb=400)
    (system,) = look(either)
    scope = system.scope
    assert (scope.limit_kb, scope.usage_kb, scope.headroom_kb) == (1_000_000, 500_000, 500_000)
    assert (scope.total_kb, scope.swap_kb, scope.kills) == (1_000_400, 300, 3)
    assert scope.pressure is not None
    assert (scope.pressure.some_avg10, scope.pressure.full_avg10) == (1.5, 0.25)


def test_the_adjustment_is_a_share_of_the_scope(either: FakeMachine) -> None:
    either.cgroup("/a", limit_kb=8000)  # 2 pages a thousandth
    either.process(51, 400, cgroup="/a")
    either.process(52, 40, adj=100, cgroup="/a")
    system, inner = look(either)
    assert [one.badness for one in inner.candidates] == [10 + 200, 100]
    assert [one.badness for one in system.candidates] == [10 + 25_000, 100]


def test_what_if(either: FakeMachine) -> None:
    either.process(51, 400)
    either.process(52, 40)
    assert [pids(one) for one in look(either, {52: 1})] == [[52, 51]]
    with pytest.raises(NotFoundError, match="no process 77"):
        look(either, {77: 1})


def test_one_cgroup_alone(either: FakeMachine) -> None:
    either.cgroup("/a", limit_kb=8000)
    either.cgroup("/b", limit_kb=8000)
    either.process(51, 400, cgroup="/b")
    (only,) = look(either, only="/b")
    assert (only.scope.memcg, pids(only)) == ("/b", [51])


def test_the_machine_alone(either: FakeMachine) -> None:
    either.cgroup("/a", limit_kb=8000)
    either.process(51, 400, cgroup="/a")
    found = list(surveyor(either).look({}, None, alone=True))
    assert [one.scope.memcg for one in found] == [None]


def test_version_1_without_hierarchy(v1: FakeMachine) -> None:
    v1.cgroup("/a", limit_kb=8000, memory__use_hierarchy="0")
    v1.cgroup("/a/b")
    v1.process(51, 400, cgroup="/a")
    v1.process(52, 800, cgroup="/a/b")
    assert pids(look(v1, only="/a")[0]) == [51]


def test_resolve(either: FakeMachine) -> None:
    either.cgroup("/a/b", limit_kb=8000)
    found = surveyor(either)
    for given in ("/a/b", "a/b", "/a/b/", f"{either.mount}/a/b", f"{either.mount}/a/b/"):
        assert found.resolve(given) == "/a/b"
    assert found.resolve("/") is None
    assert found.resolve(str(either.mount)) is None


@pytest.mark.parametrize("given", ["/nope", "../..", "/a/../b", "/tmp", "/a/b\x1b[31m"])
def test_no_such_cgroup(either: FakeMachine, given: str) -> None:
    either.cgroup("/b", limit_kb=8000)
    with pytest.raises(NotFoundError) as caught:
        surveyor(either).resolve(given)
    assert caught.value.exit_status == 3
    assert "\x1b" not in str(caught.value)


def test_no_hierarchy_with_memory(v2: FakeMachine) -> None:
    (v2.mount / "cgroup.controllers").write_text("cpu\n")
    v2.process(51, 400)
    assert [pids(one) for one in look(v2)] == [[51]]
    with pytest.raises(UnsupportedError):
        surveyor(v2).resolve("/a")


@pytest.mark.parametrize("given", ["", "5", "5=", "=5", "x=5", "5=x", "5=1001", "-5=3", "5=--3"])
def test_bad_what_if(given: str) -> None:
    with pytest.raises(InvalidUseError):
        parse_what_if([given])
    assert parse_what_if(["5=-1000", "6=0"]) == {5: -1000, 6: 0}


@pytest.mark.parametrize(
    ("setting", "value", "system", "memcg"),
    [
        ("panic_on_oom", "0", None, None),
        ("panic_on_oom", "1", "panics", None),
        ("panic_on_oom", "2", "panics", "panics"),
        ("oom_kill_allocating_task", "1", "who asks", None),
    ],
)
def test_settings_that_overrule(
    either: FakeMachine, setting: str, value: str, system: str | None, memcg: str | None
) -> None:
    either.cgroup("/a", limit_kb=8000)
    either.write(either.proc / "sys/vm" / setting, f"{value}\n")
    for ranking, expected in zip(look(either), (system, memcg), strict=True):
        if expected is None:
            assert ranking.policy is None
        else:
            assert expected in (ranking.policy or "")


def test_the_group_of_the_first(v2: FakeMachine) -> None:
    v2.cgroup("/a", limit_kb=8000, memory__oom__group="1")
    v2.cgroup("/b", limit_kb=8000)
    v2.process(51, 400, cgroup="/a")
    v2.process(52, 300, cgroup="/b")
    assert [one.group for one in look(v2)] == ["/a", "/a", None]


def test_a_first_thread_that_ended(either: FakeMachine) -> None:
    either.cgroup("/a", limit_kb=8000)
    folder = either.process(51, cgroup="/a", state="Z", kernel=False)
    either.write(folder / "status", either.status("hog", 51, 0, none=True))
    either.process(52, 300, cgroup="/a")
    thread = folder / "task/60"
    either.write(thread / "status", either.status("hog", 60, 400))
    either.write(thread / "cgroup", (folder / "cgroup").read_text())
    if either.version == 1:  # which shows what has ended in the root
        either.write(folder / "cgroup", "4:memory:/\n0::/\n")
    assert pids(look(either, only="/a")[0]) == [51, 52]
    (thread / "status").unlink()
    (ended, *_) = (one for one in look(either)[0].candidates if one.task.pid == 51)
    assert ended.shielded == "already exiting"


@pytest.mark.parametrize(
    ("wchan", "children", "rss_kb", "shielded"),
    [
        ("kernel_clone", "61", 400, True),
        ("_do_fork", "7 61 ", 400, True),
        ("do_wait", "61", 400, False),
        ("kernel_clone", "62", 400, False),
        ("kernel_clone", "61", 404, False),
    ],
)
def test_vfork(either: FakeMachine, wchan: str, children: str, rss_kb: int, shielded: bool) -> None:
    parent = either.process(60, 400, state="D")
    either.process(61, rss_kb, ppid=60)
    either.write(parent / "task/60/children", children)
    either.write(parent / "task/60/wchan", wchan)
    (child,) = (one for one in look(either)[0].candidates if one.task.pid == 61)
    assert (child.shielded is not None) is shielded


def test_a_process_that_vanishes_is_left_out(either: FakeMachine) -> None:
    either.process(51, 400)
    (either.process(52, 800) / "oom_score_adj").unlink()
    assert pids(look(either)[0]) == [51]


def test_a_pid_namespaces_init_has_no_shield(either: FakeMachine) -> None:
    either.process(1, 400)
    link = either.proc / "self/ns/pid"
    link.parent.mkdir(parents=True)
    link.symlink_to("pid:[4026539999]")
    assert look(either)[0].candidates[0].shielded is None
    assert not surveyor(either).sees_all
