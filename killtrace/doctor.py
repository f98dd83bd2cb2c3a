"""What this machine can and cannot tell: one check each, pure where it can be."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from killtrace.errors import KilltraceError


@dataclass(frozen=True)
class Check:
    """One finding.  `gives` is what it is for, `stand_in` what serves where it is missing."""

    name: str
    ok: bool
    required: bool
    detail: str
    gives: str
    stand_in: str | None = None
    mend: str | None = None


@dataclass(frozen=True)
class Machine:
    """Where the checks look; tests hand in a folder of their own."""

    root: Path = Path("/")

    def text(self, path: str) -> str | None:
        """A file's text, stripped; None where it can't be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def has(self, path: str) -> bool:
        """Whether a path is there."""
        return (self.root / path).exists()


def checks(machine: Machine, *, trial: Callable[[], str | None]) -> Iterator[Check]:
    """All checks, in the order of their importance.

    `trial` loads and attaches the programs: None when it worked, else why not.
    """
    yield _kernel()
    yield _privileges(machine)
    yield _bcc()
    yield _layouts(machine)
    yield _tracing(trial)
    yield _symbols(machine)
    yield _oom_kprobe(machine)
    yield _mark_victim(machine)
    yield _namespace(machine)
    yield _memory_cgroup(machine)
    yield from _records(machine)


def _kernel() -> Check:
    return Check(
        "kernel",
        True,
        True,
        f"Linux {platform.release()} {platform.machine()}",
        "raw tracepoints and boot time, since 5.8",
    )


def _privileges(machine: Machine) -> Check:
    from killtrace.probe.loader import effective_capabilities

    effective = effective_capabilities(machine.root / "proc/self/status")
    admin, perfmon, bpf = 1 << 21, 1 << 38, 1 << 39
    ok = bool(effective & admin or (effective & perfmon and effective & bpf))
    return Check(
        "privileges",
        ok,
        True,
        f"uid {os.geteuid()}, " + ("may trace" if ok else "may not trace"),
        "loading the programs",
        None,
        None if ok else "run it with sudo, or give CAP_BPF and CAP_PERFMON",
    )


def _bcc() -> Check:
    from killtrace.probe import loader

    gives = "compiling and loading the programs"
    try:
        return Check("bcc", True, True, f"version {loader.bcc_version()}", gives)
    except KilltraceError as error:
        return Check("bcc", False, True, error.what, gives, None, error.mend)


def _layouts(machine: Machine) -> Check:
    from killtrace.probe import source

    gives = "the kernel's struct layouts, with no headers"
    if machine.has(str(source.BTF_PATH).lstrip("/")):
        size = (machine.root / str(source.BTF_PATH).lstrip("/")).stat().st_size
        return Check("BTF", True, True, f"{source.BTF_PATH}, {size / 1e6:.1f} MB", gives)
    headers = source.installed_headers()
    if headers is not None:
        return Check("BTF", False, False, "none", gives, f"installed headers: {headers}")
    mend = f"install the kernel's headers: {source.headers_hint()}"
    return Check("BTF", False, True, "none, and no kernel headers", gives, None, mend)


def _tracing(trial: Callable[[], str | None]) -> Check:
    gives = "every signal with its sender and origin; deaths; command lines"
    reason = trial()
    if reason is None:
        return Check("live tracing", True, True, "loads and attaches (4 raw tracepoints)", gives)
    return Check("live tracing", False, True, reason, gives, None, "mend what is missing above")


def _symbols(machine: Machine) -> Check:
    gives = "the origin, read off the kernel stack"
    stand_in = "si_code and the pids: origins are marked as not certain"
    first = ""
    try:
        with (machine.root / "proc/kallsyms").open() as file:
            first = next((line for line in file if not line.startswith("0000000000000000")), "")
    except OSError:
        pass
    if first:
        return Check("kernel symbols", True, False, "/proc/kallsyms shows addresses", gives)
    restrict = machine.text("proc/sys/kernel/kptr_restrict")
    return Check(
        "kernel symbols",
        False,
        False,
        f"addresses are hidden (kptr_restrict is {restrict})",
        gives,
        stand_in,
        "run it with CAP_SYSLOG, or: sysctl kernel.kptr_restrict=1",
    )


def _oom_kprobe(machine: Machine) -> Check:
    gives = "OOM kills: badness, allocation order and flags, exact memcg"
    stand_in = "the victim's own SIGKILL record, and the kernel log"
    ok = machine.has("sys/bus/event_source/devices/kprobe/type")
    detail = "oom_kill_process" if ok else "this kernel has no kprobes (CONFIG_KPROBES)"
    return Check("OOM kprobe", ok, False, detail, gives, None if ok else stand_in)


def _mark_victim(machine: Machine) -> Check:
    gives = "which victims the OOM killer marked; killtrace reads the same from the victim"
    for mount in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
        text = machine.text(f"{mount}/events/oom/mark_victim/format")
        if text is not None:
            full = "anon_rss" in text
            return Check(
                "oom:mark_victim", True, False, "with memory figures" if full else "pid only", gives
            )
    return Check("oom:mark_victim", False, False, "tracefs is not mounted", gives, "not needed")


def _namespace(machine: Machine) -> Check:
    gives = "pids as this machine's own"
    # The initial PID namespace has a fixed inode: PROC_PID_INIT_INO, include/linux/proc_ns.h.
    try:
        inode = (machine.root / "proc/self/ns/pid").stat().st_ino
    except OSError:
        inode = 0
    if inode == 0xEFFFFFFC:
        return Check("PID namespace", True, False, "the initial one", gives)
    return Check(
        "PID namespace",
        False,
        False,
        "not the initial one",
        gives,
        "all signals are seen, with the host's pids; /proc shows only this namespace's processes,"
        " so --pid takes none of the host's",
        "run it on the host, or in a container with --pid=host",
    )


def _memory_cgroup(machine: Machine) -> Check:
    gives = "memory limits of cgroups, for `killtrace oom` and OOM kills"
    controllers = machine.text("sys/fs/cgroup/cgroup.controllers")
    if controllers is not None and "memory" in controllers.split():
        return Check("memory cgroups", True, False, "cgroup v2", gives)
    if machine.has("sys/fs/cgroup/memory/memory.limit_in_bytes"):
        return Check("memory cgroups", True, False, "cgroup v1", gives)
    return Check(
        "memory cgroups",
        False,
        False,
        "no memory controller is mounted",
        gives,
        "the system-wide ranking alone",
        "boot with systemd.unified_cgroup_hierarchy=1",
    )


def _records(machine: Machine) -> Iterator[Check]:
    """What `killtrace why` can read after the fact."""
    found = (
        (
            "kernel log",
            "dev/kmsg",
            "OOM reports and faults of this boot",
            "run it as root, or: sysctl kernel.dmesg_restrict=0",
        ),
        (
            "journal",
            "var/log/journal",
            "units' ends and the kernel log of all boots",
            "mkdir -p /var/log/journal && systemctl restart systemd-journald",
        ),
        (
            "audit log",
            "var/log/audit/audit.log",
            "kill(2) calls with their login user",
            "apt-get install auditd && auditctl -a always,exit -F arch=b64 -S kill",
        ),
        (
            "accounting",
            "var/log/account/pacct",
            "which signal each process died of",
            "apt-get install acct && accton on",
        ),
        (
            "flight recorder",
            "var/lib/killtrace/killtrace.db",
            "all of it, for `why` and `history`",
            "sudo killtrace record --install",
        ),
    )
    for name, path, gives, mend in found:
        ok = os.access(machine.root / path, os.R_OK)
        there = machine.has(path)
        detail = f"/{path}" + ("" if ok else " can't be read" if there else " is not there")
        yield Check(name, ok, False, detail, gives, None, None if ok else mend)


def exit_status(found: list[Check]) -> int:
    """0 when live tracing works; 77 when privileges alone are missing; else 69."""
    bad = {check.name for check in found if check.required and not check.ok}
    if not bad:
        return 0
    return 77 if bad <= {"privileges", "live tracing"} and "privileges" in bad else 69
