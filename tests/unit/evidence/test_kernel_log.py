"""OOM reports of all ages, faults, and text that is no report at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from killtrace.evidence.kernel_log import Fault, KernelLine, OomKill, Trouble, parse
from killtrace.evidence.log_lines import lines_of

# 6.18, a memory cgroup; printed by a real kill.
NEW = """\
python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
CPU: 1 UID: 0 PID: 14457 Comm: python3 Not tainted 6.18.0 #1 PREEMPT_DYNAMIC
memory: usage 30720kB, limit 30720kB, failcnt 41
swap: usage 0kB, limit 9007199254740988kB, failcnt 0
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
[  14457]     0 14457    11173     9675     8352     1323         0   126976        0             0 python3
[  14460]     0 14460      700      120      100       20         0    45056        0           500 my (odd) name
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/batch,task_memcg=/batch/inner,task=python3,pid=14457,uid=0
Memory cgroup out of memory: Killed process 14457 (python3) total-vm:44692kB, anon-rss:33408kB, file-rss:5292kB, shmem-rss:0kB, UID:0 pgtables:124kB oom_score_adj:0
oom_reaper: reaped process 14457 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB
"""  # noqa: E501
OLD = """\
java invoked oom-killer: gfp_mask=0x201da, order=0, oom_score_adj=0
Task in /lxc/web killed as a result of limit of /lxc
memory: usage 1048576kB, limit 1048576kB, failcnt 7
[ pid ]   uid  tgid total_vm      rss nr_ptes swapents oom_score_adj name
[ 4321]  1000  4321   600000   250000     700        0             0 java
Memory cgroup out of memory: Kill process 4321 (java) score 987 or sacrifice child
Killed process 4321 (java) total-vm:2400000kB, anon-rss:999000kB, file-rss:1000kB
"""
OLDEST = """\
Out of memory: Kill process 2592 (oom) score 938 or sacrifice child
Killed process 2592, UID 500, (oom) total-vm:6512kB, anon-rss:6000kB, file-rss:12kB
"""
CLASSIC = (
    "Out of memory: Killed process 179944 (python) total-vm:12790640kB, anon-rss:12702024kB, "
    "file-rss:0kB, shmem-rss:0kB, UID:1000 pgtables:24936kB oom_score_adj:0"
)


def _events(text: str) -> list[object]:
    return list(parse(KernelLine(line) for line in text.splitlines()))


def _kill(text: str) -> OomKill:
    (kill,) = _events(text)
    assert isinstance(kill, OomKill)
    return kill


def test_a_report_of_today() -> None:
    kill = _kill(NEW)
    report = kill.report
    assert (kill.pid, kill.comm, kill.uid, kill.anon_rss_kb, kill.pgtables_kb) == (
        14457, "python3", 0, 33408, 124,
    )  # fmt: skip
    assert (report.scope, report.oom_memcg, report.task_memcg) == (
        "memcg",
        "/batch",
        "/batch/inner",
    )
    assert (report.trigger_comm, report.trigger_pid) == ("python3", 14457)
    assert (report.gfp, report.order, report.limit_kb) == ("GFP_KERNEL", 0, 30720)


def test_candidates_by_badness() -> None:
    first, second = _kill(NEW).report.candidates()
    # oom_badness(): rss + swap + page tables, and the adjustment's share of the limit.
    assert (first["pid"], first["badness"]) == (14457, 9675 + 31)
    assert (second["comm"], second["badness"]) == ("my (odd) name", 120 + 11 + 500 * 7680 // 1000)


def test_a_report_of_3_10() -> None:
    kill = _kill(OLD)
    assert (kill.pid, kill.comm, kill.anon_rss_kb, kill.shmem_rss_kb) == (
        4321,
        "java",
        999000,
        None,
    )
    assert (kill.report.oom_memcg, kill.report.scope) == ("/lxc", "memcg")
    assert kill.report.candidates()[0]["badness"] == 250000 + 700


def test_a_report_of_2_6() -> None:
    kill = _kill(OLDEST)
    assert (kill.pid, kill.comm, kill.total_vm_kb) == (2592, "oom", 6512)


def test_the_classic_line_alone() -> None:
    kill = _kill(CLASSIC)
    assert (kill.pid, kill.uid, kill.total_vm_kb, kill.oom_score_adj) == (179944, 1000, 12790640, 0)
    assert kill.report.candidates() == []


def test_two_reports_do_not_mix() -> None:
    first, second = (kill for kill in _events(NEW + CLASSIC) if isinstance(kill, OomKill))
    assert first.pid == 14457 and second.pid == 179944


def test_a_group() -> None:
    text = NEW + (
        "Tasks in /batch are going to be killed due to memory.oom.group set\n"
        "Memory cgroup out of memory: Killed process 14460 (b) total-vm:1kB, anon-rss:1kB\n"
    )
    kills = [event for event in _events(text) if isinstance(event, OomKill)]
    assert [kill.pid for kill in kills] == [14457, 14460] and kills[1].report.group


def test_faults_and_troubles() -> None:
    fault, trap, hung, panic = _events(
        "app[77]: segfault at 0 ip 000055d6 sp 00007ffc error 4 in app[55d6+1000]\n"
        "traps: app[78] trap invalid opcode ip:55d6 sp:7ffc error:0 in app[55d6+1000]\n"
        "INFO: task worker:99 blocked for more than 120 seconds.\n"
        "Kernel panic - not syncing: Fatal exception\n"
    )
    assert isinstance(fault, Fault) and (fault.pid, fault.what) == (77, "segfault at")
    assert isinstance(trap, Fault) and trap.pid == 78
    assert isinstance(hung, Trouble) and (hung.comm, hung.pid) == ("worker", 99)
    assert isinstance(panic, Trouble) and panic.what == "kernel panic: Fatal exception"


def test_every_shape_of_line() -> None:
    rows = [
        f"[ 3594.858108] {CLASSIC}",
        f"<3>[ 3594.858108] {CLASSIC}",
        f"3,831,3594858108,-;{CLASSIC}",
        f"[Mon Nov 23 19:30:03 2026] {CLASSIC}",
        f"2026-11-23T19:30:03.5+00:00 host kernel: [ 3594.858108] {CLASSIC}",
        f"Nov 23 19:30:03 host kernel: [ 3594.858108] {CLASSIC}",
        CLASSIC,
    ]
    now_ns = 1_795_500_000_000_000_000
    events = list(parse(lines_of(rows, boot_ns=10**18, now_ns=now_ns)))
    assert [event.pid for event in events] == [179944] * len(rows)
    assert events[0].time_ns == events[2].time_ns == 10**18 + 3_594_858_108_000
    assert events[4].time_ns == 1_795_462_203_500_000_000
    assert events[5].time_ns is not None and events[6].time_ns is None


@given(st.lists(st.integers(0, len(NEW.splitlines()) - 1)), st.integers(0, 400))
def test_shuffled_and_cut_reports_never_raise(order: list[int], cut: int) -> None:
    lines = NEW.splitlines()
    for event in parse(KernelLine(lines[index][:cut]) for index in order):
        assert event.text


@given(st.text(), st.text(max_size=40))
def test_hostile_text_never_raises(text: str, name: str) -> None:
    rows = [text, f"Killed process 1 ({name}) total-vm:{text}", f"[ 1] {text} {name}", NEW + text]
    for event in parse(lines_of("\n".join(rows).split("\n"))):
        if isinstance(event, OomKill):
            event.report.candidates()
