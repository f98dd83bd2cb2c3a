"""Where killtrace runs: its PID namespace, the cgroups, and the tracers that run already."""

from __future__ import annotations

from collections.abc import Iterator

from killtrace.doctor.machine import Check, Machine
from killtrace.probe.bpf_calls import in_initial_pid_namespace
from killtrace.probe.running import RunningTracer

_DEFAULT_ENTRIES = 16384
_LOST = ("lost_signals", "lost_deaths", "untracked")


def checks(machine: Machine) -> Iterator[Check]:
    """PID namespace, memory cgroups, command lines, losses."""
    yield _namespace(machine)
    yield _memory_cgroup(machine)
    try:
        tracers: list[RunningTracer] | None = machine.tracers() if machine.may_trace else None
    except OSError:
        tracers = None
    yield _command_lines(machine, tracers)
    yield _losses(tracers)


def _namespace(machine: Machine) -> Check:
    gives = "pids as the whole machine has them"
    if in_initial_pid_namespace(machine.path("/proc")):
        return Check("PID namespace", True, False, "the initial one", gives)
    detail = "not the initial one: a container"
    if machine.may_trace:
        try:
            detail += f"; killtrace is {machine.host_tgid()} on the host"
        except OSError:
            pass
    return Check(
        "PID namespace",
        False,
        False,
        detail,
        gives,
        "all signals of the machine are seen, with the host's pids and the kernel's command lines;"
        " /proc shows this namespace alone, so --pid can name no other process, and users, titles"
        " and containers of others may be missing; `killtrace run` works as ever",
        "run it on the host, or in a container with --pid=host",
    )


def _memory_cgroup(machine: Machine) -> Check:
    gives = "memory limits, for `killtrace oom` and OOM kills"
    controllers = machine.text("/sys/fs/cgroup/cgroup.controllers")
    if controllers is not None and "memory" in controllers.split():
        return Check("memory cgroups", True, False, "cgroup v2", gives)
    if machine.has("/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        return Check("memory cgroups", True, False, "cgroup v1", gives)
    v2 = controllers is not None or machine.has("/sys/fs/cgroup/unified/cgroup.controllers")
    mend = "boot with cgroup_enable=memory" if v2 else "mount -t cgroup2 none /sys/fs/cgroup"
    detail = "no memory controller" + (" in cgroup v2" if v2 else ": no cgroups are mounted")
    return Check(
        "memory cgroups",
        False,
        False,
        detail,
        gives,
        "the ranking of the whole machine alone",
        mend,
    )


def _command_lines(machine: Machine, tracers: list[RunningTracer] | None) -> Check:
    name, gives = "command lines", "who it was, of a process that has ended"
    processes = _processes(machine)
    entries = min((tracer.entries for tracer in tracers or ()), default=_DEFAULT_ENTRIES)
    ok = processes * 2 <= entries
    what = [f"room for {entries:,} ({processes:,} processes run now)"]
    if tracers is None:
        what.append("those of running tracers are for root to see")
    elif not tracers:
        what.append("no tracer runs now")
    for tracer in tracers or ():
        kept = "many" if tracer.kept is None else f"{tracer.kept:,}"
        what.append(
            f"a running tracer keeps {kept} of {tracer.entries:,};"
            f" about {tracer.made_way:,} made way for newer ones"
        )
    wanted = 1 << (processes * 4 - 1).bit_length()
    stand_in = None if ok else "none: a name alone (comm), never another process's command line"
    mend = None if ok else f"trace with --exec-entries {wanted}"
    return Check(name, ok, False, "; ".join(what), gives, stand_in, mend)


def _processes(machine: Machine) -> int:
    try:
        return sum(entry.name.isdecimal() for entry in machine.path("/proc").iterdir())
    except OSError:
        return 0


def _losses(tracers: list[RunningTracer] | None) -> Check:
    name, gives = "lost events", "that nothing is missing from what running tracers tell"
    if tracers is None:
        return Check(name, True, False, "for root to see", gives)
    lost = {key: sum(tracer.stats[key] for tracer in tracers) for key in _LOST}
    if not any(lost.values()):
        seen = sum(tracer.stats["signals"] for tracer in tracers)
        return Check(name, True, False, f"none, of {seen:,} signals that were traced", gives)
    words = ", ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in lost.items() if count)
    mend = "trace with more --buffer-pages, or fewer signals"
    return Check(name, False, False, words, gives, None, mend)
