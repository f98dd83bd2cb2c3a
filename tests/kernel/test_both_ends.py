"""Both ends in full, even when both are gone; who holds a terminal; who really asked."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import pytest
from harness import Record, Tracer, as_nobody, death_of, signal_to
from workloads import linux
from workloads.actors import fork, pause_for_ever, wait, waiting

TERM, KILL, INT = signal.SIGTERM, signal.SIGKILL, signal.SIGINT


def cmdline_of(pid: int) -> list[str]:
    raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    return [part.decode("utf-8", "surrogateescape") for part in raw.split(b"\0")[:-1]]


def parents_of(pid: int) -> list[int]:
    """The pids from a process up to the first of its kind, or to the namespace's."""
    found = []
    while pid > 0:
        line = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        found.append(pid)
        pid = int(line.rpartition(")")[2].split()[1])
    return found


def executed(*command: str, **more: Any) -> subprocess.Popen[bytes]:
    """A child that has executed its program: Popen returns once the exec has been made."""
    return subprocess.Popen(command, **more)


@pytest.fixture
def running() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that are put out of the way afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **more: Any) -> subprocess.Popen[bytes]:
        started.append(executed(*command, **more))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


# --- command lines that outlive their processes ------------------------------------------------


@pytest.mark.needs("/bin/kill")
def test_the_sender_in_full_two_hundred_times() -> None:
    """`sh -c '/bin/kill -TERM N'`: both ends are gone when they are told of."""
    commands: dict[int, list[str]] = {}
    with Tracer() as tracer:
        for _ in range(200):
            victim = waiting()
            # The shell forks where `:` follows, and where it does not it may become kill itself.
            script = f"/bin/kill -TERM {victim}" + ("; :" if len(commands) % 2 else "")
            subprocess.run(["sh", "-c", script], check=True)
            wait(victim)
            commands[victim] = ["/bin/kill", "-TERM", str(victim)]
        tracer.wait_for(lambda r: death_of(r, victim), "the last death", quick_s=30)
    above = parents_of(os.getpid())
    told = {r["target"]["pid"]: r for r in tracer.records if signal_to_any(r, commands)}
    assert set(told) == set(commands)
    for number, (victim, command) in enumerate(commands.items()):
        sender = told[victim]["sender"]
        assert sender["cmdline"] == command and not sender["cmdline_cut"]
        assert (sender["comm"], sender["uid"], sender["user"]) == ("kill", os.getuid(), "root")
        assert Path(sender["exe"]).name == "kill"
        steps = sender["ancestors"]
        if number % 2:
            shell = steps.pop(0)
            assert shell["cmdline"][:2] == ["sh", "-c"] and sender["ppid"] == shell["pid"]
        elif steps[0]["pid"] != os.getpid():  # a shell that always forks
            steps.pop(0)
        # Eight levels at least, as far as there are so many.
        seen = [step["pid"] for step in steps]
        assert seen[: len(above)] == above[: len(seen)] and len(seen) >= min(len(above), 8)
        assert steps[0]["cmdline"] == cmdline_of(os.getpid())


def signal_to_any(record: Record, pids: Any) -> bool:
    return bool(record["type"] == "signal" and record["target"]["pid"] in pids)


def test_a_victim_killed_a_millisecond_after_its_exec() -> None:
    with Tracer() as tracer:
        truth = {}
        for number in range(50):
            command = ["sh", "-c", "echo; read line", f"0.{number}"]
            child = executed(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert child.stdout is not None and child.stdout.read(1) == b"\n"
            time.sleep(0.001)  # what is tried here
            child.kill()
            child.communicate()
            truth[child.pid] = command
        tracer.wait_for(lambda r: death_of(r, child.pid), "the last death")
    for pid, command in truth.items():
        ends = [r["target"] for r in tracer.records if signal_to(r, pid, KILL)]
        ends += [r["process"] for r in tracer.records if death_of(r, pid)]
        assert [end["cmdline"] for end in ends] == [command, command]
        assert {end["comm"] for end in ends} == {"sh"}


def test_a_victim_killed_in_its_exec() -> None:
    """Descriptors are closed for an exec a little before it is done: it is one or the other."""
    with Tracer() as tracer:
        truth = {}
        for number in range(50):
            child = executed("sleep", "1000", f"0.{number}")
            child.kill()
            child.wait()
            truth[child.pid] = ["sleep", "1000", f"0.{number}"]
        tracer.wait_for(lambda r: death_of(r, child.pid), "the last death")
    for pid, command in truth.items():
        ends = [r["target"] for r in tracer.records if signal_to(r, pid, KILL)]
        ends += [r["process"] for r in tracer.records if death_of(r, pid)]
        assert len(ends) == 2
        assert all(end["cmdline"] in (command, cmdline_of(os.getpid())) for end in ends), ends


def test_a_victim_killed_between_fork_and_exec() -> None:
    """It has the command line that its parent was executed with."""
    script = (
        "import os,signal\n"
        "for _ in range(20):\n"
        "    out, into = os.pipe()\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os.write(into, b'!'); signal.pause(); os.execlp('sleep', 'sleep', '1000')\n"
        "    os.read(out, 1); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); print(pid)\n"
    )
    command = [sys.executable, "-c", script]
    with Tracer() as tracer:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        pids = [int(line) for line in done.stdout.split()]
        # The test itself ran before tracing began: its command line was read from /proc.
        own = waiting()
        os.kill(own, KILL)
        wait(own)
        tracer.wait_for(lambda r: death_of(r, own), "the last death")
    for pid, expected in [*((pid, command) for pid in pids), (own, cmdline_of(os.getpid()))]:
        (told,) = [r["target"] for r in tracer.records if signal_to(r, pid, KILL)]
        cut = told["cmdline_cut"]
        assert (told["cmdline"] == expected) or (
            cut and "".join(expected).startswith("".join(told["cmdline"]))
        )


@pytest.mark.needs("perl")
def test_a_rewritten_title_stands_beside_what_was_executed(running: Any) -> None:
    script = '$SIG{TERM} = "IGNORE"; $0 = "new title"; syswrite(STDOUT, "!"); sleep 1000'
    victim = running("perl", "-e", script, stdout=subprocess.PIPE)
    assert victim.stdout.read(1) == b"!"
    with Tracer() as before_tracing, Tracer() as tracer:
        again = running("perl", "-e", script, stdout=subprocess.PIPE)
        assert again.stdout.read(1) == b"!"
        again.terminate()
        told = tracer.wait_for(lambda r: signal_to(r, again.pid, TERM), "the signal")
        assert told["target"]["cmdline"] == ["perl", "-e", script]
        assert told["target"]["title"] == "new title"
        # Of what ran before, /proc has the title alone.
        victim.terminate()
        told = before_tracing.wait_for(lambda r: signal_to(r, victim.pid, TERM), "the signal")
        assert told["target"]["cmdline"][0].split() == ["new", "title"]


def test_more_processes_than_are_kept(running: Any) -> None:
    """The map of command lines overflows: a command line is right or null, and never another's."""
    with Tracer("--exec-entries", "256") as tracer:
        victims = {}
        for number in range(300):
            child = running("sleep", "1000", f"0.{number}")
            victims[child.pid] = ["sleep", "1000", f"0.{number}"]
        for number in range(600):
            subprocess.run(["true", str(number)], check=True)
        since = tracer.mark()
        for pid in victims:  # all in one go: gone before they are told of
            os.kill(pid, KILL)
        for pid in victims:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        for pid in victims:
            tracer.wait_for(lambda r, pid=pid: death_of(r, pid), f"the death of {pid}", since)
    told = [r["target"] for r in tracer.records if signal_to_any(r, victims)]
    told += [r["process"] for r in tracer.records if r["type"] == "death"]
    told = [end for end in told if end["pid"] in victims]
    assert len(told) == 2 * len(victims)
    wrong = [end for end in told if end["cmdline"] not in (None, victims[end["pid"]])]
    assert not wrong
    assert sum(end["cmdline"] is None for end in told) >= 300, "the map did not overflow"


@pytest.mark.needs("set_tid")
def test_an_earlier_process_with_the_same_pid() -> None:
    """Its entry may still be there: it is another process's, and is not shown."""
    with Tracer("--exec-entries", "256") as tracer:
        first = executed("sleep", "111")
        first.kill()
        first.wait()

        def parent() -> int:
            # Its own command line is pushed out of the map, so its child inherits none.
            for number in range(600):
                subprocess.run(["true", str(number)], check=True)
            if linux.clone_with_pid(first.pid) == 0:
                pause_for_ever()
            os.kill(first.pid, TERM)
            return os.waitpid(first.pid, 0)[1]

        assert wait(fork(parent)).status == TERM
        told = tracer.wait_for(lambda r: signal_to(r, first.pid, TERM), "the signal")
    assert told["target"]["cmdline"] in (None, cmdline_of(os.getpid()))
    assert told["target"]["start_time"] > tracer.records[0]["time"]


# --- the terminal's other end ------------------------------------------------------------------


@pytest.mark.needs("tmux")
def test_ctrl_c_through_tmux(tmp_path: Path) -> None:
    tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null"]
    with Tracer() as tracer:
        subprocess.run(
            [*tmux, "new-session", "-d", "-x", "80", "-y", "24", "exec sleep 1000"], check=True
        )
        try:
            shown = subprocess.check_output(
                [*tmux, "list-panes", "-F", "#{pid} #{pane_pid} #{pane_tty}"], text=True
            )
            server, victim, tty = shown.split()
            machine.until(lambda: cmdline_of(int(victim))[:1] == ["sleep"], "sleep in the pane")
            subprocess.run([*tmux, "send-keys", "C-c"], check=True)
            told = tracer.wait_for(lambda r: signal_to(r, int(victim), INT), "the SIGINT")
            tracer.wait_for(lambda r: death_of(r, int(victim)), "the death")
        finally:
            subprocess.run([*tmux, "kill-server"], check=False, stderr=subprocess.DEVNULL)
    origin = told["origin"]
    assert (origin["kind"], origin["tty"], origin["key"]) == ("terminal", tty, "Ctrl-C")
    assert origin["certain"] and told["sender"] is None
    assert (origin["holder"]["pid"], origin["holder"]["comm"]) == (int(server), "tmux: server")
    assert origin["remote_host"] is None
    assert f"held by tmux: server, {server}" in origin["summary"]
    assert told["target"]["tty"] == tty


class Sshd:
    """An sshd of the test's own: its port, keys and configuration, and no other's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
                check=True,
            )
        (folder / "user.pub").rename(folder / "authorized")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n"
        )
        # Where the system's has not made it: sshd demands it.
        self.made = not Path("/run/sshd").exists()
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "config")],
            stdout=self.log,
            stderr=self.log,
        )
        machine.until(self._answers, "sshd's answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except ConnectionRefusedError:
            return False
        return True

    def login(self, command: str) -> subprocess.Popen[bytes]:
        """Run a command on a terminal there; its keyboard is the client's stdin."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        return subprocess.Popen(
            ["ssh", "-F", "none", "-tt", "-p", str(self.port), "-i", str(self.folder / "user")]
            + [word for option in options for word in ("-o", option)]
            + ["root@127.0.0.1", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()
        if self.made:
            Path("/run/sshd").rmdir()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path)
    yield server
    server.close()


@pytest.mark.needs("sshd", "ssh")
def test_ctrl_c_through_sshd(sshd: Sshd) -> None:
    with Tracer() as tracer:
        client = sshd.login("echo $$; tty; exec sleep 1000")
        assert client.stdin is not None and client.stdout is not None
        victim, tty = int(client.stdout.readline()), client.stdout.readline().decode().strip()
        machine.until(lambda: cmdline_of(victim)[:1] == ["sleep"], "sleep on the terminal")
        client.stdin.write(b"\x03")
        client.stdin.flush()
        told = tracer.wait_for(lambda r: signal_to(r, victim, INT), "the SIGINT")
        tracer.wait_for(lambda r: death_of(r, victim), "the death")
        client.wait(machine.seconds(10))
        client.stdin.close()
        client.stdout.close()
    origin = told["origin"]
    assert (origin["kind"], origin["tty"], origin["key"]) == ("terminal", tty, "Ctrl-C")
    assert origin["holder"]["comm"] in ("sshd", "sshd-session")
    # The daemon's child, or the child's own: the session's.
    line = [origin["holder"]["pid"], *(step["pid"] for step in origin["holder"]["ancestors"])]
    assert sshd.process.pid in line[1:]
    assert (origin["remote_host"], origin["login_user"]) == ("127.0.0.1", "root")
    assert "from 127.0.0.1" in origin["summary"]


# --- who asked ---------------------------------------------------------------------------------


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def supervised(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A daemon called supervisord that ends its child once supervisorctl has been called."""
    asked = folder / "asked"
    os.mkfifo(asked)
    daemon = script(
        folder / "supervisord",
        "#!/usr/bin/python3\nimport subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "print(child.pid, flush=True)\n"
        f"open({str(asked)!r}).read()\n"
        "child.terminate()\nchild.wait()\n",
    )
    control = script(folder / "supervisorctl", f"#!/bin/sh\necho > {asked}\n")
    return subprocess.Popen([daemon], stdout=subprocess.PIPE), control


@pytest.mark.parametrize("noise", [0, 2000])
def test_who_asked_a_supervisor(tmp_path: Path, noise: int) -> None:
    """The client is gone when the signal is told; `noise`: executions before it."""
    with Tracer() as tracer:
        for number in range(noise):
            subprocess.run(["true", str(number)], check=True)
        daemon, control = supervised(tmp_path)
        assert daemon.stdout is not None
        victim = int(daemon.stdout.readline())
        subprocess.run([control, "stop", "web"], check=True)
        told = tracer.wait_for(lambda r: signal_to(r, victim, TERM), "the SIGTERM")
        daemon.communicate()
    origin, requester = told["origin"], told["origin"]["requester"]
    assert told["sender"]["pid"] == daemon.pid and origin["via"] == "supervisord"
    assert requester["cmdline"] == ["/bin/sh", control, "stop", "web"]
    assert (requester["uid"], requester["user"]) == (os.getuid(), "root")
    assert requester["ancestors"][0]["pid"] == requester["ppid"] == os.getpid()
    assert [step["pid"] for step in requester["ancestors"]][:3] == parents_of(os.getpid())[:3]
    assert not origin["certain"]
    assert "probably asked by" in origin["summary"]


def test_nobody_asked_a_supervisor(tmp_path: Path) -> None:
    """What was executed has nothing to do with it: nobody is named."""
    with Tracer() as tracer:
        for command in ("stop", "status"):
            subprocess.run(
                [script(tmp_path / "systemctl", "#!/bin/sh\n"), command, "web"], check=True
            )
        daemon, _ = supervised(tmp_path)
        assert daemon.stdout is not None
        victim = int(daemon.stdout.readline())
        (tmp_path / "asked").write_text("")
        told = tracer.wait_for(lambda r: signal_to(r, victim, TERM), "the SIGTERM")
        daemon.communicate()
    origin = told["origin"]
    assert (origin["requester"], origin["via"], origin["certain"]) == (None, None, True)


@pytest.mark.needs("su", "/bin/kill", "setpriv")
def test_who_typed_it_as_another_user(running: Any) -> None:
    victim = running(*as_nobody(), "sleep", "1000")
    machine.until(lambda: cmdline_of(victim.pid)[:1] == ["sleep"], "the change of user")
    with Tracer() as tracer:
        by = ["su", "-s", "/bin/sh", "nobody", "-c", f"/bin/kill -TERM {victim.pid}; :"]
        subprocess.run(by, check=True)
        told = tracer.wait_for(lambda r: signal_to(r, victim.pid, TERM), "the SIGTERM")
    origin = told["origin"]
    assert told["sender"]["user"] == "nobody"
    assert (origin["via"], origin["certain"]) == ("su", True)
    assert origin["requester"]["cmdline"] == by
    assert (origin["requester"]["uid"], origin["requester"]["user"]) == (0, "root")


def test_timeout_says_that_its_time_ran_out() -> None:
    with Tracer() as tracer:
        subprocess.run(["timeout", "0.2", "sleep", "1000"])
        told = tracer.wait_for(
            lambda r: r["type"] == "signal" and r["sender"] and r["sender"]["comm"] == "timeout",
            "the SIGTERM",
        )
    assert told["origin"]["summary"] == "its time limit of 0.2 s ran out (timeout)"


def test_timeout_that_passes_a_signal_on() -> None:
    with Tracer() as tracer:
        process = subprocess.Popen(["timeout", "1000", "sleep", "1000"])
        machine.until(lambda: linux.children(process.pid), "its child")
        machine.until(lambda: cmdline_of(linux.children(process.pid)[0])[0] == "sleep", "sleep")
        process.terminate()
        process.wait()
        told = tracer.wait_for(
            lambda r: r["type"] == "signal" and r["sender"] and r["sender"]["comm"] == "timeout",
            "the SIGTERM",
        )
    assert told["origin"]["summary"] == "timeout passed on the SIGTERM that it was sent"


def test_one_act_is_one_line_of_the_table() -> None:
    with Tracer(json_output=False) as tracer:
        leader = executed(
            "sh", "-c", "sleep 1000 & sleep 1000 & echo; wait", start_new_session=True, stdout=-1
        )
        assert leader.stdout is not None
        leader.stdout.readline()
        os.killpg(leader.pid, KILL)
        leader.wait()
        leader.stdout.close()
        tracer.wait_for_line(lambda line: "3 processes" in line, "the act")
        tracer.wait_for_line(lambda line: f"died       {leader.pid} sh" in line, "its death")
