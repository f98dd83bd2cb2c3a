"""Signals sent by the programs that people use: kill(1), pkill, killall, timeout, a shell."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from signal import SIGKILL, SIGTERM

from workloads import linux
from workloads.actors import died_of, fork, named, waiting
from workloads.registry import Died, Sent, Truth, case


def _run(
    victim: int, *command: str, comm: str, signo: int = SIGTERM, syscall: str = "kill"
) -> Truth:
    """Run a command that sends `signo` to `victim`."""
    tool = subprocess.Popen(command)
    if tool.wait() != 0:
        raise RuntimeError(f"{command} ended with {tool.returncode}")
    sent = Sent(
        signo,
        victim,
        "process",
        "SI_USER",
        tool.pid,
        detail={"syscall": syscall, "group": None},
        sender_comm=comm,
        sender_cmdline=list(command),
    )
    return Truth([sent], [died_of(victim, signo)])


@case("/bin/kill")
def kill_tool() -> Truth:
    """/bin/kill"""
    victim = waiting()
    return _run(victim, "/bin/kill", "-TERM", str(victim), comm="kill")


@case("/bin/kill")
def kill_tool_9() -> Truth:
    """/bin/kill -9"""
    victim = waiting()
    return _run(victim, "/bin/kill", "-9", str(victim), comm="kill", signo=SIGKILL)


@case("pkill")
def pkill() -> Truth:
    """pkill, by name"""
    name = f"kt{os.getpid()}p"
    return _run(named(name), "pkill", "-x", name, comm="pkill")


@case("killall")
def killall() -> Truth:
    """killall, by name"""
    name = f"kt{os.getpid()}a"
    # psmisc 23.5 and later hold the process by a pidfd.
    version = subprocess.run(["killall", "--version"], capture_output=True, text=True).stderr
    numbers = tuple(int(n) for n in re.findall(r"\d+", version.splitlines()[0])[:2])
    call = "pidfd_send_signal" if numbers >= (23, 5) else "kill"
    return _run(named(name), "killall", name, comm="killall", syscall=call)


@case()
def shell_builtin() -> Truth:
    """a shell's builtin kill"""
    victim = waiting()
    # `:` keeps the shell from replacing itself with the last command.
    return _run(victim, "sh", "-c", f"kill -TERM {victim}; :", comm="sh")


@case("bash")
def bash_builtin() -> Truth:
    """bash's builtin kill, -9"""
    victim = waiting()
    return _run(victim, "bash", "-c", f"kill -9 {victim}; :", comm="bash", signo=SIGKILL)


@case()
def timeout_tool() -> Truth:
    """timeout(1): its command, then the whole group, itself among it"""
    # Time enough, on any machine, to see its child before both are gone.
    seconds = 0.2 * float(os.environ.get("KILLTRACE_TEST_SLOW", "1"))
    command = ["timeout", f"{seconds:g}", "sleep", "1000"]
    told_out, told_in = os.pipe()

    def keeper() -> int:
        tool = subprocess.Popen(command, preexec_fn=lambda: os.setpgid(0, 0))
        while not (sleeping := linux.children(tool.pid)):
            if tool.poll() is not None:
                raise RuntimeError("timeout ended before its child was seen")
        os.write(told_in, f"{tool.pid} {sleeping[0]}".encode())
        return tool.wait()

    keeping = fork(keeper)
    by, victim = (int(word) for word in os.read(told_out, 99).split())
    status = os.waitpid(keeping, 0)[1]
    if os.WEXITSTATUS(status) != 124:
        raise RuntimeError(f"timeout ended with {status}")
    first = Sent(
        SIGTERM,
        victim,
        "process",
        "SI_USER",
        by,
        detail={"syscall": "kill", "group": None},
        sender_comm="timeout",
        sender_cmdline=command,
    )
    # Then its whole group, in which the command is dying, or dead and not yet waited for.
    then = replace(first, detail={"syscall": "kill", "group": by}, result=None)
    return Truth([first, then], [Died(victim, SIGTERM, cause=SIGTERM), Died(by, status=124)])
