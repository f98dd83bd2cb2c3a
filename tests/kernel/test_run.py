"""`killtrace run`: as if it were not there, but that it says what killed whom."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import machine
import pytest
import schema_check
from workloads.by_terminal import Terminal
from workloads.memory import limited

Process = subprocess.Popen[bytes]
FIVE = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGTERM"]


def run(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return harness.run("run", "--", *command, **more)


def python(body: str) -> list[str]:
    return [sys.executable, "-c", body]


def deaths(tmp_path: Path, *command: str) -> tuple[int, list[harness.Record]]:
    """The exit status and the summary, each record of it checked against the schema."""
    summary = tmp_path / "deaths.jsonl"
    done = harness.run("run", "--summary", "json", "--summary-file", str(summary), "--", *command)
    assert done.stderr == ""
    records = [json.loads(line) for line in summary.read_text().splitlines()]
    assert [fault for record in records for fault in schema_check.faults(record)] == []
    return done.returncode, records


@pytest.fixture
def started() -> Iterator[Callable[..., Process]]:
    """Start killtrace run and go on; it leads a process group of its own, and a session."""
    running: list[Process] = []

    def start(*command: str, **more: Any) -> Process:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        arguments = [*machine.command(), "run", "--", *command]
        process = subprocess.Popen(arguments, **{"start_new_session": True, **pipes, **more})
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        with process:
            pass


def line_of(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def pending(pid: int) -> bool:
    """Whether a signal to a process waits to be taken (proc(5), ShdPnd)."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (row.split()[1] for row in rows if row.startswith("ShdPnd:"))
    return int(mask, 16) != 0


def ended(process: Process) -> tuple[int, str]:
    """The exit status, and what was said on stderr."""
    assert process.stderr is not None
    status = process.wait(machine.seconds(20))
    return status, process.stderr.read().decode()


# --- how it ends ---------------------------------------------------------------------------------


def test_success_says_nothing() -> None:
    done = run("echo", "well")
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


def test_a_failure_of_its_own() -> None:
    done = run("sh", "-c", "exit 3")
    assert done.returncode == 3
    assert re.fullmatch(
        r"killtrace: \d+ sh -c 'exit 3' exited with status 3 after running [\d.]+ ms, by itself\n",
        done.stderr,
    ), done.stderr


_VICTIM = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("name", FIVE)
def test_a_signal_from_elsewhere(name: str, started: Callable[..., Process]) -> None:
    process = started(*python(_VICTIM))
    command = int(line_of(process))
    os.kill(command, signal.Signals[name])
    status, said = ended(process)
    assert status == 128 + signal.Signals[name]
    (line,) = said.splitlines()
    assert line.startswith(f"killtrace: {command} {sys.executable} -c"), line
    assert f" died of {name} after running " in line
    assert f": sent by {os.getpid()} " in line


@pytest.mark.parametrize("name", FIVE)
def test_a_signal_to_itself(name: str, tmp_path: Path) -> None:
    status, (death,) = deaths(tmp_path, "sh", "-c", f"kill -{name[3:]} $$")
    assert status == 128 + signal.Signals[name]
    assert death["exit"]["signal"] == name
    assert death["cause"]["sender"]["pid"] == death["process"]["pid"]


def test_a_handled_signal(started: Callable[..., Process]) -> None:
    process = started("sh", "-c", "trap 'exit 7' TERM; echo $$; while :; do sleep 0.01; done")
    command = int(line_of(process))
    os.kill(command, signal.SIGTERM)
    status, said = ended(process)
    assert status == 7
    assert re.search(rf"{command} .* exited with status 7 .*having handled SIGTERM", said), said
    assert f": sent by {os.getpid()} " in said


def test_a_handled_signal_and_success_says_nothing(started: Callable[..., Process]) -> None:
    process = started("sh", "-c", "trap 'exit 0' TERM; echo $$; while :; do sleep 0.01; done")
    os.kill(int(line_of(process)), signal.SIGTERM)
    assert ended(process) == (0, "")


def test_a_signal_that_is_raised_again(started: Callable[..., Process]) -> None:
    """Python handles SIGINT, and in the end dies of it by its own hand."""
    process = started(*python("import os, time; print(os.getpid(), flush=True); time.sleep(600)"))
    os.kill(int(line_of(process)), signal.SIGINT)
    status, said = ended(process)
    assert status == 130
    line = said.splitlines()[-1]
    assert re.search(rf"it sent it to itself .*; it had had SIGINT from {os.getpid()} ", line), line


def test_term_then_kill_is_one_story() -> None:
    done = run("timeout", "-k", "0.2", "0.2", "sh", "-c", "trap '' TERM; while :; do :; done")
    assert done.returncode == 137
    (line,) = (line for line in done.stderr.splitlines() if re.match(r"killtrace: \d+ sh ", line))
    assert "died of SIGKILL" in line
    assert re.search(
        r"sent by \d+ timeout .*; it had had SIGTERM from \d+ timeout .*, which it ignored", line
    ), line


@pytest.mark.needs("memcg")
def test_out_of_memory_in_a_cgroup() -> None:
    with limited("run") as folder:
        hog = f"{sys.executable} -c 'x = bytearray(256 << 20)'"
        done = run("sh", "-c", f"echo $$ > {folder}/cgroup.procs; exec {hog}")
        assert done.returncode == 137
        assert re.fullmatch(
            rf"killtrace: \d+ .* died of SIGKILL after running .*:"
            rf" OOM killer: cgroup .*{folder.name} reached its limit of 32 MB.*\n",
            done.stderr,
        ), done.stderr


def test_a_bare_137_is_no_kill() -> None:
    done = run("sh", "-c", "exit 137")
    assert done.returncode == 137
    assert "by itself: no SIGKILL reached it or anything that it started" in done.stderr


def test_137_of_a_child() -> None:
    done = run("sh", "-c", "sh -c 'kill -KILL $$' 2>/dev/null; exit $?")
    assert done.returncode == 137
    first, second = done.stderr.splitlines()
    killed = re.match(r"killtrace: (\d+) sh -c 'kill -KILL \$\$' died of SIGKILL", first)
    assert killed, first
    assert second.endswith(f"which is 128 + 9: {killed[1]} died of SIGKILL")


def test_a_grandchild_that_is_killed() -> None:
    done = run("sh", "-c", "sh -c 'sh -c \"kill -KILL \\$\\$\"; true' 2>/dev/null; exit 0")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "died of SIGKILL" in line and "it sent it to itself" in line, line


_DAEMON = """
import os, signal
out, into = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)
os.close(into)
os.read(out, 1)  # ends when the daemon has
"""


def test_a_daemon_that_is_killed() -> None:
    """Followed through fork, setsid and an orphan's new parent."""
    done = run(*python(_DAEMON))
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "died of SIGKILL" in line


def test_a_pipeline_that_is_read_in_part_is_no_news() -> None:
    done = run("sh", "-c", "yes | head -n 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "y\n", "")


def test_a_broken_pipe_of_the_command_itself() -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [*machine.command(), "run", "--", "yes"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert process.returncode == 141
    assert b"yes died of SIGPIPE" in process.stderr


def test_a_build_of_many_processes_is_no_news() -> None:
    done = run("sh", "-c", "i=0; while [ $i -lt 1009 ]; do /bin/true; i=$((i+1)); done")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_outlives_it_is_not_waited_for() -> None:
    done = run("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    assert (done.returncode, done.stderr) == (0, "")
    os.kill(int(done.stdout), signal.SIGKILL)


def test_json_on_stderr() -> None:
    done = harness.run("run", "--summary", "json", "--", "sh", "-c", "exit 3")
    (record,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert schema_check.faults(record) == []
    assert record["exit"] == {"signal": None, "status": 3, "core_dumped": False}
    assert record["cause"] is None


# --- commands that can't be run ------------------------------------------------------------------


def test_no_such_command() -> None:
    done = run("no-such-command-anywhere", "--debug-not-mine")
    assert done.returncode == 127
    assert done.stderr.startswith("killtrace: error: no-such-command-anywhere: command not found; ")
    assert done.stderr.count("\n") == 1


def test_not_executable(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 0\n")
    for path in (script, tmp_path):
        done = run(str(path))
        assert done.returncode == 126
        assert re.fullmatch(r"killtrace: error: .* can't be executed .*; .*\n", done.stderr)


def test_no_such_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = run(str(script))
    assert done.returncode == 127
    assert "interpreter" in done.stderr


def test_a_script_without_a_first_line(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo by a shell, $1\n")
    script.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("script", "as ever", env=harness.environment(PATH=path))
    assert (done.returncode, done.stdout) == (0, "by a shell, as ever\n")


def test_without_privileges_it_is_not_run(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [*harness.as_nobody(), *machine.command(), "run", "--", "touch", str(tmp_path / "made")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 77
    assert done.stderr.startswith("killtrace: error: ")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("args", [(), ("--summary", "xml", "--", "true"), ("--nope", "true")])
def test_bad_usage(args: tuple[str, ...]) -> None:
    done = harness.run("run", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"killtrace: error: [^;\n]+; [^\n]+\n", done.stderr)


def test_a_summary_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = harness.run("run", "--summary-file", str(tmp_path / "no/file"), "--", "echo", "run")
    assert (done.returncode, done.stdout) == (74, "")


# --- as if it were not there ---------------------------------------------------------------------

_PROBE = """
import os, resource, sys
status = open("/proc/self/status").read()
print([line for line in status.splitlines() if line.startswith(("Sig", "Umask"))
       and not line.startswith(("SigQ", "SigCgt"))])
print(sorted(open("/proc/self/environ", "rb").read().split(b"\\0")))
print(os.getcwd(), sys.argv[1:], os.getpgrp() == os.getppid() or os.getpgrp() == os.getpid())
print(sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if fd != 1000))
print(resource.getrlimit(resource.RLIMIT_MEMLOCK), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def _odd_signals() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    os.umask(0o137)


def test_the_command_gets_what_killtrace_was_given(tmp_path: Path) -> None:
    """Environment (of the C locale, which Python would change), signals, descriptors, limits."""
    probe = tmp_path / "probe.py"
    # -S -I: nothing of the test's own environment is imported
    probe.write_text(_PROBE)
    command = [sys.executable, "-I", "-S", str(probe), "an argument", "", "\udcff"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ["PYTHONPATH"],
        "ODD": "é=\n",
    }
    extra = os.open(os.devnull, os.O_RDONLY)
    outputs = []
    for prefix in ([], [*machine.command(), "run", "--"]):
        done = subprocess.run(
            [*prefix, *command],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            env=environment,
            pass_fds=[extra],
            preexec_fn=_odd_signals,
            start_new_session=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        outputs.append(done.stdout.decode())
    os.close(extra)
    assert outputs[1] == outputs[0]


def test_it_reads_from_a_pipe_and_writes_to_one(started: Callable[..., Process]) -> None:
    data = bytes(range(256)) * 1021
    process = started("cat")
    told, said = process.communicate(data, timeout=machine.seconds(20))
    assert (process.returncode, told, said) == (0, data, b"")


# --- signals to killtrace ------------------------------------------------------------------------

# Writes each signal that it gets to stdout, and ends with the input.
_LISTENER = """
import os, signal, sys
def told(signo, frame): os.write(1, signal.Signals(signo).name.encode() + b"\\n")
for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGUSR2"): signal.signal(signal.Signals[name], told)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def listener(started: Callable[..., Process]) -> tuple[Process, int]:
    """A command that tells which signals it got, and its pid."""
    process = started(*python(_LISTENER))
    return process, int(line_of(process))


def no_more_input(process: Process) -> Process:
    assert process.stdin is not None
    process.stdin.close()
    return process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_to_killtrace_alone_is_passed_on(name: str, listener: tuple[Process, int]) -> None:
    process, _ = listener
    process.send_signal(signal.Signals[name])
    assert line_of(process) == name
    assert ended(no_more_input(process)) == (0, "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_to_the_group_comes_once(name: str, listener: tuple[Process, int]) -> None:
    process, _ = listener
    os.killpg(process.pid, signal.Signals[name])
    assert line_of(process) == name
    # killtrace attends to one after the other: had it passed on the first, that came before.
    process.send_signal(signal.SIGUSR2)
    assert line_of(process) == "SIGUSR2"
    assert ended(no_more_input(process)) == (0, "")


def test_a_signal_to_the_group_and_then_to_killtrace_alone(listener: tuple[Process, int]) -> None:
    process, _ = listener
    os.killpg(process.pid, signal.SIGTERM)
    assert line_of(process) == "SIGTERM"
    # Two that are alike while the first is pending are one (signal(7)).
    machine.until(lambda: not pending(process.pid), "killtrace has taken the first")
    process.send_signal(signal.SIGTERM)
    assert line_of(process) == "SIGTERM"
    assert ended(no_more_input(process)) == (0, "")


def test_what_is_passed_on_is_told_with_its_sender(started: Callable[..., Process]) -> None:
    process = started("sh", "-c", "echo $$; read line")
    command = line_of(process)
    subprocess.run(["/bin/kill", "-TERM", str(process.pid)], check=True)
    status, said = ended(process)
    assert status == 143
    assert re.fullmatch(
        rf"killtrace: {command} sh -c 'echo \$\$; read line' died of SIGTERM after running [^:]+:"
        rf" sent by \d+ \S*kill -TERM {process.pid} .*, by way of killtrace\n",
        said,
    ), said


def test_stopped_and_continued_with_no_shell(started: Callable[..., Process]) -> None:
    """Someone means the command alone: killtrace waits, as nobody would continue it."""
    process = started("sh", "-c", "echo $$; read line; exit 5")
    command = int(line_of(process))
    os.kill(command, signal.SIGSTOP)
    machine.until(lambda: _state(command) == "T", "the command is stopped")
    os.kill(command, signal.SIGCONT)
    assert process.stdin is not None
    process.stdin.write(b"go on\n")
    status, said = ended(no_more_input(process))
    assert status == 5, said


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# --- in a terminal -------------------------------------------------------------------------------


class Shell:
    """A session leader on a terminal, as a shell is, with killtrace as its foreground job."""

    def __init__(self, *command: str, folder: Path) -> None:
        self.terminal = Terminal()
        self._said = folder / "stderr"
        self._events, told = os.pipe()
        orders, self._orders = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._lead([*machine.command(), "run", "--", *command], told, orders)
            finally:
                os._exit(99)
        self._leader = pid
        for descriptor in (told, orders):
            os.close(descriptor)

    def _lead(self, arguments: list[str], told: int, orders: int) -> None:
        self.terminal.take()
        job = os.fork()
        if job == 0:
            os.setpgid(0, 0)
            os.tcsetpgrp(self.terminal.slave, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            said = os.open(self._said, os.O_WRONLY | os.O_CREAT)
            for number, descriptor in enumerate((self.terminal.slave, self.terminal.slave, said)):
                os.dup2(descriptor, number)
            os.execvp(arguments[0], arguments)
        while True:
            _, status = os.waitpid(job, os.WUNTRACED)
            os.tcsetpgrp(self.terminal.slave, os.getpgrp())
            os.write(told, f"{status}\n".encode())
            if not os.WIFSTOPPED(status):
                os._exit(0)
            os.read(orders, 1)
            os.tcsetpgrp(self.terminal.slave, job)
            os.killpg(job, signal.SIGCONT)

    def type(self, keys: bytes) -> None:
        os.write(self.terminal.master, keys)

    def read_until(self, wanted: bytes) -> bytes:
        """What came to the screen, up to and with something."""
        seen = b""
        while wanted not in seen:
            seen += os.read(self.terminal.master, 1024)
        return seen

    def event(self) -> int:
        """The next thing that wait(2) told the shell of its job."""
        return int(os.read(self._events, 32))

    def foreground(self) -> None:
        os.write(self._orders, b"f")

    def close(self) -> str:
        """What killtrace said on stderr."""
        os.close(self.terminal.master)
        os.close(self.terminal.slave)
        os.waitpid(self._leader, 0)
        return self._said.read_text()


def test_ctrl_c(tmp_path: Path) -> None:
    # Not a shell: that would handle the signal, and send it to itself again.
    (tmp_path / "word").write_text("ready\n")
    shell = Shell("tail", "-f", str(tmp_path / "word"), folder=tmp_path)
    shell.read_until(b"ready")
    shell.type(b"\x03")
    assert os.waitstatus_to_exitcode(shell.event()) == 130
    said = shell.close()
    assert re.fullmatch(
        rf"killtrace: \d+ .* died of SIGINT after running .*: Ctrl-C on {shell.terminal.name}.*\n",
        said,
    ), said


def test_ctrl_c_that_is_handled(tmp_path: Path) -> None:
    """It comes once, and killtrace stays until the command has ended in its own way."""
    body = "trap 'n=$((n+1)); echo got $n' INT; echo ready; while :; do read x && exit $n; done"
    shell = Shell("sh", "-c", body, folder=tmp_path)
    shell.read_until(b"ready")
    for count in (1, 2):
        shell.type(b"\x03")
        shell.read_until(b"got %d" % count)
    shell.type(b"enough\n")
    assert os.waitstatus_to_exitcode(shell.event()) == 2
    assert "exited with status 2" in shell.close()


def test_ctrl_z_and_foreground(tmp_path: Path) -> None:
    shell = Shell("sh", "-c", "echo ready; read line; exit 5", folder=tmp_path)
    shell.read_until(b"ready")
    shell.type(b"\x1a")
    status = shell.event()
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGTSTP
    shell.foreground()
    shell.type(b"a line\n")
    assert os.waitstatus_to_exitcode(shell.event()) == 5
    assert "exited with status 5" in shell.close()


def test_a_command_that_stops_itself(tmp_path: Path) -> None:
    """Some handle Ctrl-Z and stop themselves with SIGSTOP: the shell must hear of it."""
    body = "trap 'kill -STOP $$; echo back' TSTP; echo ready; while :; do read x && exit 6; done"
    shell = Shell("sh", "-c", body, folder=tmp_path)
    shell.read_until(b"ready")
    shell.type(b"\x1a")
    assert os.WIFSTOPPED(shell.event())
    shell.foreground()
    shell.read_until(b"back")
    shell.type(b"a line\n")
    assert os.waitstatus_to_exitcode(shell.event()) == 6
    shell.close()


def test_a_command_that_does_not_stop(tmp_path: Path) -> None:
    """Ctrl-Z is the command's to refuse."""
    body = "trap 'echo refused' TSTP; echo ready; while :; do read x && exit 7; done"
    shell = Shell("sh", "-c", body, folder=tmp_path)
    shell.read_until(b"ready")
    shell.type(b"\x1a")
    shell.read_until(b"refused")
    shell.type(b"a line\n")
    assert os.waitstatus_to_exitcode(shell.event()) == 7
    shell.close()


def test_a_terminal_that_closes(tmp_path: Path) -> None:
    """As `ssh -t host killtrace run`: the hangup reaches the session's leader alone."""
    terminal, said = Terminal(), tmp_path / "stderr"
    pid = os.fork()
    if pid == 0:
        try:
            terminal.take()
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            stderr = os.open(said, os.O_WRONLY | os.O_CREAT)
            for number, descriptor in enumerate((terminal.slave, terminal.slave, stderr)):
                os.dup2(descriptor, number)
            arguments = [*machine.command(), "run", "--", "sh", "-c", "echo ready; sleep 600; :"]
            os.execvp(arguments[0], arguments)
        finally:
            os._exit(99)
    os.close(terminal.slave)
    while b"ready" not in os.read(terminal.master, 1024):
        pass
    os.close(terminal.master)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    (line,) = (line for line in said.read_text().splitlines() if " sh -c " in line)
    assert "died of SIGHUP after running" in line
    assert f"its terminal {terminal.name} was closed" in line, line


# --- elsewhere -----------------------------------------------------------------------------------


@pytest.mark.needs("pidns")
def test_in_a_pid_namespace(tmp_path: Path) -> None:
    """As in a container: the host's pids are not its own, and it follows all the same."""
    summary = tmp_path / "deaths.jsonl"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", *machine.command()]
        + ["run", "--summary", "json", "--summary-file", str(summary)]
        + ["--", "sh", "-c", "sh -c 'kill -KILL $$' 2>/dev/null; kill -TERM $$"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    killed, own = [json.loads(line) for line in summary.read_text().splitlines()]
    assert killed["exit"]["signal"] == "SIGKILL"
    assert own["exit"]["signal"] == "SIGTERM"
    assert own["process"]["cmdline"][0] == "sh"
    assert own["process"]["ns_pid"] < own["process"]["pid"]


@pytest.mark.needs("pidns")
def test_as_init_of_a_container(tmp_path: Path) -> None:
    """Orphans come to it, and it is no orphan that it waits for."""
    body = "(sh -c 'sleep 0.2; exit 9' &) ; sleep 0.5; exit 4"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", *machine.command()]
        + ["run", "--", "sh", "-c", body],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "exited with status 4" in done.stderr
