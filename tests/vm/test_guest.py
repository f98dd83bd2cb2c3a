"""What only a guest may do: run the whole machine out of memory, and press SysRq.

Run by vagrant/matrix.py, which sets KILLTRACE_GUEST; never on a machine that is used.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernel"))

from harness import Tracer, death_of, signal_to
from workloads.actors import fork, waiting
from workloads.memory import adjust, hold, join, limited, pause_for_ever_with

if os.environ.get("KILLTRACE_GUEST") != "bare":
    pytest.skip("for a guest of vagrant/matrix.py alone", allow_module_level=True)


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    with Tracer() as running:
        yield running


@pytest.fixture(autouse=True)
def _shielded() -> None:
    """The tests and their tracer are not what is to be killed."""
    adjust(-1000)


def _chosen(megabytes: int) -> None:
    adjust(1000)
    # Piece by piece: one mapping larger than the machine is refused.
    held = [hold(16) for _ in range(megabytes // 16)]
    pause_for_ever_with(held[0])


def _free_mb() -> int:
    rows = Path("/proc/meminfo").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("MemTotal")) // 1024


def _kernel_log(pattern: str) -> int:
    """The number that the last match of a pattern in the kernel's log has."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return int(re.findall(pattern, log)[-1])


def test_the_machine_runs_out_of_memory(tracer: Tracer) -> None:
    Path(f"/proc/{tracer.process.pid}/oom_score_adj").write_text("-1000")
    since = tracer.mark()
    victim = fork(_chosen, _free_mb() + 256)
    assert os.waitpid(victim, 0)[1] == SIGKILL
    death = tracer.wait_for(lambda r: death_of(r, victim), "the death", since, quick_s=30)
    origin = death["cause"]["origin"]
    assert (origin["kind"], origin["scope"], origin["memcg"]) == ("oom", "system", None)
    # Whoever asks when there is none left: not always the one that took it.
    assert origin["trigger"]["pid"] == _kernel_log(r"invoked oom-killer(?s:.*?) PID: (\d+) ")
    assert origin["memory"]["oom_score_adj"] == 1000
    assert origin["memory"]["anon_rss_kb"] > 100_000
    assert origin["badness"] > 0 and origin["gfp"]
    assert origin["summary"].startswith("OOM killer: the machine ran out of memory")


@contextmanager
def _swap(file: Path, megabytes: int) -> Iterator[None]:
    with file.open("wb") as made:
        made.write(bytes(megabytes << 20))
    file.chmod(0o600)
    subprocess.run(["mkswap", file], check=True, capture_output=True)
    subprocess.run(["swapon", file], check=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", file], check=True)
        file.unlink()


def test_what_was_swapped_out_counts(tracer: Tracer) -> None:
    with _swap(Path("/swapfile"), 64), limited("swap") as folder:
        (folder / "memory.swap.max").write_text(str(24 << 20))
        since = tracer.mark()

        def hog() -> None:
            adjust(0)
            join(folder)
            held = [hold(4) for _ in range(32)]
            pause_for_ever_with(held[0])

        victim = fork(hog)
        assert os.waitpid(victim, 0)[1] == SIGKILL
        death = tracer.wait_for(lambda r: death_of(r, victim), "the death", since)
    origin = death["cause"]["origin"]
    assert (origin["kind"], origin["memcg"]) == ("oom", f"/{folder.name}")
    memory = origin["memory"]
    # The task table counts in pages: "[ pid ] uid tgid total_vm rss ... swapents adj name".
    swapped_kb = 4 * _kernel_log(rf"\[ *{victim}\](?: +\d+)+ +(\d+) +0 \S+")
    assert swapped_kb > 10_000
    assert memory["swap_kb"] == pytest.approx(swapped_kb, rel=0.02)
    assert memory["anon_rss_kb"] == pytest.approx(
        _kernel_log(rf"Killed process {victim} .*anon-rss:(\d+)kB"), rel=0.02
    )


def test_sysrq_f(tracer: Tracer) -> None:
    since = tracer.mark()
    victim = waiting(lambda: adjust(1000))
    Path("/proc/sys/kernel/sysrq").write_text("1")
    Path("/proc/sysrq-trigger").write_text("f")
    assert os.waitpid(victim, 0)[1] == SIGKILL
    kill = tracer.wait_for(lambda r: signal_to(r, victim, SIGKILL), "the kill", since)
    assert kill["origin"]["kind"] == "oom" and kill["sender"] is None
    assert "SysRq" in kill["origin"]["summary"]


def test_sysrq_e(tracer: Tracer) -> None:
    """SIGTERM to everyone but init: the tracer ends of it too, in order, and has told it all."""
    victim = waiting()
    before = signal.signal(SIGTERM, signal.SIG_IGN)
    try:
        Path("/proc/sysrq-trigger").write_text("e")
        os.waitpid(victim, 0)
    finally:
        signal.signal(SIGTERM, before)
    assert tracer.ended() == 0
    kill = next(r for r in tracer.records if signal_to(r, victim, SIGTERM))
    assert kill["origin"]["kind"] == "sysrq" and kill["sender"] is None
