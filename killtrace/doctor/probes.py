"""Each probe: whether this kernel has it, what it gives, and what stands in for it."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from killtrace.doctor.machine import Check, Machine
from killtrace.errors import KilltraceError

# (raw tracepoint, whether tracing needs it, what it gives)
_RAW = (
    ("signal_generate", True, "every signal: both ends, and the kernel stack that is its origin"),
    ("sched_process_exit", True, "every death, with its exit status"),
    ("sched_process_exec", True, "command lines that outlive their processes"),
    ("sched_process_fork", True, "the same before an exec; what `killtrace run` starts"),
    ("sys_exit", False, "--failed: signals that the kernel refused, with the errno"),
)
_OOM = "oom_kill_process"
_KPROBE_TYPE = "/sys/bus/event_source/devices/kprobe/type"
_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_KERNEL_LOG = "the victim's own SIGKILL record and memory, and the kernel log"


def checks(machine: Machine) -> Iterator[Check]:
    """The raw tracepoints, the kprobe, oom:mark_victim, and all programs together."""
    for name, required, gives in _RAW:
        yield _raw_tracepoint(machine, name, required, gives)
    trial, missing = _trial(machine)
    yield _oom_kprobe(machine, missing)
    yield _mark_victim(machine)
    yield trial


def _raw_tracepoint(machine: Machine, name: str, required: bool, gives: str) -> Check:
    mend = "boot a kernel with CONFIG_TRACEPOINTS and CONFIG_BPF_EVENTS"
    if name == "sys_exit":
        mend = "boot a kernel with CONFIG_HAVE_SYSCALL_TRACEPOINTS and CONFIG_FTRACE_SYSCALLS"
    if not machine.may_trace:
        there = machine.has_symbol(f"__traceiter_{name}") or machine.has_symbol(
            f"__tracepoint_{name}"
        )
        detail = "in this kernel; not tried, that is for root" if there else "not in this kernel"
        return Check(name, there, required, detail, gives, mend=None if there else mend)
    try:
        machine.attach(name)
    except OSError as error:
        gone = error.errno == errno.ENOENT
        detail = "not in this kernel" if gone else f"does not attach ({error.strerror})"
        return Check(name, False, required, detail, gives, mend=mend)
    return Check(name, True, required, "raw tracepoint, attaches", gives)


def _trial(machine: Machine) -> tuple[Check, set[str]]:
    """All programs together, as the live tail has them; and what of them did not attach."""
    gives = "the live tail, --wait, record and run"
    name = "live tracing"
    if not machine.may_trace:
        mend = "run `sudo killtrace doctor`"
        return Check(name, False, True, "not tried: that is for root", gives, mend=mend), set()
    try:
        missing = machine.trial()
    except KilltraceError as error:
        mend = f"mend what is missing above; {error.mend}"
        return Check(name, False, True, error.what, gives, mend=mend), set()
    but = f", but for {', '.join(missing)}" if missing else ""
    detail = f"the programs compile, load and attach{but}"
    return Check(name, True, True, detail, gives), set(missing)


def _oom_kprobe(machine: Machine, missing: set[str]) -> Check:
    gives = "OOM kills: badness, order and flags of the allocation, the exact memcg"
    if not machine.has(_KPROBE_TYPE):
        detail = "this kernel has no kprobes"
        mend = "boot a kernel with CONFIG_KPROBES; little is lost without"
        return Check(_OOM, False, False, detail, gives, _KERNEL_LOG, mend)
    if not machine.has_symbol(_OOM) or _OOM in missing:
        detail = "a kprobe on it does not attach (inlined, or forbidden)"
        return Check(_OOM, False, False, detail, gives, _KERNEL_LOG)
    return Check(_OOM, True, False, "kprobe", gives)


def _mark_victim(machine: Machine) -> Check:
    """What it carries is told by its format file, never by the version: stable kernels differ."""
    name, gives = "oom:mark_victim", "a victim's pid, and its memory where the kernel is new enough"
    stand_in = "the victim's own SIGKILL record, which tells all of it"
    for mount in _TRACEFS:
        text = machine.text(f"{mount}/events/oom/mark_victim/format")
        if text is not None:
            full = "anon_rss" in text
            detail = "in full" if full else "with the pid alone"
            return Check(name, full, False, detail, gives, None if full else stand_in)
    if not machine.may_trace:
        return Check(
            name, False, False, "tracefs can't be read", gives, stand_in, "read it as root"
        )
    mend = "mount -t tracefs nodev /sys/kernel/tracing; nothing is lost without"
    return Check(name, False, False, "tracefs is not mounted", gives, stand_in, mend)
