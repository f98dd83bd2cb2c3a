"""Origins by stack: the frames of each cause, as they were seen on real kernels."""

from __future__ import annotations

import pytest
from records import signal, task

from killtrace.attribute import SI_KERNEL, Attribution, after_sending, attribute

SENDING = ["__traceiter_signal_generate", "__send_signal_locked", "do_send_sig_info"]
KILL = ["kill_pid_info", "kill_something_info", "__x64_sys_kill", "do_syscall_64"]
EXIT = ["do_exit", "do_group_exit", "__x64_sys_exit_group"]
TTY = ["__kill_pgrp_info", "kill_pgrp", "isig", "n_tty_receive_signal_char", "flush_to_ldisc"]

CASES = [
    ("process", 0, 15, ["group_send_sig_info", *KILL]),
    ("process", 0, 15, ["kill_pid_info_type", "kill_something_info", "__arm64_sys_kill"]),
    ("process", -6, 15, ["do_send_specific", "__x64_sys_tgkill"]),
    ("process", 0, 15, ["do_pidfd_send_signal", "__x64_sys_pidfd_send_signal"]),
    ("process", -1, 15, ["kill_pid_info", "do_rt_sigqueueinfo", "__x64_sys_rt_sigqueueinfo"]),
    ("process", 0, 9, ["ptrace_request", "arch_ptrace", "__x64_sys_ptrace"]),
    ("terminal", SI_KERNEL, 2, TTY),
    ("hangup", SI_KERNEL, 1, ["tty_signal_session_leader", "__tty_hangup", "tty_release"]),
    ("session-exit", SI_KERNEL, 1, ["kill_pgrp", "disassociate_ctty", *EXIT]),
    ("session-exit", SI_KERNEL, 1, ["__tty_hangup", "disassociate_ctty", *EXIT]),
    ("hangup", SI_KERNEL, 1, ["kill_pgrp", "disassociate_ctty", "no_tty", "tty_ioctl"]),
    ("orphaned-group", SI_KERNEL, 1, ["__kill_pgrp_info", "kill_orphaned_pgrp", *EXIT]),
    ("orphaned-group", SI_KERNEL, 1, ["__kill_pgrp_info", *EXIT]),
    ("parent-death", 0, 9, EXIT),
    ("pid-namespace", SI_KERNEL, 9, ["zap_pid_ns_processes", *EXIT]),
    ("cgroup-kill", 0, 9, ["__cgroup_kill", "cgroup_kill_write", "kernfs_fop_write_iter"]),
    ("cpu-limit", SI_KERNEL, 9, ["posix_cpu_timers_work", "task_work_run"]),
    ("timer", SI_KERNEL, 27, ["posix_cpu_timers_work", "task_work_run"]),
    ("timer", -2, 15, ["send_sigqueue", "posix_timer_fn", "__hrtimer_run_queues"]),
    ("timer", -2, 15, ["posixtimer_send_sigqueue", "posix_timer_fn"]),
    ("timer", SI_KERNEL, 14, ["it_real_fn", "__hrtimer_run_queues"]),
    ("tracer-exit", SI_KERNEL, 9, ["exit_ptrace", *EXIT]),
    ("oom", SI_KERNEL, 9, ["__oom_kill_process", "oom_kill_process", "out_of_memory"]),
    ("oom", SI_KERNEL, 9, ["oom_kill_memcg_member", "mem_cgroup_scan_tasks"]),
    ("fd-signal", SI_KERNEL, 29, ["send_sigio_to_task", "send_sigio", "kill_fasync"]),
    ("fd-signal", -3, 15, ["kill_pid_info", "__do_notify", "do_mq_timedsend"]),
    ("sysrq", SI_KERNEL, 15, ["send_sig_all", "sysrq_handle_term", "__handle_sysrq"]),
    ("hardware", 4, 7, ["force_sig_mceerr", "kill_procs", "memory_failure"]),
    ("bpf", SI_KERNEL, 10, ["bpf_send_signal_common", "bpf_prog_1234"]),
    ("kernel", 1, 11, ["force_sig_fault", "bad_area_nosemaphore", "exc_page_fault"]),
    ("kernel", 0, 13, ["anon_pipe_write", "vfs_write"]),
]


@pytest.mark.parametrize(("kind", "code", "signo", "frames"), CASES)
def test_kinds(kind: str, code: int, signo: int, frames: list[str]) -> None:
    found = attribute(signal(code=code, signo=signo), SENDING[:2] + frames)
    assert (found.kind, found.certain) == (kind, True)


def test_only_senders_are_blamed() -> None:
    blamed = {kind for kind, code, signo, frames in CASES
              if attribute(signal(code=code, signo=signo), frames).blames_sender}  # fmt: skip
    assert blamed == {"process", "cgroup-kill"}


def test_roles_of_the_current_process() -> None:
    roles = {kind: attribute(signal(code=code, signo=signo), frames).role
             for kind, code, signo, frames in CASES}  # fmt: skip
    assert {k: r for k, r in roles.items() if r} == {
        "session-exit": "leader",
        "parent-death": "parent",
        "pid-namespace": "init",
        "tracer-exit": "tracer",
        "oom": "trigger",
    }


@pytest.mark.parametrize(
    ("frames", "group"),
    [
        (KILL, None),
        (["__kill_pgrp_info", "kill_something_info", "__x64_sys_kill"], 77),
        (["kill_something_info", "__x64_sys_kill"], -1),
    ],
)
def test_groups(frames: list[str], group: int | None) -> None:
    found = attribute(signal(target=task(pgid=77)), [*SENDING[:2], "group_send_sig_info", *frames])
    assert (found.syscall, found.group) == ("kill", group)


def test_keys() -> None:
    assert attribute(signal(code=SI_KERNEL, signo=2, vintr=3), TTY).key == "Ctrl-C"
    assert attribute(signal(code=SI_KERNEL, signo=3, vquit=28), TTY).key == "Ctrl-\\"
    assert attribute(signal(code=SI_KERNEL, signo=2, vintr=0x7F), TTY).key == "Ctrl-?"
    assert attribute(signal(code=SI_KERNEL, signo=2, vintr=0), TTY).key is None


def test_limits() -> None:
    record = signal(code=SI_KERNEL, signo=9, rlim_cpu_s=5)
    assert attribute(record, ["posix_cpu_timers_work"]).limit_s == 5
    record = signal(code=SI_KERNEL, signo=9, rlim_rttime_us=1_500_000)
    assert attribute(record, ["posix_cpu_timers_work"]).limit_s == 1.5


def test_memory_scopes() -> None:
    frames = ["__oom_kill_process", "oom_kill_process", "out_of_memory"]
    record = signal(code=SI_KERNEL, signo=9)
    assert attribute(record, [*frames, "mem_cgroup_out_of_memory"]).oom_scope == "memcg"
    assert attribute(record, [*frames, "__alloc_pages_slowpath"]).oom_scope == "system"
    assert attribute(record, [*frames, "moom_callback"]).by_sysrq


@pytest.mark.parametrize(
    ("code", "sender", "kind"),
    [
        (0, task(tgid=50), "process"),
        (0, task(tgid=1, flags=0x4), "parent-death"),
        (-6, task(tgid=50), "process"),
        (-2, task(tgid=50), "timer"),
        (-3, task(tgid=50), "fd-signal"),
        (SI_KERNEL, task(tgid=50), "kernel"),
    ],
)
def test_without_a_stack_nothing_is_certain(code: int, sender: object, kind: str) -> None:
    found = attribute(signal(code=code, sender=sender, target=task(ppid=1)), [])
    assert (found.kind, found.certain) == (kind, False)


def test_the_signal_code_itself_is_skipped() -> None:
    assert list(after_sending(["a", "__send_signal_locked", "b"])) == ["b"]
    assert list(after_sending(["a", "b"])) == ["a", "b"]
    assert isinstance(attribute(signal(), ["?"]), Attribution)
