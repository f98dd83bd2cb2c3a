"""`killtrace doctor` on machines made of files: each lack is named, with its mend."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from killtrace.doctor import Check, Machine, checks, exit_status
from killtrace.errors import UnsupportedError
from killtrace.probe.running import STATS, RunningTracer

CHECKOUT = Path(__file__).resolve().parents[2]
HEADER = CHECKOUT / "bpf" / "killtrace.h"
ALL_CAPS = "000001ffffffffff"
_KALLSYMS = "".join(
    f"ffffffff8100{number:04x} T {name}\n"
    for number, name in enumerate(
        [
            "_stext",
            "__traceiter_signal_generate",
            "__traceiter_sched_process_exit",
            "__traceiter_sched_process_exec",
            "__traceiter_sched_process_fork",
            "__traceiter_sys_exit",
            "oom_kill_process",
        ]
    )
)
_FILES = {
    "proc/self/status": f"Name:\tx\nCapEff:\t{ALL_CAPS}\n",
    "proc/kallsyms": _KALLSYMS,
    "proc/sys/kernel/kptr_restrict": "0\n",
    "proc/sys/kernel/perf_event_paranoid": "2\n",
    "proc/1/stat": "",
    "etc/os-release": 'ID=debian\nVERSION_ID="13"\n',
    "sys/kernel/btf/vmlinux": "BTF",
    "sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
    "sys/bus/event_source/devices/kprobe/type": "8\n",
    "sys/kernel/tracing/events/oom/mark_victim/format": "field:int pid; field:long anon_rss;\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n",
    "dev/kmsg": "",
    "var/log/journal/0123/system.journal": "",
    "var/log/audit/audit.log": "",
    "var/log/account/pacct": "",
}


def _fail(*_: object) -> NoReturn:
    raise AssertionError("not to be tried")


@pytest.fixture
def whole(tmp_path: Path) -> Machine:
    """A machine that lacks nothing but the initial PID namespace, which no file can have."""
    for name, text in _FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(
        release="6.12.0-1-amd64",
        architecture="x86_64",
        euid=0,
        bcc=lambda: "0.31.0",
        attach=lambda _: None,
        tracers=list,
        armed=lambda: True,
        host_tgid=lambda: 4711,
        root=tmp_path,
    )


def found(machine: Machine) -> dict[str, Check]:
    return {check.name: check for check in checks(machine)}


def _write(machine: Machine, name: str, text: str) -> None:
    machine.path(name).write_text(text)


def _unprivileged(machine: Machine, euid: int = 1000) -> Machine:
    _write(machine, "proc/self/status", "CapEff:\t0000000000000000\n")
    _write(machine, "proc/kallsyms", re.sub(r"(?m)^\S+", "0" * 16, _KALLSYMS))
    return replace(machine, euid=euid, attach=_fail, trial=_fail, tracers=_fail, host_tgid=_fail)


def test_a_machine_that_has_all(whole: Machine) -> None:
    result = found(whole)
    assert [name for name, check in result.items() if not check.ok] == ["PID namespace"]
    assert [name for name, check in result.items() if check.ok and check.stand_in] == []
    assert exit_status(list(result.values())) == 0


def test_the_page_has_every_check(whole: Machine) -> None:
    page = (CHECKOUT / "docs" / "doctor.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert re.findall(r"`([^`]+)`", " ".join(rows)) == list(found(whole))


def test_every_check_says_what_it_gives(whole: Machine) -> None:
    for check in checks(whole):
        assert check.detail and check.gives
        assert not check.detail.endswith("."), check


def test_what_is_missing_has_a_mend_or_a_stand_in(whole: Machine) -> None:
    """The emptiest machine: nothing of it is there."""
    empty = replace(_unprivileged(whole), root=whole.root / "nowhere", armed=lambda: False)
    missing = [check for check in checks(empty) if not check.ok]
    assert len(missing) > 12
    assert [check.name for check in missing if not check.mend and not check.stand_in] == []
    assert [check.name for check in missing if check.required and not check.mend] == []


def test_only_privileges_are_missing(whole: Machine) -> None:
    result = found(_unprivileged(whole))
    assert exit_status(list(result.values())) == 77
    assert result["privileges"].mend == "run it with sudo, or give it CAP_BPF and CAP_PERFMON"
    assert "not tried" in result["signal_generate"].detail
    assert result["signal_generate"].ok
    assert not result["kernel symbols"].ok


def test_root_in_a_container_without_capabilities(whole: Machine) -> None:
    mend = found(_unprivileged(whole, euid=0))["privileges"].mend
    assert mend is not None and "--privileged" in mend


def test_two_capabilities_are_enough(whole: Machine) -> None:
    _write(whole, "proc/self/status", f"CapEff:\t{1 << 38 | 1 << 39:016x}\n")
    assert found(whole)["privileges"].ok


def test_privileges_and_more_are_missing(whole: Machine) -> None:
    machine = _unprivileged(whole)
    machine.path("/sys/kernel/btf/vmlinux").unlink()
    assert exit_status(list(checks(machine))) == 69


def test_an_old_kernel(whole: Machine) -> None:
    result = found(replace(whole, release="5.4.0-200-generic"))
    assert not result["kernel"].ok
    assert exit_status(list(result.values())) == 69


@pytest.mark.parametrize("release", ["5.8.0", "5.10.223-1", "6.1.0-18-amd64", "10.0"])
def test_a_kernel_that_is_new_enough(release: str, whole: Machine) -> None:
    assert found(replace(whole, release=release))["kernel"].ok


def test_lockdown(whole: Machine) -> None:
    _write(whole, "sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
    result = found(whole)
    assert not result["lockdown"].ok
    assert "lockdown=integrity" in (result["lockdown"].mend or "")
    assert exit_status(list(result.values())) == 69


def test_no_bcc(whole: Machine) -> None:
    def absent() -> str:
        raise UnsupportedError("bcc is not installed", "install it: apt-get install python3-bpfcc")

    def trial() -> NoReturn:
        absent()
        raise AssertionError

    result = found(replace(whole, bcc=absent, trial=trial))
    assert result["bcc"].mend == "install it: apt-get install python3-bpfcc"
    assert not result["live tracing"].ok
    assert exit_status(list(result.values())) == 69


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "apt-get install linux-headers-6.12.0-1-amd64"),
        ("ID=fedora\n", "dnf install kernel-devel-6.12.0-1-amd64"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper install kernel-default-devel"),
        ("ID=unheard-of\n", "the distribution's package of headers for 6.12.0-1-amd64"),
    ],
)
def test_no_btf_and_no_headers(os_release: str, command: str, whole: Machine) -> None:
    whole.path("/sys/kernel/btf/vmlinux").unlink()
    _write(whole, "etc/os-release", os_release)
    result = found(whole)
    assert result["BTF"].required and not result["BTF"].ok
    assert result["BTF"].mend == f"install the kernel's headers: {command}"
    assert exit_status(list(result.values())) == 69


def test_headers_stand_in_for_btf(whole: Machine) -> None:
    whole.path("/sys/kernel/btf/vmlinux").unlink()
    whole.path("/lib/modules/6.12.0-1-amd64/build/include").mkdir(parents=True)
    result = found(whole)
    assert not result["BTF"].ok and not result["BTF"].required
    assert "/lib/modules/6.12.0-1-amd64/build" in (result["BTF"].stand_in or "")
    assert exit_status(list(result.values())) == 0


@pytest.mark.parametrize(
    ("restrict", "mend"),
    [("2", "sysctl kernel.kptr_restrict=1"), ("1", "run it with sudo, or give it CAP_SYSLOG")],
)
def test_hidden_symbols(restrict: str, mend: str, whole: Machine) -> None:
    _write(whole, "proc/sys/kernel/kptr_restrict", restrict)
    _write(whole, "proc/kallsyms", re.sub(r"(?m)^\S+", "0" * 16, _KALLSYMS))
    check = found(whole)["kernel symbols"]
    assert not check.ok and not check.required
    assert check.mend == mend
    assert "not certain" in (check.stand_in or "")


@pytest.mark.parametrize(("name", "status"), [("signal_generate", 69), ("sys_exit", 0)])
def test_a_tracepoint_that_does_not_attach(name: str, status: int, whole: Machine) -> None:
    def attach(wanted: str) -> None:
        if wanted == name:
            raise FileNotFoundError(2, "No such file or directory")

    result = found(replace(whole, attach=attach))
    assert [n for n, c in result.items() if not c.ok and n != "PID namespace"] == [name]
    assert result[name].detail == "not in this kernel"
    assert exit_status(list(result.values())) == status


def test_no_kprobes(whole: Machine) -> None:
    whole.path("/sys/bus/event_source/devices/kprobe/type").unlink()
    check = found(whole)["oom_kill_process"]
    assert not check.ok and not check.required
    assert "kernel log" in (check.stand_in or "")


def test_a_kprobe_that_does_not_attach(whole: Machine) -> None:
    result = found(replace(whole, trial=lambda: {"oom_kill_process": "EINVAL"}))
    assert not result["oom_kill_process"].ok
    assert result["live tracing"].ok
    assert "but for oom_kill_process" in result["live tracing"].detail


def test_mark_victim_is_told_by_its_format(whole: Machine) -> None:
    _write(whole, "sys/kernel/tracing/events/oom/mark_victim/format", "field:int pid;\n")
    check = found(whole)["oom:mark_victim"]
    assert (check.ok, check.detail) == (False, "with the pid alone")


def test_memory_cgroups(whole: Machine) -> None:
    _write(whole, "sys/fs/cgroup/cgroup.controllers", "cpu pids\n")
    assert not found(whole)["memory cgroups"].ok
    whole.path("/sys/fs/cgroup/memory").mkdir()
    _write(whole, "sys/fs/cgroup/memory/memory.limit_in_bytes", "1\n")
    assert found(whole)["memory cgroups"].detail == "cgroup v1"


def test_a_container_tells_the_pid_on_the_host(whole: Machine) -> None:
    check = found(whole)["PID namespace"]
    assert "4711 on the host" in check.detail
    assert "--pid=host" in (check.mend or "")


def _tracer(entries: int, kept: int, **stats: int) -> RunningTracer:
    return RunningTracer(entries, kept, {**dict.fromkeys(STATS, 0), **stats})


def test_a_full_table_of_command_lines(whole: Machine) -> None:
    for number in range(2, 300):
        whole.path(f"/proc/{number}").mkdir()
    tracer = _tracer(512, 500, forks=9000, execs=9000)
    check = found(replace(whole, tracers=lambda: [tracer]))["command lines"]
    assert not check.ok
    assert "keeps 500 of 512; about 8,500 made way" in check.detail
    assert check.mend == "trace with --exec-entries 2048"


def test_losses_of_running_tracers(whole: Machine) -> None:
    tracers = [_tracer(512, 5, signals=1000, lost_signals=7), _tracer(512, 5, lost_signals=3)]
    check = found(replace(whole, tracers=lambda: tracers))["lost events"]
    assert (check.ok, check.detail) == (False, "10 lost signals")


def test_a_journal_of_this_boot_alone(whole: Machine) -> None:
    whole.path("/var/log/journal/0123/system.journal").unlink()
    volatile = whole.path("/run/log/journal/0123")
    volatile.mkdir(parents=True)
    (volatile / "system.journal").touch()
    check = found(whole)["journal"]
    assert check.ok and check.detail.endswith("(this boot alone)")
    assert check.mend is not None


def test_the_recorder(whole: Machine) -> None:
    check = found(replace(whole, armed=lambda: False))["flight recorder"]
    assert (check.ok, check.mend) == (False, "sudo killtrace record --install")


def test_counters_are_where_the_header_has_them() -> None:
    text = HEADER.read_text()
    numbers = {
        name.lower(): int(number) for name, number in re.findall(r"KT_STAT_(\w+) = (\d+)", text)
    }
    assert {name: numbers[name] for name in STATS} == STATS
