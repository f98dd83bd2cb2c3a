"""Puts an origin into words: one sentence for a person, and the fields that its kind carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from killtrace import signames, text
from killtrace.attribute import Attribution
from killtrace.decode import RawSignal
from killtrace.enrich.tty import Holder
from killtrace.model import Origin, Process

_USERSPACE_OOM = ("systemd-oomd", "earlyoom", "oomd", "nohang")
_FAULTS = {
    "SIGSEGV": "it used memory that it may not (segmentation fault)",
    "SIGBUS": "it used memory that is not behind its mapping (bus error)",
    "SIGILL": "it ran an illegal instruction",
    "SIGFPE": "it divided by zero or the like (arithmetic fault)",
    "SIGTRAP": "it ran into a breakpoint",
    "SIGSYS": "it made a system call that its seccomp filter forbids",
    "SIGPIPE": "it wrote to a pipe or socket that nobody reads",
    "SIGXFSZ": "it wrote beyond its file size limit (RLIMIT_FSIZE)",
}
_SHOWN_FRAMES = 8


@dataclass(frozen=True)
class Oom:
    """The OOM killer's story, as far as it is known; sizes in kB.

    `scope` is system, memcg, cpuset or mempolicy.
    """

    scope: str
    memcg: str | None = None
    limit_kb: int | None = None
    usage_kb: int | None = None
    trigger: Process | None = None
    group: bool = False
    memory: Mapping[str, int | None] | None = None
    badness: int | None = None
    order: int | None = None
    gfp: str | None = None
    candidates: Sequence[Mapping[str, Any]] | None = None
    by_sysrq: bool = False


def named(process: Process | None, limit: int = 60) -> str:
    """A process in a sentence: 4681 (pkill sleep)."""
    if process is None:
        return "an unknown process"
    return f"{process.pid} ({_command(process.cmdline, process.comm, limit)})"


@lru_cache(maxsize=1024)
def _command(cmdline: tuple[str, ...] | None, comm: str | None, limit: int) -> str:
    return text.command(cmdline, comm, limit)


def size(kb: int) -> str:
    """KB for people: 812 kB, 50 MB, 1.5 GB (powers of 1024)."""
    if kb < 1024:
        return f"{kb} kB"
    for unit, factor in (("GB", 1 << 20), ("MB", 1 << 10)):
        if kb >= factor:
            amount = kb / factor
            return f"{amount:.1f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{kb} kB"


def origin(
    found: Attribution,
    record: RawSignal,
    sender: Process,
    frames: Sequence[str],
    *,
    target: Process,
    holder: Holder | None = None,
    oom: Oom | None = None,
) -> Origin:
    """The origin record of one signal; `sender` is `current`, to blame or not.

    `oom` goes with the kind of that name, `holder` with terminal and hangup.
    """
    kind = found.kind
    if found.blames_sender and is_userspace_oom(sender):
        summary = f"userspace OOM killer {named(sender)} chose it"
        return Origin("userspace-oom", summary, found.certain, {"reason": None})
    if kind == "process":
        return _process(found, sender)
    if kind == "terminal":
        return _terminal(found, record, target, holder)
    if kind == "hangup":
        return _hangup(found, target, holder)
    if oom is not None:
        return oom_origin(oom, found.certain)
    if kind == "cgroup-kill":
        summary = f"{named(sender)} wrote to cgroup.kill of {target.cgroup or 'its cgroup'}"
        return Origin(kind, summary, found.certain, {"cgroup": target.cgroup})
    if kind == "cpu-limit":
        return _cpu_limit(found)
    if kind == "kernel":
        return _kernel(found, record, frames)
    return _simple(found, sender)


def is_userspace_oom(sender: Process) -> bool:
    """Whether a process is one of the daemons that kill before the kernel must."""
    return _kills_for_memory(sender.cmdline, sender.comm)


@lru_cache(maxsize=1024)
def _kills_for_memory(cmdline: tuple[str, ...] | None, comm: str | None) -> bool:
    program = (cmdline or ("",))[0].rpartition("/")[2]
    script = (cmdline or ("", ""))[1:2]
    words = {comm, program, *(argument.rpartition("/")[2] for argument in script)}
    return bool(words & set(_USERSPACE_OOM))


def _process(found: Attribution, sender: Process) -> Origin:
    call = f"{found.syscall}(2)" if found.syscall else "a system call"
    to = ""
    if found.group == -1:
        to = " to every process it may signal"
    elif found.group is not None:
        to = f" to process group {found.group}"
    by = f", run by {text.escape(sender.user)}" if sender.user else ""
    summary = f"{named(sender)}{by} sent it with {call}{to}"
    detail = {"syscall": found.syscall, "group": found.group}
    return Origin("process", summary, found.certain, detail)


def _terminal(
    found: Attribution, record: RawSignal, target: Process, holder: Holder | None
) -> Origin:
    names = {2: "the interrupt key", 3: "the quit key", 20: "the suspend key"}
    key = found.key or names.get(record.signo, "a key")
    where = target.tty or "its terminal"
    summary = f"{key} on {where}" + _held(holder)
    detail = {"tty": target.tty, "key": found.key, **_holder_fields(holder)}
    return Origin("terminal", summary, found.certain, detail)


def _hangup(found: Attribution, target: Process, holder: Holder | None) -> Origin:
    summary = f"its terminal {target.tty or ''} was closed".replace("  ", " ") + _held(holder)
    return Origin("hangup", summary, found.certain, {"tty": target.tty, **_holder_fields(holder)})


def _held(holder: Holder | None) -> str:
    if holder is None:
        return ""
    words = [text.command((), holder.process.comm), str(holder.process.pid)]
    if holder.user:
        words.append(text.escape(holder.user))
    if holder.remote_host:
        words.append(f"from {text.escape(holder.remote_host)}")
    return f" (held by {', '.join(words)})"


def _holder_fields(holder: Holder | None) -> dict[str, Any]:
    if holder is None:
        return {"holder": None, "login_user": None, "remote_host": None}
    return {
        "holder": holder.process,
        "login_user": holder.user,
        "remote_host": holder.remote_host,
    }


def oom_origin(oom: Oom, certain: bool) -> Origin:
    """The OOM killer's sentence, with the figures behind it."""
    if oom.scope == "memcg":
        limit = f" of {size(oom.limit_kb)}" if oom.limit_kb is not None else ""
        summary = f"OOM killer: cgroup {oom.memcg or '(unknown)'} reached its limit{limit}"
    elif oom.scope == "system":
        summary = "OOM killer: the machine ran out of memory"
        if oom.by_sysrq:
            summary = "OOM killer, called by SysRq f"
    else:
        summary = f"OOM killer: no memory left in its {oom.scope}"
    rss = _rss_kb(oom.memory)
    if rss is not None:
        summary += f"; RSS {size(rss)}"
    if oom.group:
        summary += "; its whole cgroup was killed (memory.oom.group)"
    detail = {
        "scope": oom.scope,
        "memcg": oom.memcg,
        "limit_kb": oom.limit_kb,
        "usage_kb": oom.usage_kb,
        "trigger": oom.trigger,
        "group": oom.group,
        "memory": None if oom.memory is None else dict(oom.memory),
        "badness": oom.badness,
        "order": oom.order,
        "gfp": oom.gfp,
        "candidates": None if oom.candidates is None else [dict(c) for c in oom.candidates],
    }
    return Origin("oom", summary, certain, detail)


def _rss_kb(memory: Mapping[str, int | None] | None) -> int | None:
    if memory is None:
        return None
    parts = [memory.get(name) for name in ("anon_rss_kb", "file_rss_kb", "shmem_rss_kb")]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _cpu_limit(found: Attribution) -> Origin:
    limit = "" if found.limit_s is None else f" of {found.limit_s:g} s"
    summary = f"it used up its CPU time limit{limit} (RLIMIT_CPU)"
    if found.limit_s is not None and found.limit_s != int(found.limit_s):
        summary = f"it ran longer than its real-time limit{limit} (RLIMIT_RTTIME)"
    return Origin("cpu-limit", summary, found.certain, {"limit_s": found.limit_s})


def _kernel(found: Attribution, record: RawSignal, frames: Sequence[str]) -> Origin:
    stack = list(frames) or None
    reason = _FAULTS.get(signames.name(record.signo))
    if reason is None and stack:
        reason = "the kernel: " + " ← ".join(stack[:3])
    if reason is None:
        reason = "the kernel sent it; the path could not be read"
    return Origin("kernel", reason, found.certain, {"stack": stack})


def _simple(found: Attribution, sender: Process) -> Origin:
    who = named(sender)
    summaries = {
        "session-exit": f"the leader of its session, {who}, exited",
        "orphaned-group": "its stopped process group was orphaned",
        "parent-death": f"its parent {who} exited (PR_SET_PDEATHSIG)",
        "pid-namespace": f"the init of its PID namespace, {who}, ended",
        "timer": "a timer that it had set expired",
        "fd-signal": "a file descriptor or queue that it had asked to be told of was ready",
        "tracer-exit": f"its tracer {who} exited (PTRACE_O_EXITKILL)",
        "sysrq": "SysRq, from the keyboard or /proc/sysrq-trigger",
        "hardware": "an uncorrectable memory error in a page that it used",
        "bpf": f"a BPF program sent it while {who} ran (bpf_send_signal)",
    }
    detail = {found.role: sender} if found.role else {}
    return Origin(found.kind, summaries[found.kind], found.certain, detail)
