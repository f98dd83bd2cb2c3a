"""What only a whole system has: services and containers that are stopped, and what logs keep.

Run in the Vagrant VM (`make vm-test`), which sets KILLTRACE_GUEST to vm.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import machine
import pytest
from harness import Tracer, death_of, run, signal_to
from workloads.actors import sender, waiting

if not os.environ.get("KILLTRACE_GUEST", "").startswith("vm"):
    pytest.skip("for the Vagrant VM alone", allow_module_level=True)

# A shell that never ends, whatever SIGTERM asks.
STUBBORN = "trap '' TERM; while :; do sleep 1; done"
# What the test after the next boot asks for.
RECORDED = Path("/var/tmp/killtrace-recorded")
HOG = "import time; held = bytearray(200 << 20); time.sleep(60)"


def command(*words: str) -> str:
    """What a command printed; AssertionError where it failed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=machine.seconds(20))
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


def main_pid(unit: str) -> int:
    """The pid of a unit's main process, once it ignores SIGTERM."""
    pid = int(command("systemctl", "show", "--value", "-p", "MainPID", unit))
    machine.until(lambda: _ignores(pid, SIGTERM), f"{unit} ignores SIGTERM")
    return pid


def _ignores(pid: int, signo: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(row.split()[1] for row in status.splitlines() if row.startswith("SigIgn"))
    return bool(int(mask, 16) & 1 << (signo - 1))


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    with Tracer() as running:
        yield running


def verdicts_of(target: str, *args: str) -> list[dict[str, Any]]:
    """What `why` says of a name or unit; none where it finds nothing."""
    done = run("why", target, "--format", "json", *args)
    assert done.returncode in (0, 3), done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return [record for record in records if record["type"] == "verdict"]


def sources_of(target: str, *args: str) -> set[str]:
    """The sources that gave evidence on the one death of a name or unit."""
    found = verdicts_of(target, *args)
    return {item["source"] for item in found[0]["evidence"]} if len(found) == 1 else set()


def why(pid: int) -> tuple[dict[str, Any], set[str]]:
    """The verdict on a pid, and the sources that gave evidence."""
    done = run("why", str(pid), "--format", "json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    verdict = next(record for record in records if record["type"] == "verdict")
    assert verdict["death"]["process"]["pid"] == pid
    return verdict, {found["source"] for found in verdict["evidence"]}


def test_systemctl_stop_escalates(tracer: Tracer) -> None:
    unit = "killtrace-stubborn.service"
    command("systemd-run", f"--unit={unit}", "--collect", "-p", "TimeoutStopSec=2",
            "sh", "-c", STUBBORN)  # fmt: skip
    victim = main_pid(unit)
    since = tracer.mark()
    command("systemctl", "stop", unit)
    death = tracer.wait_for(lambda r: death_of(r, victim), "the death", since)
    assert [brief["signal"] for brief in death["signals"]] == ["SIGTERM", "SIGKILL"]
    assert {brief["sender"]["pid"] for brief in death["signals"]} == {1}
    told = [r for r in tracer.records[since:] if r["type"] == "signal"]
    for record in (r for r in told if r["target"]["pid"] == victim):
        requester = record["origin"]["requester"]
        assert requester["cmdline"] == ["systemctl", "stop", unit]
        assert (record["origin"]["via"], record["origin"]["certain"]) == ("systemd", False)
    assert "stop timed out, final SIGKILL" in death["cause"]["origin"]["summary"]
    assert death["process"]["unit"] == unit
    assert death["exit"]["signal"] == "SIGKILL"
    term = tracer.wait_for(lambda r: signal_to(r, victim, SIGTERM), "SIGTERM", since)
    assert term["sender"]["comm"] == "systemd" and term["target"]["unit"] == unit
    # The stop timeout is in the journal: without a recorder too, `why` tells the story.
    machine.until(lambda: "journal" in why(victim)[1], "the journal has it")
    verdict, _ = why(victim)
    assert verdict["death"]["exit"]["signal"] == "SIGKILL"


def test_memory_limit_of_a_service(tracer: Tracer) -> None:
    unit = "killtrace-hog.service"
    since = tracer.mark()
    subprocess.run(
        ["systemd-run", f"--unit={unit}", "--wait", "-p", "MemoryMax=60M", "-p",
         "MemorySwapMax=0", "-p", "OOMPolicy=continue", "/usr/bin/python3", "-c", HOG],
        capture_output=True, check=False, timeout=machine.seconds(30),
    )  # fmt: skip
    death = tracer.wait_for(
        lambda r: r["type"] == "death" and r["process"]["unit"] == unit, "the death", since
    )
    command("systemctl", "reset-failed", unit)
    origin = death["cause"]["origin"]
    assert (origin["kind"], origin["scope"]) == ("oom", "memcg")
    assert origin["memcg"] == f"/system.slice/{unit}"
    assert origin["limit_kb"] == 60 * 1024
    assert origin["memory"]["anon_rss_kb"] > 20_000
    victim = death["process"]["pid"]
    machine.until(lambda: {"kernel-log", "accounting"} <= why(victim)[1], "the logs have it")
    verdict, _ = why(victim)
    assert verdict["certain"]
    assert verdict["death"]["cause"]["origin"]["kind"] == "oom"
    assert verdict["death"]["cause"]["origin"]["memcg"] == f"/system.slice/{unit}"


def test_podman_stop_escalates(tracer: Tracer) -> None:
    name = "killtrace-stubborn"
    archive = "/usr/local/share/killtrace/busybox.tar"
    command("podman", "import", archive, "localhost/busybox")
    command("podman", "run", "--detach", "--rm", "--network=none", "--cgroups=enabled",
            f"--name={name}", "localhost/busybox", "/bin/busybox", "sh", "-c",
            STUBBORN.replace("sleep", "/bin/busybox sleep"))  # fmt: skip
    victim = int(command("podman", "inspect", "--format", "{{.State.Pid}}", name))
    machine.until(lambda: _ignores(victim, SIGTERM), "the container ignores SIGTERM")
    since = tracer.mark()
    command("podman", "stop", "--time=2", name)
    death = tracer.wait_for(lambda r: death_of(r, victim), "the death", since)
    assert [brief["signal"] for brief in death["signals"]] == ["SIGTERM", "SIGKILL"]
    container = death["process"]["container"]
    assert container["runtime"] == "podman" and len(container["id"]) == 64
    assert death["process"]["ns_pid"] == 1
    senders = {brief["sender"]["comm"] for brief in death["signals"]}
    assert senders <= {"podman", "conmon", "crun", "3"}, senders
    assert container["name"] == name
    requester = death["cause"]["origin"]["requester"]
    assert requester["cmdline"] == ["podman", "stop", "--time=2", name]


def test_why_a_service_dumped_core() -> None:
    unit = "killtrace-dumper.service"
    subprocess.run(
        ["systemd-run", f"--unit={unit}", "--wait", "-p", "LimitCORE=infinity", "-p",
         "WorkingDirectory=/tmp", "/usr/bin/python3", "-c", "import os; os.abort()"],
        capture_output=True, check=False, timeout=machine.seconds(20),
    )  # fmt: skip
    command("systemctl", "reset-failed", unit)
    machine.until(lambda: len(sources_of(unit)) == 3, "each log has it")
    assert sources_of(unit) == {"audit", "accounting", "journal"}
    (verdict,) = verdicts_of(unit)
    assert verdict["death"]["exit"] == {"signal": "SIGABRT", "status": None, "core_dumped": True}
    assert verdict["death"]["process"]["comm"] == "python3"


def test_why_from_audit_and_accounting() -> None:
    """Nobody traced it: auditd saw the call, and the kernel wrote what the process died of."""
    rule = ["-a", "always,exit", "-F", "arch=b64", "-S", "kill", "-k", "killtrace-test"]
    command("auditctl", *rule)
    try:
        victim = waiting()
        by = sender(lambda: os.kill(victim, SIGKILL))
        os.waitpid(victim, 0)
        machine.until(lambda: {"audit", "accounting"} <= why(victim)[1], "the logs have it")
    finally:
        command("auditctl", "-d", *rule[1:])
    verdict, _ = why(victim)
    assert verdict["death"]["exit"]["signal"] == "SIGKILL"
    assert verdict["death"]["cause"]["sender"]["pid"] == by
    assert re.search(r"\bSIGKILL\b", verdict["summary"])


def test_why_tells_of_the_command_under_sudo() -> None:
    victim = waiting()
    kill = shutil.which("kill")
    assert kill is not None
    command("runuser", "-u", "vagrant", "--", "sudo", kill, "-9", str(victim))
    os.waitpid(victim, 0)
    machine.until(lambda: {"accounting", "journal"} <= why(victim)[1], "the logs have it")
    verdict, _ = why(victim)
    (line,) = [found["text"] for found in verdict["evidence"] if found["source"] == "journal"]
    assert line.startswith("sudo: vagrant : ") and line.endswith(f"COMMAND={kill} -9 {victim}")


def test_the_recorder_as_a_service() -> None:
    """Its other half is test_past_boot.py: after the next boot it runs, and has this."""
    done = run("record", "--install")
    assert done.returncode == 0, done.stderr
    assert command("systemctl", "is-active", "killtrace") == "active"
    victim = waiting()
    by = sender(lambda: os.kill(victim, SIGKILL))
    os.waitpid(victim, 0)
    machine.until(lambda: "store" in sources_of(str(victim)), "it is in the store")
    verdict, _ = why(victim)
    assert verdict["certain"]
    assert verdict["death"]["cause"]["sender"]["pid"] == by
    RECORDED.write_text(f"{victim} {by}\n")
