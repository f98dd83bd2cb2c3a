from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest
from faketree import FakeProc, utmp_entry

from killtrace.enrich.logins import Login, Logins, parse_session, parse_utmp, session_of
from killtrace.enrich.procfs import ProcFs
from killtrace.enrich.tty import Terminals, by_family, parse_tcp
from killtrace.enrich.users import Users
from killtrace.model import Ancestor, Process

PTS3 = (136 << 8) | 3


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminals(fake_proc: FakeProc, tmp_path: Path, clock: Clock) -> Terminals:
    passwd = tmp_path / "passwd"
    passwd.write_text("alice:x:1000:1000::/home/alice:/bin/sh\nroot:x:0:0::/root:/bin/sh\n")
    logins = Logins(tmp_path / "utmp", tmp_path / "sessions")
    users = Users(passwd, lookup=lambda uid: None)
    return Terminals(ProcFs(fake_proc.root), logins, users, clock)


def test_the_holder_and_the_login(
    fake_proc: FakeProc, terminals: Terminals, tmp_path: Path
) -> None:
    (tmp_path / "utmp").write_bytes(
        utmp_entry(8, 1, "pts/3", "mallory", "old.example")
        + utmp_entry(7, 200, "pts/3", "alice", "laptop.example")
    )
    fake_proc.add(200, "sshd", uid=1000, cmdline=b"sshd: alice@pts/3\0")
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    fake_proc.add_fd(200, 0, "/dev/null")
    found = terminals.holder("/dev/pts/3")
    assert found is not None
    assert (found.process.pid, found.process.comm, found.process.user) == (200, "sshd", "alice")
    assert (found.user, found.remote_host, found.gone) == ("alice", "laptop.example", False)


@pytest.mark.parametrize("tty", [None, "/dev/tty1", "/dev/console", "/dev/pts/9"])
def test_no_holder(terminals: Terminals, tty: str | None) -> None:
    assert terminals.holder(tty) is None


def test_the_session_half_of_sshd_is_preferred(fake_proc: FakeProc, terminals: Terminals) -> None:
    fake_proc.add(199, "sshd", uid=0, start=10, cmdline=b"sshd: alice [priv]\0")
    fake_proc.add(200, "sshd", uid=1000, start=20, cmdline=b"sshd: alice@pts/3\0")
    for pid in (199, 200):
        fake_proc.add_fd(pid, 7, "/dev/ptmx", 3)
    found = terminals.holder("/dev/pts/3")
    assert found is not None
    assert found.process.pid == 200


def test_who_inherited_the_descriptor_is_not_the_holder(
    fake_proc: FakeProc, terminals: Terminals
) -> None:
    fake_proc.add(300, "script", start=20)
    fake_proc.add(290, "bash", start=10, tty_nr=PTS3)
    fake_proc.add(310, "helper", start=30)
    for pid in (300, 290, 310):
        fake_proc.add_fd(pid, 5, "/dev/ptmx", 3)
    found = terminals.holder("/dev/pts/3")
    assert found is not None
    assert found.process.pid == 300


def test_each_container_has_its_own_first_terminal(
    fake_proc: FakeProc, terminals: Terminals
) -> None:
    fake_proc.add(400, "sshd", start=10)
    fake_proc.add(500, "tmux: server", start=20)
    fake_proc.add(501, "bash", ppid=500, tty_nr=136 << 8)
    fake_proc.add_fd(400, 5, "/dev/ptmx", 0)
    fake_proc.add_fd(500, 5, "/dev/pts/ptmx", 0)
    found = terminals.holder("/dev/pts/0", of=501)
    assert found is not None
    assert found.process.pid == 500


def test_a_holder_that_is_gone_is_still_named(fake_proc: FakeProc, terminals: Terminals) -> None:
    fake_proc.add(200, "xterm", uid=1000, loginuid="1000")
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    terminals.learn()
    fake_proc.remove(200)
    found = terminals.holder("/dev/pts/3")
    assert found is not None
    assert (found.process.pid, found.user, found.gone) == (200, "alice", True)


def test_a_pid_that_changed_hands_is_not_the_holder(
    fake_proc: FakeProc, terminals: Terminals, clock: Clock
) -> None:
    fake_proc.add(200, "xterm")
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    terminals.learn()
    fake_proc.remove(200)
    fake_proc.add(200, "other", start=9999)
    fake_proc.add(210, "tmux: server", start=9990)
    fake_proc.add_fd(210, 4, "/dev/ptmx", 3)
    found = terminals.holder("/dev/pts/3")
    assert found is not None
    assert (found.process.pid, found.gone) == (210, False)


def test_a_storm_does_not_scan_each_time(
    fake_proc: FakeProc, terminals: Terminals, clock: Clock
) -> None:
    assert terminals.holder("/dev/pts/3") is None
    fake_proc.add(200, "xterm")
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    assert terminals.holder("/dev/pts/3") is None
    clock.now += 1
    assert terminals.holder("/dev/pts/3") is not None


def test_sshd_without_a_login_record_is_asked_for_its_peer(
    fake_proc: FakeProc, terminals: Terminals
) -> None:
    folder = fake_proc.add(200, "sshd-session", uid=1000, loginuid="1000")
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    fake_proc.add_fd(200, 4, "socket:[7777]")
    (folder / "net").mkdir()
    (folder / "net" / "tcp").write_text(
        "  sl  local_address rem_address   st ...\n"
        "   0: 00000000:0016 00000000:0000 0A 0:0 0:0 0 0 0 7776 1\n"
        "   1: 0100007F:0016 0500000A:C350 01 0:0 0:0 0 0 0 7777 1\n"
        "   2: 0100007F:0016 0600000A:C351 01 0:0 0:0 0 0 0 8888 1\n"
    )
    found = terminals.holder("/dev/pts/3")
    assert found is not None
    assert (found.user, found.remote_host) == ("alice", "10.0.0.5")


def test_a_forwarded_connection_makes_the_peer_unknown(
    fake_proc: FakeProc, terminals: Terminals
) -> None:
    folder = fake_proc.add(200, "sshd")
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    fake_proc.add_fd(200, 4, "socket:[1]")
    fake_proc.add_fd(200, 5, "socket:[2]")
    (folder / "net").mkdir()
    (folder / "net" / "tcp").write_text(
        "head\n 1: 0100007F:0016 0500000A:C350 01 0 0 0 0 0 1 1\n"
        " 2: 0100007F:0016 0600000A:C350 01 0 0 0 0 0 2 1\n"
    )
    found = terminals.holder("/dev/pts/3")
    assert found is not None
    assert found.remote_host is None


def test_addresses() -> None:
    content = (
        "head\n"
        " 0: 0:0 0000000000000000FFFF00000500000A:C350 01 0 0 0 0 0 5 1\n"
        " 1: 0:0 B80D0120000000000000000001000000:C350 01 0 0 0 0 0 6 1\n"
        " 2: 0:0 zz:C350 01 0 0 0 0 0 7 1\n"
    )
    assert list(parse_tcp(content)) == [(5, "10.0.0.5"), (6, "2001:db8::1")]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("", None),
        (":0", None),
        (":pts/0:S.0", None),
        ("tmux(1234).%0", None),
        ("10.0.0.5", "10.0.0.5"),
        ("10.0.0.5 via mosh [99]", "10.0.0.5"),
    ],
)
@pytest.mark.parametrize("size", [384, 400])
def test_utmp(host: str, expected: str | None, size: int) -> None:
    raw = utmp_entry(2, 0, "~", "reboot", "6.1", size) + utmp_entry(
        7, 9, "pts/3", "alice", host, size
    )
    assert parse_utmp(raw) == (Login("alice", expected, "/dev/pts/3"),)


def test_no_utmp() -> None:
    assert parse_utmp(b"") == ()
    assert parse_utmp(b"x" * 384) == ()
    assert parse_utmp(b"\0" * 17) == ()


def test_logind() -> None:
    content = "# private\nUID=1000\nUSER=alice\nREMOTE=1\nREMOTE_HOST=10.0.0.5\nTTY=pts/3\n"
    assert parse_session("3", content) == Login("alice", "10.0.0.5", "/dev/pts/3", "3")
    assert parse_session("4", "USER=bob\n") == Login("bob", None, None, "4")


def test_logind_by_the_session_scope(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    (sessions / "5").write_text("USER=alice\nREMOTE_HOST=10.0.0.5\nTTY=\n")
    os.mkfifo(sessions / "5.ref")
    logins = Logins(tmp_path / "utmp", sessions)
    scope = "/user.slice/user-1000.slice/session-5.scope"
    assert logins.on("/dev/pts/3", scope) == Login("alice", "10.0.0.5", "/dev/pts/3", "5")
    assert logins.on("/dev/pts/3", "/system.slice/cron.service") is None


def test_session_of() -> None:
    assert session_of("/user.slice/user-1000.slice/session-c2.scope") == "c2"
    assert session_of("/user.slice/user-1000.slice/session-3.scope/lxc.payload.a") == "3"
    assert session_of("/system.slice/cron.service") is None
    assert session_of(None) is None


def test_a_real_pseudoterminal(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    try:
        name = os.ttyname(slave)
        logins = Logins(tmp_path / "utmp", tmp_path / "sessions")
        found = Terminals(ProcFs(), logins, Users()).holder(name)
        assert found is not None
        assert found.process.pid == os.getpid()
    finally:
        os.close(master)
        os.close(slave)


def test_a_new_terminal_of_an_old_name(
    fake_proc: FakeProc, terminals: Terminals, clock: Clock
) -> None:
    fake_proc.add(200, "xterm", loginuid="1000")
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    terminals.learn()
    fake_proc.remove(200)
    terminals.forget(["/dev/pts/3"])
    assert terminals.holder("/dev/pts/3") is None
    fake_proc.add(210, "sshd")
    fake_proc.add_fd(210, 7, "/dev/ptmx", 3)
    terminals.learn(["/dev/pts/3"])
    fake_proc.remove(210)
    found = terminals.holder("/dev/pts/3")
    assert found is not None and (found.process.pid, found.gone) == (210, True)


def test_whom_sshd_gave_the_terminal_to(
    fake_proc: FakeProc, terminals: Terminals, tmp_path: Path
) -> None:
    (tmp_path / "dev/pts").mkdir(parents=True)
    (tmp_path / "dev/pts/3").touch()
    os.chown(tmp_path / "dev/pts/3", os.getuid(), -1)
    here = Terminals(
        ProcFs(fake_proc.root),
        Logins(tmp_path / "utmp", tmp_path / "sessions"),
        Users(tmp_path / "nobody", lookup=lambda uid: f"user {uid}"),
        devices=tmp_path,
    )
    fake_proc.add(200, "sshd", uid=0)
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    found = here.holder("/dev/pts/3")
    assert found is not None and found.user == f"user {os.getuid()}"


def test_the_family_of_a_terminal_that_is_gone() -> None:
    sshd, bash = Ancestor(20, "sshd"), Ancestor(30, "bash")
    leader = Process(pid=30, sid=30, comm="bash", ancestors=(sshd, Ancestor(1, "systemd")))
    child = Process(pid=40, sid=30, comm="sleep", ancestors=(bash, sshd))
    for target in (leader, child):
        found = by_family(target)
        assert found is not None and (found.process.pid, found.gone) == (20, True)
    assert by_family(Process(pid=30, sid=30, ancestors=(Ancestor(5, "cron"),))) is None
    assert by_family(Process(pid=40, sid=30, ancestors=(Ancestor(31, "sh"),))) is None
    assert by_family(Process(pid=40)) is None
