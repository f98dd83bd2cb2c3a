from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from faketree import FakeProc

from killtrace import clock
from killtrace.enrich import procfs
from killtrace.enrich.procfs import ProcFs
from killtrace.model import Ancestor

DRIVERS = procfs.parse_tty_drivers(
    b"/dev/console /dev/console 5 1 system:console\n"
    b"usbserial /dev/ttyUSB 188 0-511 serial\n"
    b"serial /dev/ttyS 4 64-95 serial\n"
)


def test_everything_of_one_process(fake_proc: FakeProc) -> None:
    fake_proc.add(1, "systemd", ppid=0, cmdline=b"/sbin/init\0", start=7)
    fake_proc.add(40, "bash", cmdline=b"-bash\0")
    fake_proc.add(
        41,
        "pkill",
        ppid=40,
        sid=40,
        tty_nr=(136 << 8) | 3,
        start=1234,
        cmdline=b"pkill\0-f\0a b\0",
        ns_pids="41 5",
        cgroup="4:memory:/mem\n1:name=systemd:/user.slice/user-1000.slice/session-3.scope\n0::/\n",
        loginuid="1000",
        sessionid="3",
        exe="/usr/bin/pkill",
    )
    found = ProcFs(fake_proc.root, wall_offset_ns=1_000_000_000_000).process(41)
    assert found is not None
    assert found.pid == 41
    assert found.ns_pid == 5
    assert found.start_time_ns == 1_000_000_000_000 + 12_340_000_000
    assert (found.comm, found.exe) == ("pkill", "/usr/bin/pkill")
    assert found.cmdline == ("pkill", "-f", "a b")
    assert (found.ppid, found.sid, found.uid) == (40, 40, 1000)
    assert (found.loginuid, found.session_id) == (1000, 3)
    assert found.tty == "/dev/pts/3"
    assert found.cgroup == "/user.slice/user-1000.slice/session-3.scope"
    assert found.ancestors == (
        Ancestor(40, "bash", ("-bash",)),
        Ancestor(1, "systemd", ("/sbin/init",)),
    )


def test_a_vanished_process_is_none(fake_proc: FakeProc) -> None:
    fs = ProcFs(fake_proc.root)
    assert fs.process(99) is None
    assert fs.stat(99) is None
    assert fs.cmdline(99) is None
    assert fs.cgroup(99) is None
    assert fs.exe(99) is None
    assert fs.ancestors(99) == ()


def test_a_process_that_vanishes_while_it_is_read_is_none(
    fake_proc: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_proc.add(50)
    fs = ProcFs(fake_proc.root)
    plain = fs.exe

    def replaced(pid: int) -> str | None:
        fake_proc.add(50, "other", start=9999)
        return plain(pid)

    monkeypatch.setattr(fs, "exe", replaced)
    assert fs.process(50) is None


def test_unset_ids_are_none(fake_proc: FakeProc) -> None:
    fake_proc.add(50, loginuid="4294967295", sessionid="4294967295", cmdline=b"", exe=None)
    found = ProcFs(fake_proc.root).process(50)
    assert found is not None
    assert (found.loginuid, found.session_id, found.tty) == (None, None, None)
    assert (found.cmdline, found.exe) == (None, None)


def test_a_kernel_without_audit_has_no_login_files(fake_proc: FakeProc) -> None:
    folder = fake_proc.add(50)
    (folder / "loginuid").unlink()
    (folder / "sessionid").unlink()
    found = ProcFs(fake_proc.root).process(50)
    assert found is not None
    assert (found.loginuid, found.session_id) == (None, None)


@pytest.mark.parametrize("name", ["a b", "(sd-pam)", ") S 1 (", "caf\udcff", "\x1b[31m"])
def test_a_hostile_name(fake_proc: FakeProc, name: str) -> None:
    fake_proc.add(50, name)
    found = ProcFs(fake_proc.root).stat(50)
    assert found is not None
    assert (found.comm, found.ppid) == (name, 1)


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"1 (a) S 1 2", b"x (a) " + b"0 " * 30])
def test_no_line_of_stat(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        procfs.parse_stat(raw)


def test_a_loop_in_the_family_ends(fake_proc: FakeProc) -> None:
    fake_proc.add(60, ppid=61)
    fake_proc.add(61, ppid=60)
    assert len(ProcFs(fake_proc.root).ancestors(60)) == 32


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", ()),
        (b"a\0", ("a",)),
        (b"a\0\0b\0", ("a", "", "b")),
        (b"nginx: worker process", ("nginx: worker process",)),
        (b"\xff\0", ("\udcff",)),
    ],
)
def test_cmdline(raw: bytes, expected: tuple[str, ...]) -> None:
    assert procfs.parse_cmdline(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"0::/a\n", "/a"),
        (b"0::/a (deleted)\n", "/a"),
        (b"4:memory:/m\n1:name=systemd:/s\n0::/u\n", "/u"),
        (b"4:memory:/m\n1:name=systemd:/s\n0::/\n", "/s"),
        (b"4:memory:/m\n1:name=systemd:/\n0::/\n", "/m"),
        (b"8:cpu,memory:/m\n0::/\n", "/m"),
        (b"4:memory:/\n0::/\n", "/"),
        (b"0::/with:colon\n", "/with:colon"),
        (b"", None),
    ],
)
def test_cgroup(raw: bytes, expected: str | None) -> None:
    assert procfs.pick_cgroup(procfs.parse_cgroups(raw)) == expected


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, None),
        (0x8803, "/dev/pts/3"),
        ((136 << 8) | (0x1F4 & 0xFF) | ((0x1F4 & ~0xFF) << 12), "/dev/pts/500"),
        ((137 << 8) | 4, "/dev/pts/260"),
        ((4 << 8) | 1, "/dev/tty1"),
        ((4 << 8) | 65, "/dev/ttyS1"),
        ((5 << 8) | 1, "/dev/console"),
        ((188 << 8) | 2, "/dev/ttyUSB2"),
        ((250 << 8) | 2, None),
    ],
)
def test_tty_name(number: int, name: str | None) -> None:
    assert procfs.tty_name(number, DRIVERS) == name


def test_the_real_proc_agrees_with_the_c_library() -> None:
    found = ProcFs(Path("/proc"), clock.wall_offset_ns()).process(os.getpid())
    assert found is not None
    assert (found.ppid, found.sid, found.uid) == (os.getppid(), os.getsid(0), os.getuid())
    assert found.ancestors[0].pid == os.getppid()


def test_the_start_time_is_wall_time() -> None:
    before = clock.boot_ns()
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            found = ProcFs().process(child.pid)
            after = clock.boot_ns()
        finally:
            child.kill()
    assert found is not None
    assert found.start_time_ns is not None
    assert before - procfs.TICK_NS <= found.start_time_ns <= after
