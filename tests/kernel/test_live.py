"""The live command line on a real kernel: filters, waiting, bounds, refusals, exit statuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import machine
import pytest
from harness import Stage, Tracer, as_nobody, death_of, run, signal_to
from workloads import linux
from workloads.actors import fork, handling, pause_for_ever, waiting

HUP, KILL, TERM = signal.SIGHUP, signal.SIGKILL, signal.SIGTERM


@pytest.fixture
def victims() -> Iterator[list[int]]:
    """Pids of children to put out of the way afterwards."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, KILL)
            os.waitpid(pid, 0)
        except (ChildProcessError, ProcessLookupError):
            pass


def end(pid: int, signo: int = TERM) -> None:
    os.kill(pid, signo)
    os.waitpid(pid, 0)


# --- filters -----------------------------------------------------------------------------------


def test_pid_shows_its_signals_and_death_and_no_others(stage: Stage) -> None:
    mine = waiting()
    with Tracer("--pid", str(mine)) as tracer:
        stage.play("kill_sigkill")
        end(mine)
        tracer.wait_for(lambda r: death_of(r, mine), "the death")
    pids = {(r.get("target") or r.get("process"))["pid"] for r in tracer.records}
    assert pids == {mine}


def test_pid_is_told_to_have_ended_by_itself() -> None:
    mine = handling(TERM, 7)
    with Tracer("--pid", str(mine), "--signal", "KILL") as tracer:
        end(mine)  # TERM is not traced: as far as the tracer knows, it left of its own accord
        death = tracer.wait_for(lambda r: death_of(r, mine), "the death")
    assert death["exit"] == {"signal": None, "status": 7, "core_dumped": False}
    assert death["cause"] is None and death["signals"] == []


def test_sender(victims: list[int]) -> None:
    victim = waiting()
    victims.append(victim)
    with Tracer("--sender", str(os.getpid())) as tracer:
        other = fork(lambda: os.kill(victim, signal.SIGCONT) or os.kill(os.getpid(), HUP))
        os.waitpid(other, 0)
        end(victim)
        tracer.wait_for(lambda r: death_of(r, victim), "the death")
    senders = {r["sender"]["pid"] for r in tracer.records if r["type"] == "signal"}
    assert senders == {os.getpid()}


def test_signal_names_others(victims: list[int]) -> None:
    victim = waiting()
    with Tracer("--signal", "usr1,12") as tracer:
        end(victim, signal.SIGUSR1)
        second = waiting()
        os.kill(second, TERM)
        os.waitpid(second, 0)
        third = waiting()
        end(third, signal.SIGUSR2)
        tracer.wait_for(lambda r: death_of(r, third), "the death")
    told = {r["signo"] for r in tracer.records if r["type"] == "signal"}
    assert {10, 12} <= told and TERM not in told


def test_comm_is_a_glob_of_either_end() -> None:
    victim = subprocess.Popen(["sleep", "1000"])
    bystander = waiting()
    with Tracer("--comm", "slee?") as tracer:
        end(bystander)
        victim.terminate()
        victim.wait()
        tracer.wait_for(lambda r: death_of(r, victim.pid), "the death")
    assert not any(death_of(r, bystander) for r in tracer.records)


def test_user_is_of_either_end() -> None:
    victim = subprocess.Popen([*as_nobody(), "sleep", "1000"])
    machine.until(
        lambda: Path(f"/proc/{victim.pid}/comm").read_text() == "sleep\n", "the change of user"
    )
    bystander = waiting()
    with Tracer("--user", "nobody") as tracer:
        end(bystander)
        victim.terminate()
        victim.wait()
        death = tracer.wait_for(lambda r: death_of(r, victim.pid), "the death")
    assert (death["process"]["uid"], death["process"]["user"]) == (65534, "nobody")
    assert not any(death_of(r, bystander) for r in tracer.records)


def test_origin_and_deaths(stage: Stage) -> None:
    with Tracer("--origin", "terminal", "--deaths") as tracer:
        stage.play("kill_sigkill")
        truth = stage.play("ctrl_c")
        tracer.wait_for(lambda r: death_of(r, truth.died[0].pid), "the death")
    assert {r["type"] for r in tracer.records} == {"death"}
    assert {r["cause"]["origin"]["kind"] for r in tracer.records} == {"terminal"}


# --- refusals ----------------------------------------------------------------------------------


def test_refusals_are_told_with_their_errno(victims: list[int]) -> None:
    victim = waiting()
    victims.append(victim)
    gone = waiting()
    end(gone)
    script = f"import os,signal\nfor pid in ({victim}, {gone}):\n" + (
        "    try: os.kill(pid, signal.SIGTERM)\n    except OSError: pass\n"
    )
    with Tracer("--failed") as tracer:
        subprocess.run([*as_nobody(), "/usr/bin/python3", "-c", script], check=True)
        refused = tracer.wait_for(
            lambda r: r["type"] == "attempt" and r["errno"] == "EPERM", "the EPERM"
        )
        missing = tracer.wait_for(
            lambda r: r["type"] == "attempt" and r["errno"] == "ESRCH"
            and (r["target"] or {}).get("pid") == gone, "the ESRCH"
        )  # fmt: skip
    assert (refused["signal"], refused["syscall"]) == ("SIGTERM", "kill")
    assert refused["target"]["pid"] == victim and refused["target"]["comm"]
    assert refused["sender"]["uid"] == 65534
    assert missing["sender"]["pid"] == refused["sender"]["pid"]


# --- waiting -----------------------------------------------------------------------------------


def test_wait_prints_one_death_and_leaves() -> None:
    victim = waiting()
    with Tracer("--pid", str(victim), "--wait") as tracer:
        end(victim, KILL)
        assert tracer.ended() == 0
    assert len(tracer.records) == 1
    death = tracer.records[0]
    assert death_of(death, victim) and death["exit"]["signal"] == "SIGKILL"
    assert death["cause"]["sender"]["pid"] == os.getpid()


def test_wait_tells_who_left_by_itself() -> None:
    read, write = os.pipe()
    victim = fork(lambda: os.read(read, 1) and os._exit(3))
    with Tracer("--pid", str(victim), "--wait", json_output=False) as tracer:
        os.write(write, b"x")
        os.waitpid(victim, 0)
        assert tracer.ended() == 0
    assert tracer.lines[0].startswith("exited") and "status 3, by itself" in tracer.lines[0]


def test_wait_knows_signals_that_are_not_traced_by_default() -> None:
    victim = waiting()
    with Tracer("--pid", str(victim), "--wait") as tracer:
        end(victim, signal.SIGUSR1)
        assert tracer.ended() == 0
    assert tracer.records[0]["cause"]["signal"] == "SIGUSR1"


def test_wait_for_who_is_gone() -> None:
    victim = waiting()
    end(victim)
    took_s, done = machine.quickest(lambda: run("--pid", str(victim), "--wait"))
    assert done.returncode == 3 and done.stdout == ""
    assert str(victim) in done.stderr and done.stderr.count("\n") == 1
    assert took_s < machine.seconds(1)


def test_wait_for_a_zombie_is_for_who_is_gone() -> None:
    victim = waiting()
    os.kill(victim, KILL)
    machine.until(lambda: "Z (zombie)" in Path(f"/proc/{victim}/status").read_text(), "a zombie")
    assert run("--pid", str(victim), "--wait").returncode == 3
    os.waitpid(victim, 0)


def test_wait_gives_up_in_time(victims: list[int]) -> None:
    victims.append(waiting())
    done = run("--pid", str(victims[0]), "--wait", "--timeout", "0.2")
    assert done.returncode == 124 and done.stdout == ""


def test_wait_by_name() -> None:
    with Tracer("--comm", "sleep", "--wait") as tracer:
        other = waiting()
        end(other)
        slept = subprocess.Popen(["sleep", "0.01"])
        slept.wait()
        assert tracer.ended() == 0
    assert [r["process"]["comm"] for r in tracer.records] == ["sleep"]


@pytest.mark.needs("set_tid")
def test_a_pid_that_is_used_again_is_another_process() -> None:
    first = waiting()
    with Tracer("--pid", str(first)) as tracer:
        end(first)
        tracer.wait_for(lambda r: death_of(r, first), "the first death")
        again = linux.clone_with_pid(first)
        if again == 0:
            pause_for_ever()
        end(again, KILL)
        canary = waiting()
        end(canary)
    deaths = [r for r in tracer.records if r["type"] == "death"]
    assert [d["exit"]["signal"] for d in deaths] == ["SIGTERM"]


# --- bounds, and the end -----------------------------------------------------------------------


def test_count(stage: Stage) -> None:
    with Tracer("--count", "3") as tracer:
        for _ in range(3):
            stage.play("kill_sigkill")
        assert tracer.ended() == 0
    assert len(tracer.records) == 3


def test_duration_and_timeout() -> None:
    assert run("--duration", "0.1").returncode == 0
    assert run("--timeout", "0.1").returncode == 124


def test_sigterm_ends_it_in_order() -> None:
    with Tracer() as tracer:
        tracer.process.send_signal(TERM)
        assert tracer.ended() == 0


def test_ready_line_and_file() -> None:
    with Tracer() as tracer:
        pass
    line = "killtrace: tracing SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM (Ctrl-C to stop)\n"
    assert tracer.stderr == line


def test_attached_in_about_a_second() -> None:
    quickest = 1e9
    for _ in range(3):
        with Tracer() as tracer:
            pass
        quickest = min(quickest, tracer.ready_after_s)
    assert quickest < machine.seconds(2)


def test_a_reader_that_leaves_is_a_quiet_end(stage: Stage) -> None:
    piped = f"{' '.join(machine.command())} --format json --ready-file $0 2>$0.err | head -n 1"
    with Tracer() as helper:
        ready = helper.ready_file.with_name("piped")
        shell = subprocess.Popen(["sh", "-c", piped, str(ready)], stdout=subprocess.PIPE)
        machine.until(ready.exists, "ready")

        def over() -> bool:
            stage.play("kill_sigkill")
            return shell.poll() is not None

        machine.until(over, "the end of the pipe", quick_s=20)
        said = ready.with_name("piped.err").read_text()
    assert shell.returncode == 0
    assert "Traceback" not in said and "error" not in said


def test_a_full_disk_is_74(stage: Stage) -> None:
    with open("/dev/full", "w") as full, Tracer() as helper:
        ready = helper.ready_file.with_name("full")
        process = subprocess.Popen(
            [*machine.command(), "--format", "json", "--ready-file", str(ready)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
        machine.until(ready.exists, "ready")
        stage.play("kill_sigkill")
        _, said = process.communicate(timeout=machine.seconds(20))
    assert process.returncode == 74
    assert said.splitlines()[-1].startswith("killtrace: error: ")


def test_nobody_may_not_and_hears_so_at_once() -> None:
    command = [*as_nobody(), *machine.command()]
    took_s, done = machine.quickest(
        lambda: subprocess.run(command, capture_output=True, text=True, check=False)
    )
    assert done.returncode == 77 and done.stdout == ""
    assert "sudo" in done.stderr and done.stderr.count("\n") == 1
    assert took_s < machine.seconds(0.5)


def test_no_btf_and_no_headers_is_69() -> None:
    environment = {**os.environ, "KILLTRACE_BTF": "/nonexistent"}
    if Path(f"/lib/modules/{os.uname().release}/build/include").exists():
        pytest.fail("this test wants a machine without kernel headers")
    done = run(env=environment)
    assert done.returncode == 69 and done.stdout == ""
    assert "linux-headers" in done.stderr and done.stderr.count("\n") == 1


def test_the_table_tells_a_kill_and_a_death() -> None:
    victim = subprocess.Popen(["sleep", "1000"])
    with Tracer("--comm", "sleep", json_output=False) as tracer:
        subprocess.run(["sh", "-c", f"/bin/kill -TERM {victim.pid}"], check=True)
        victim.wait()
        tracer.wait_for_line(lambda line: " died " in line, "the death")
    assert tracer.lines[0].split() == ["TIME", "SIGNAL", "TARGET", "ORIGIN"]
    assert f"SIGTERM    {victim.pid} sleep 1000" in tracer.lines[1]
    assert f"kill -TERM {victim.pid} ← sh" in " ".join(tracer.lines)
    assert all(len(line) <= 100 for line in tracer.lines)


def test_a_name_can_not_drive_the_terminal() -> None:
    script = "import ctypes,signal; ctypes.CDLL(None).prctl(15, b'\\x1b[31mred'); signal.pause()"
    victim = subprocess.Popen(
        ["\x1b[2Jevil", "-c", script], executable=sys.executable, stdout=subprocess.DEVNULL
    )
    comm = Path(f"/proc/{victim.pid}/comm")
    machine.until(lambda: b"red" in comm.read_bytes(), "the new name")
    with Tracer(json_output=False) as tracer:
        victim.kill()
        victim.wait()
        tracer.wait_for_line(lambda line: "died" in line, "the death")
    assert "\x1b" not in "".join(tracer.lines)
    assert any("\\x1b[2Jevil" in line for line in tracer.lines)


def test_other_records_do_not_hide_who_was_hit(stage: Stage) -> None:
    with Tracer() as tracer:
        victim = waiting()
        os.kill(victim, KILL)
        os.waitpid(victim, 0)
        told = tracer.wait_for(lambda r: signal_to(r, victim, KILL), "the signal")
    target = told["target"]
    assert (target["pid"], target["tid"], target["ppid"]) == (victim, victim, os.getpid())
    assert target["uid"] == os.getuid() and target["start_time"] and target["cgroup"]
