"""What is known after the next boot: run after test_services.py and a reboot, by vagrant/vm.py."""

from __future__ import annotations

import os

import machine
import pytest

if os.environ.get("KILLTRACE_GUEST") != "vm-again":
    pytest.skip("for the Vagrant VM alone, booted again", allow_module_level=True)

from harness import run
from test_services import RECORDED, command, sources_of, verdicts_of, why


def test_an_oom_kill_of_the_boot_before() -> None:
    unit = "killtrace-hog.service"
    assert sources_of(unit) >= {"kernel-log", "journal", "accounting"}
    (verdict,) = verdicts_of(unit, "--boot", "-1")
    assert verdict["certain"]
    origin = verdict["death"]["cause"]["origin"]
    assert (origin["kind"], origin["memcg"]) == ("oom", f"/system.slice/{unit}")
    assert origin["limit_kb"] == 60 * 1024


def test_the_recorder_runs_from_boot_on_and_has_what_was() -> None:
    machine.until(lambda: command("systemctl", "is-active", "killtrace") == "active", "it runs")
    victim, by = map(int, RECORDED.read_text().split())
    verdict, sources = why(victim)
    assert {"store", "accounting"} <= sources
    assert verdict["death"]["cause"]["sender"]["pid"] == by
    done = run("record", "--uninstall")
    assert done.returncode == 0, done.stderr
    assert run("history", "--pid", str(victim)).returncode == 0
