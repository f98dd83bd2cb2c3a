"""`killtrace doctor` on this machine: what it says is so."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable

import harness
import machine
import pytest
from workloads.features import missing


def doctor(*prefix: str, **more: object) -> tuple[int, dict[str, harness.Record]]:
    """The exit status, and the checks by name."""
    done = subprocess.run(
        [*prefix, *machine.command(), "doctor", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        **more,  # type: ignore[call-overload]
    )
    assert done.stderr == ""
    records = [json.loads(line) for line in done.stdout.splitlines()]
    fields = ["type", "name", "ok", "required", "detail", "gives", "stand_in", "mend"]
    assert all(list(record) == fields for record in records)
    return done.returncode, {record["name"]: record for record in records}


def test_this_machine_can_trace() -> None:
    status, found = doctor()
    assert status == 0
    assert [name for name, check in found.items() if check["required"] and not check["ok"]] == []
    assert os.uname().release in found["kernel"]["detail"]
    assert found["live tracing"]["detail"].startswith("the programs compile, load and attach")
    assert found["oom_kill_process"]["ok"] == (missing("kprobe") is None)
    assert found["BTF"]["ok"] == (missing("btf") is None)
    assert found["memory cgroups"]["ok"] == (missing("memcg") is None)


def test_it_is_quick() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    doctor()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s < machine.seconds(2)


def test_the_table_is_narrow_and_plain() -> None:
    done = harness.run("doctor")
    assert done.returncode == 0
    assert max(len(line) for line in done.stdout.splitlines()) < 100
    assert "\033" not in done.stdout
    assert "signal_generate" in done.stdout


def test_without_privileges() -> None:
    status, found = doctor(*harness.as_nobody())
    assert status == 77
    assert not found["privileges"]["ok"]
    assert found["signal_generate"]["ok"]
    assert not found["kernel symbols"]["ok"]
    assert found["live tracing"]["mend"] == "run `sudo killtrace doctor`"


def test_without_btf() -> None:
    status, found = doctor(env=harness.environment(KILLTRACE_BTF="/nowhere"))
    expected = 0 if found["kernel headers"]["ok"] else 69
    assert status == expected
    assert not found["BTF"]["ok"]


def test_a_running_tracer_is_seen(tracer: Callable[..., harness.Tracer]) -> None:
    """Its table is small, and more processes come by than it holds."""
    entries = 1024
    with tracer("--exec-entries", str(entries)):
        before = _seen(entries)
        assert before
        script = f"i=0; while [ $i -lt {entries + 211} ]; do /bin/true; i=$((i+1)); done"
        subprocess.run(["sh", "-c", script], check=True)
        after = _seen(entries)
    assert f"of {entries:,}; about " in after
    made_way = int(after.partition("about ")[2].partition(" made way")[0].replace(",", ""))
    assert made_way >= 200, after


def _seen(entries: int) -> str:
    """What the doctor says of the tracer with this many entries; "" where it says nothing."""
    detail: str = doctor()[1]["command lines"]["detail"]
    return next((part for part in detail.split("; a running") if f" of {entries:,};" in part), "")


@pytest.mark.needs("pidns")
def test_in_a_pid_namespace() -> None:
    status, found = doctor("unshare", "--pid", "--fork", "--mount-proc")
    assert status == 0
    check = found["PID namespace"]
    assert not check["ok"]
    assert "on the host" in check["detail"]
    assert "--pid" in check["stand_in"]
