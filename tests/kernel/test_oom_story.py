"""OOM kills in full: the memcg, its limit, the victim's memory, held against the kernel's log."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from signal import SIGKILL
from typing import Any

import machine
import pytest
from harness import Tracer, death_of, signal_to
from workloads.actors import end, fork, waiting
from workloads.features import memory_v2_root
from workloads.memory import LIMIT_MB, hold, join, limited, pause_for_ever_with

from killtrace.probe import kallsyms
from killtrace.probe.layout import from_btf

LIMIT_KB = LIMIT_MB * 1024
SLACK_KB = 64


def _hog(folder: Path, megabytes: int) -> None:
    join(folder)
    pause_for_ever_with(hold(megabytes))


def _logged(pid: int) -> dict[str, int]:
    """The figures of the kernel log's own line for this kill, in kB."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    line = next(x for x in reversed(log.splitlines()) if f"Killed process {pid} " in x)
    return {name: int(kb) for name, kb in re.findall(r"([\w-]+):(\d+)kB", line)}


@cache
def _resident_slack_kb() -> int:
    """What the kernel's own line may leave out of a counter of resident pages.

    Since 6.2 (commit f1a7941243c1) these are percpu counters: the line is printed from the shared
    part alone, and each CPU holds back up to a batch of max(32, 2 x CPUs) pages
    (lib/percpu_counter.c). killtrace adds those where it can; elsewhere both read the same.
    """
    counters = from_btf(Path("/sys/kernel/btf/vmlinux").read_bytes()).features
    if "KT_RSS_PERCPU" not in counters or not kallsyms.read().per_cpu_offset:
        return SLACK_KB
    cpus = os.cpu_count() or 1
    return cpus * max(32, 2 * cpus) * os.sysconf("SC_PAGE_SIZE") // 1024


def _check_memory(memory: dict[str, Any], pid: int) -> None:
    """Within 2 % of the log, and what the log itself leaves out."""
    logged, resident_kb = _logged(pid), _resident_slack_kb()
    for ours, theirs, slack_kb in (
        ("total_vm_kb", "total-vm", SLACK_KB),
        ("anon_rss_kb", "anon-rss", resident_kb),
        ("file_rss_kb", "file-rss", resident_kb),
        ("shmem_rss_kb", "shmem-rss", resident_kb),
        ("pgtables_kb", "pgtables", SLACK_KB),
    ):
        told = f"{ours} {memory[ours]}, the log {logged[theirs]}"
        assert abs(memory[ours] - logged[theirs]) <= logged[theirs] * 0.02 + slack_kb, told


def _one_kill(default_tracer: Tracer, folder: Path) -> dict[str, Any]:
    since = default_tracer.mark()
    victim = fork(_hog, folder, 4 * LIMIT_MB)
    os.waitpid(victim, 0)
    record = default_tracer.wait_for(lambda r: signal_to(r, victim, SIGKILL), "the kill", since)
    death = default_tracer.wait_for(lambda r: death_of(r, victim), "the death", since)
    assert death["cause"]["origin"] == record["origin"]
    return record


@pytest.mark.needs("memcg")
def test_a_memcg_at_its_limit(default_tracer: Tracer) -> None:
    with limited("story") as folder:
        record = _one_kill(default_tracer, folder)
        origin = record["origin"]
    assert (origin["kind"], origin["scope"], origin["certain"]) == ("oom", "memcg", True)
    assert origin["memcg"] == f"/{folder.name}"
    assert origin["limit_kb"] == LIMIT_KB
    assert abs(origin["usage_kb"] - LIMIT_KB) <= LIMIT_KB * 0.02
    assert record["sender"] is None
    assert origin["trigger"]["pid"] == record["target"]["pid"]
    assert origin["memory"]["oom_score_adj"] == 0 and origin["memory"]["swap_kb"] == 0
    _check_memory(origin["memory"], record["target"]["pid"])
    assert "reached its limit of 32 MB" in origin["summary"]


@pytest.mark.needs("memcg")
def test_who_else_was_there(default_tracer: Tracer) -> None:
    with limited("others") as folder:
        small = waiting(lambda: join(folder))
        record = _one_kill(default_tracer, folder)
        end([small])
    origin = record["origin"]
    pids = [row["pid"] for row in origin["candidates"]]
    assert pids[0] == record["target"]["pid"] and small in pids
    assert origin["order"] == 0 and origin["gfp"].startswith("GFP_")
    assert origin["badness"] == pytest.approx(origin["candidates"][0]["badness"], rel=0.02)


@pytest.mark.needs("memcg")
def test_the_parent_is_named_where_the_parent_is_full(default_tracer: Tracer) -> None:
    with limited("outer") as outer:
        if memory_v2_root() is not None:
            (outer / "cgroup.subtree_control").write_text("+memory")
        inner = outer / "inner"
        inner.mkdir()
        try:
            record = _one_kill(default_tracer, inner)
        finally:
            inner.rmdir()
    assert record["origin"]["memcg"] == f"/{outer.name}"
    assert record["origin"]["limit_kb"] == LIMIT_KB
    assert record["target"]["cgroup"] == f"/{outer.name}/inner"


@pytest.mark.needs("memcg")
def test_threads_are_one_victim(default_tracer: Tracer) -> None:
    script = (
        "import threading,sys,os\n"
        "open(sys.argv[1],'w').write(str(os.getpid()))\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "keep=[]\n"
        "while True: keep.append(bytearray(1<<20))\n"
    )
    since = default_tracer.mark()
    with limited("threads") as folder:
        victim = subprocess.Popen(["/usr/bin/python3", "-c", script, str(folder / "cgroup.procs")])
        victim.wait()
        default_tracer.wait_for(lambda r: death_of(r, victim.pid), "the death", since)
    told = [r for r in default_tracer.records[since:] if signal_to(r, victim.pid, SIGKILL)]
    assert [r["origin"]["kind"] for r in told if r["result"] == "delivered"] == ["oom"]
    _check_memory(told[0]["origin"]["memory"], victim.pid)


@pytest.mark.needs("memcg_v2")
def test_a_whole_group(default_tracer: Tracer) -> None:
    since = default_tracer.mark()
    with limited("group") as folder:
        (folder / "memory.oom.group").write_text("1")
        members = [waiting(lambda: join(folder)) for _ in range(2)]
        hog = fork(_hog, folder, 4 * LIMIT_MB)
        for pid in (hog, *members):
            os.waitpid(pid, 0)
        for pid in (hog, *members):
            death = default_tracer.wait_for(lambda r, p=pid: death_of(r, p), "a death", since)
            origin = death["cause"]["origin"]
            assert (origin["kind"], origin["scope"]) == ("oom", "memcg")
            assert origin["memcg"] == f"/{folder.name}"
    kills = [r for r in default_tracer.records[since:] if r["type"] == "signal"]
    assert {r["target"]["pid"] for r in kills if r["origin"].get("group")} >= set(members)


@pytest.mark.needs("kprobe", "memcg")
def test_the_kprobe_gives_the_score(default_tracer: Tracer) -> None:
    with limited("kprobe") as folder:
        origin = _one_kill(default_tracer, folder)["origin"]
    rss = sum(origin["memory"][f"{kind}_rss_kb"] for kind in ("anon", "file", "shmem"))
    assert origin["badness"] * 4 == pytest.approx(rss + origin["memory"]["pgtables_kb"], rel=0.02)
    assert (origin["order"], origin["memcg"]) == (0, f"/{folder.name}")
    assert origin["gfp"].startswith("GFP_")


SHARER = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static int hog(void *unused)
{
	/* malloc's locks take two that share memory for threads, or for strangers: neither is so. */
	for (;;)
		memset(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			1, 1 << 20);
}
int main(int argc, char **argv)
{
	FILE *procs = fopen(argv[1], "w");
	fprintf(procs, "%d", getpid());
	fclose(procs);
	/* Two processes, one memory: not threads, which would be one process. */
	static char stack[1 << 16];
	int pid = clone(hog, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
	dprintf(1, "%d\n", pid);
	waitpid(pid, NULL, 0);
	pause();
}
"""


@pytest.mark.needs("memcg", "cc")
def test_who_shares_the_memory_dies_too(default_tracer: Tracer, tmp_path: Path) -> None:
    (tmp_path / "sharer.c").write_text(SHARER)
    subprocess.run(["cc", "-o", tmp_path / "sharer", tmp_path / "sharer.c"], check=True)
    since = default_tracer.mark()
    with limited("share") as folder:
        outer = subprocess.Popen(
            [tmp_path / "sharer", folder / "cgroup.procs"], stdout=subprocess.PIPE, text=True
        )
        assert outer.stdout is not None
        inner = int(outer.stdout.readline())
        assert outer.wait(machine.seconds(20)) == -SIGKILL
        for pid in (outer.pid, inner):
            death = default_tracer.wait_for(lambda r, p=pid: death_of(r, p), "a death", since)
            assert death["cause"]["origin"]["kind"] == "oom"
            assert death["cause"]["origin"]["memcg"] == f"/{folder.name}"
