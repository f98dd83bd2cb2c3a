"""Where a signal came from, by the kernel stack that it was generated on.

Pure: a raw record and the names of its stack in, an Attribution out.  si_code alone can't tell:
PR_SET_PDEATHSIG and cgroup.kill look like kill(2), and a timer's `current` is whoever was
interrupted (docs/origins.md has each kind's path through the kernel).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from killtrace.decode import RawSignal

SI_USER, SI_KERNEL, SI_QUEUE, SI_TIMER, SI_MESGQ, SI_TKILL = 0, 0x80, -1, -2, -3, -6
SIGINT, SIGKILL, SIGXCPU = 2, 9, 24
NO_LIMIT = (1 << 64) - 1

# Nearest the signal; what follows it is the cause.  __send_signal before 6.1 (commit 157cc18122b4).
_SENDING = {"__send_signal_locked", "__send_signal", "send_signal_locked"}


class Attribution(NamedTuple):
    """The kind of origin, and what is known of it without asking anyone else.

    `blames_sender`: `current` is the process that is to blame.  `group`: the pgid, or -1, where
    one call reached many.  `role`: what `current` is to the kind (parent, leader, init, tracer,
    trigger), where it is something.
    """

    kind: str
    certain: bool
    blames_sender: bool = False
    syscall: str | None = None
    group: int | None = None
    role: str | None = None
    oom_scope: str | None = None
    oom_group: bool = False
    by_sysrq: bool = False
    key: str | None = None
    limit_s: float | None = None


# (kind, frames that must all be there, nearest first, role of `current`); the first that fits.
# A frame may be a choice of several: compilers inline, and kernels rename.
Rule = tuple[str, tuple[frozenset[str], ...], str | None]


def _rule(kind: str, *frames: str, role: str | None = None) -> Rule:
    return kind, tuple(frozenset(frame.split("|")) for frame in frames), role


_RULES: tuple[Rule, ...] = (
    _rule("oom", "__oom_kill_process|oom_kill_memcg_member|oom_kill_process", role="trigger"),
    _rule("oom", "out_of_memory|mem_cgroup_out_of_memory", role="trigger"),
    _rule("pid-namespace", "zap_pid_ns_processes", role="init"),
    _rule("cgroup-kill", "__cgroup_kill|cgroup_kill_control|cgroup_kill_write"),
    _rule("sysrq", "sysrq_handle_term|sysrq_handle_kill|send_sig_all"),
    _rule("sysrq", "__do_SAK|do_SAK_work"),
    _rule("tracer-exit", "exit_ptrace", role="tracer"),
    _rule("session-exit", "disassociate_ctty", "do_exit", role="leader"),
    _rule("orphaned-group", "kill_orphaned_pgrp"),
    _rule("hangup", "__tty_hangup|tty_signal_session_leader|disassociate_ctty|tty_vhangup"),
    _rule("terminal", "isig|__isig"),
    _rule(
        "timer",
        "posix_timer_fn|posixtimer_send_sigqueue|send_sigqueue|it_real_fn|cpu_timer_fire"
        "|posix_timer_event|posix_timer_queue_signal|alarm_handle_timer",
    ),
    _rule(
        "cpu-limit",
        "posix_cpu_timers_work|check_process_timers|check_thread_timers|run_posix_cpu_timers"
        "|handle_posix_cpu_timers|__run_posix_cpu_timers",
    ),
    _rule("fd-signal", "send_sigio_to_task|send_sigio|send_sigurg_to_task|send_sigurg|kill_fasync"),
    _rule("fd-signal", "__do_notify|dnotify_handle_event"),
    _rule(
        "hardware",
        "kill_procs|kill_proc|kill_me_now|kill_me_maybe|memory_failure|force_sig_mceerr"
        "|do_machine_check|hwpoison_user_mappings",
    ),
    _rule("bpf", "bpf_send_signal_common|do_bpf_send_signal|bpf_send_signal"),
)

_SYSCALL = re.compile(
    r"^(?:__(?:x64|ia32|ia32_compat|x32_compat|arm64|arm64_compat|s390|s390x|riscv|se|do|se_compat"
    r"|do_compat|powerpc)_)?(?:compat_)?sys_(\w+)$"
)
_SIGNAL_CALLS = {
    "kill",
    "tkill",
    "tgkill",
    "pidfd_send_signal",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "ptrace",
    "ioctl",
}
# Where the syscall's own frame was inlined or beyond the depth that is read.
_CALL_BY_HELPER = {
    "kill_something_info": "kill",
    "do_pidfd_send_signal": "pidfd_send_signal",
    "do_rt_sigqueueinfo": "rt_sigqueueinfo",
    "do_rt_tgsigqueueinfo": "rt_tgsigqueueinfo",
    "do_tkill": "tgkill",
    "ptrace_request": "ptrace",
    "pty_signal": "ioctl",
}


def after_sending(frames: Sequence[str]) -> tuple[str, ...]:
    """The frames beyond the signal code itself, nearest first; all where it is not in sight."""
    return _after_sending(tuple(frames))


# A machine sends its signals by a few paths, over and over: each is looked at once.
@lru_cache(maxsize=1024)
def _after_sending(frames: tuple[str, ...]) -> tuple[str, ...]:
    for index in range(len(frames) - 1, -1, -1):
        if frames[index] in _SENDING:
            return frames[index + 1 :]
    return frames


def attribute(record: RawSignal, frames: Sequence[str]) -> Attribution:
    """The origin of one signal; `frames` are function base names, nearest first, [] if unknown."""
    if not frames:
        return _by_code(record)
    names = after_sending(frames)
    rule = _rule_of(names)
    if rule is not None:
        return _refine(record, names, rule[0], rule[2])
    call = _syscall(names)
    if call is not None:
        return Attribution(
            "process", True, blames_sender=True, syscall=call, group=_group(record, names, call)
        )
    if record.code == SI_KERNEL and {"__kill_pgrp_info", "do_exit"} <= set(names):
        return Attribution("orphaned-group", True)  # kill_orphaned_pgrp() inlined
    if record.code == SI_USER and "do_exit" in names:
        # forget_original_parent() is inlined everywhere; nothing else sends SEND_SIG_NOINFO there.
        return Attribution("parent-death", True, role="parent")
    return Attribution("kernel", True)


@lru_cache(maxsize=1024)
def _rule_of(names: tuple[str, ...]) -> Rule | None:
    return next((rule for rule in _RULES if _matches(names, rule[1])), None)


def _matches(names: Sequence[str], required: Sequence[frozenset[str]]) -> bool:
    position = 0
    for choice in required:
        while position < len(names) and names[position] not in choice:
            position += 1
        if position == len(names):
            return False
        position += 1
    return True


def _refine(record: RawSignal, names: Sequence[str], kind: str, role: str | None) -> Attribution:
    if kind == "oom":
        in_memcg = (
            any(n.startswith("mem_cgroup_") for n in names) or "oom_kill_memcg_member" in names
        )
        return Attribution(
            kind,
            True,
            role=role,
            oom_scope="memcg" if in_memcg else "system",
            oom_group="oom_kill_memcg_member" in names,
            by_sysrq="moom_callback" in names,
        )
    if kind == "cgroup-kill":
        return Attribution(kind, True, blames_sender=True)
    if kind == "cpu-limit" and record.signo not in (SIGKILL, SIGXCPU):
        return Attribution("timer", True)  # ITIMER_PROF and ITIMER_VIRTUAL: check_cpu_itimer()
    if kind == "cpu-limit":
        return Attribution(kind, True, limit_s=_limit_s(record))
    if kind == "terminal":
        return Attribution(kind, True, key=_key(record))
    return Attribution(kind, True, role=role)


def _limit_s(record: RawSignal) -> float | None:
    if record.rlim_cpu_s != NO_LIMIT:
        return record.rlim_cpu_s
    if record.rlim_rttime_us != NO_LIMIT:
        return record.rlim_rttime_us / 1e6
    return None


def _key(record: RawSignal) -> str | None:
    char = record.vintr if record.signo == SIGINT else record.vquit
    if char == 0:
        return None
    return f"Ctrl-{chr(char ^ 0x40)}" if char < 0x20 or char == 0x7F else chr(char)


@lru_cache(maxsize=1024)
def _syscall(names: tuple[str, ...]) -> str | None:
    for name in names:
        if name in _CALL_BY_HELPER and name != "do_tkill":
            return _CALL_BY_HELPER[name]
        match = _SYSCALL.match(name)
        if match and match[1] in _SIGNAL_CALLS:
            return match[1]
    return "tgkill" if "do_tkill" in names or "do_send_specific" in names else None


def _group(record: RawSignal, names: Sequence[str], call: str) -> int | None:
    if call == "kill" and "kill_something_info" in names:
        nearest = names[: list(names).index("kill_something_info")]
        if any(n.startswith("__kill_pgrp_info") for n in nearest):
            return record.target.pgid or None
        if not any(n.startswith(("kill_pid_info", "kill_proc_info")) for n in nearest):
            return -1
    if call == "pidfd_send_signal" and "__kill_pgrp_info" in names:
        return record.target.pgid or None
    return None


def _by_code(record: RawSignal) -> Attribution:
    """No stack to be had: si_code and the pids decide, and nothing is certain."""
    sender, target = record.sender, record.target
    if record.code in (SI_USER, SI_TKILL, SI_QUEUE):
        if record.code == SI_USER and sender.flags & 0x4 and sender.tgid == target.ppid:
            return Attribution("parent-death", False, role="parent")  # PF_EXITING
        call = {SI_USER: "kill", SI_TKILL: "tgkill", SI_QUEUE: "rt_sigqueueinfo"}[record.code]
        return Attribution("process", False, blames_sender=True, syscall=call)
    if record.code == SI_TIMER:
        return Attribution("timer", False)
    if record.code == SI_MESGQ:
        return Attribution("fd-signal", False)
    return Attribution("kernel", False)
