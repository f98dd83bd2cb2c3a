"""The kernel, what it lets this user do, and what describes it."""

from __future__ import annotations

from collections.abc import Iterator

from killtrace.doctor.machine import CAP_PERFMON, CAP_SYS_ADMIN, Check, Machine
from killtrace.errors import KilltraceError
from killtrace.privileges import wants_admin

# bpf_ktime_get_boot_ns(), CAP_BPF and CAP_PERFMON came with it.
_OLDEST = (5, 8)
_HEADERS = (
    (("debian", "ubuntu"), "apt-get install linux-headers-{release}"),
    (("fedora", "rhel", "centos"), "dnf install kernel-devel-{release}"),
    (("suse", "opensuse"), "zypper install kernel-default-devel"),
    (("arch",), "pacman -S linux-headers"),
    (("alpine",), "apk add linux-lts-dev"),
)


def checks(machine: Machine) -> Iterator[Check]:
    """Kernel, privileges, lockdown, bcc, BTF, headers, symbols, perf_event_paranoid."""
    yield _kernel(machine)
    yield _privileges(machine)
    yield _lockdown(machine)
    yield _bcc(machine)
    yield from _layouts(machine)
    yield _symbols(machine)
    yield _paranoid(machine)


def _kernel(machine: Machine) -> Check:
    ok = machine.version >= _OLDEST
    return Check(
        "kernel",
        ok,
        True,
        f"Linux {machine.release} {machine.architecture}",
        "raw tracepoints, and programs that know the boot time",
        mend=None if ok else "boot a kernel of 5.8 or newer",
    )


def _privileges(machine: Machine) -> Check:
    may = "may trace" if machine.may_trace else "may not trace"
    mend = None
    if not machine.may_trace:
        mend = "run it with sudo, or give it CAP_BPF and CAP_PERFMON"
        if machine.euid == 0:
            mend = "give the container CAP_BPF, CAP_PERFMON and CAP_SYSLOG, or all (--privileged)"
    return Check(
        "privileges",
        machine.may_trace,
        True,
        f"uid {machine.euid}, {may} (CapEff {machine.capabilities:#x})",
        "loading programs into the kernel",
        mend=mend,
    )


def _lockdown(machine: Machine) -> Check:
    """kernel_lockdown(7); confidentiality forbids bpf_probe_read_kernel and kprobes."""
    gives = "programs may read kernel memory"
    text = machine.text("/sys/kernel/security/lockdown")
    if text is None:
        detail = "not known: securityfs is not mounted; the trial below tells"
        return Check("lockdown", True, True, detail, gives)
    mode = text.partition("[")[2].partition("]")[0] or text
    ok = mode != "confidentiality"
    mend = None if ok else "boot with lockdown=integrity or none, or without secure boot"
    return Check("lockdown", ok, True, mode, gives, mend=mend)


def _bcc(machine: Machine) -> Check:
    gives = "compiling the programs for this kernel"
    try:
        return Check("bcc", True, True, f"version {machine.bcc()}", gives)
    except KilltraceError as error:
        return Check("bcc", False, True, error.what, gives, mend=error.mend)


def _layouts(machine: Machine) -> Iterator[Check]:
    gives = "the kernel's struct layouts"
    headers = f"/lib/modules/{machine.release}/build"
    has_headers = machine.has(f"{headers}/include")
    has_btf = machine.has(machine.btf)
    mend = f"install the kernel's headers: {headers_command(machine)}"
    if has_btf:
        size_mb = machine.path(machine.btf).stat().st_size / 1e6
        yield Check("BTF", True, True, f"{machine.btf}, {size_mb:.1f} MB", gives)
    else:
        stand_in = f"the kernel's headers, {headers}: slower to start" if has_headers else None
        detail = "none (CONFIG_DEBUG_INFO_BTF)"
        yield Check(
            "BTF", False, not has_headers, detail, gives, stand_in, None if has_headers else mend
        )
    where = headers if has_headers else "not installed"
    yield Check(
        "kernel headers",
        has_headers or has_btf,
        False,
        f"{where}; not needed, there is BTF" if has_btf else where,
        f"{gives}, where there is no BTF",
        mend=None if has_headers or has_btf else mend,
    )


def headers_command(machine: Machine) -> str:
    """What installs the running kernel's headers on this distribution."""
    for names, command in _HEADERS:
        if machine.distribution & set(names):
            return command.format(release=machine.release)
    return f"the distribution's package of headers for {machine.release}"


def _symbols(machine: Machine) -> Check:
    """kallsyms_show_value(), kernel/ksyms_common.c."""
    gives = "the origin of a signal, read off the kernel's stack"
    first = machine.symbols.partition(b" ")[0]
    if first.strip(b"0"):
        return Check("kernel symbols", True, False, "/proc/kallsyms shows addresses", gives)
    restrict = machine.text("/proc/sys/kernel/kptr_restrict")
    mend = "run it with sudo, or give it CAP_SYSLOG"
    if not first:
        mend = "boot a kernel with CONFIG_KALLSYMS"
    elif restrict == "2":
        mend = "sysctl kernel.kptr_restrict=1"
    detail = f"addresses are hidden (kptr_restrict is {restrict})" if first else "no /proc/kallsyms"
    stand_in = "si_code and the pids; such origins are marked as not certain"
    return Check("kernel symbols", False, False, detail, gives, stand_in, mend)


def _paranoid(machine: Machine) -> Check:
    """perf_event_open(2): what it forbids is for those without CAP_PERFMON, or CAP_SYS_ADMIN."""
    setting = "/proc/sys/kernel/perf_event_paranoid"
    value = machine.text(setting)
    by_perfmon = machine.may(CAP_PERFMON) and not wants_admin(machine.path(setting))
    exempt = by_perfmon or machine.may(CAP_SYS_ADMIN)
    detail = f"perf_event_paranoid is {value or 'not known'}"
    return Check(
        "perf events",
        exempt,
        False,
        detail + (": no matter, with these rights" if exempt else ""),
        "the buffers that records come by",
        mend=None if exempt else "run it with sudo: then the value does not matter",
    )
