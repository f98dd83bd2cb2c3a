from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from faketree import FakeProc

from killtrace.enrich.enricher import Enricher, open_enricher, open_terminals
from killtrace.model import Ancestor, Process

OFFSET = 1_700_000_000_000_000_000
START = OFFSET + 50_000_000_000


@pytest.fixture
def enricher(fake_proc: FakeProc, tmp_path: Path) -> Enricher:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("alice:x:1000:1000::/home/alice:/bin/sh\n")
    return open_enricher(OFFSET, fake_proc.root, tmp_path)


def test_what_the_kernel_said_stays(fake_proc: FakeProc, enricher: Enricher) -> None:
    fake_proc.add(50, "now", cmdline=b"now\0", loginuid="1000", ppid=0)
    probed = Process(
        pid=50,
        tid=51,
        start_time_ns=START + 3_456_789,
        comm="then",
        cmdline=("then", "1"),
        ancestors=(Ancestor(9, "bash"),),
    )
    found = enricher.complete(probed)
    assert (found.comm, found.cmdline, found.tid) == ("then", ("then", "1"), 51)
    assert found.start_time_ns == START + 3_456_789
    assert found.ancestors == (Ancestor(9, "bash"),)
    assert (found.loginuid, found.uid, found.user) == (1000, 1000, "alice")
    assert (found.cgroup, found.unit) == ("/system.slice/cron.service", "cron.service")


@pytest.mark.parametrize("start", [START + 5_000_000_000, START - 5_000_000_000])
def test_another_process_with_the_pid_adds_nothing(
    fake_proc: FakeProc, enricher: Enricher, start: int
) -> None:
    fake_proc.add(50, "other", loginuid="1000")
    probed = Process(pid=50, start_time_ns=start, comm="gone", uid=1000)
    assert enricher.complete(probed) == replace(probed, user="alice")


def test_a_process_that_is_gone_keeps_unit_and_user(enricher: Enricher) -> None:
    probed = Process(pid=50, start_time_ns=START, uid=1000, cgroup="/system.slice/nginx.service")
    assert enricher.complete(probed) == replace(probed, user="alice", unit="nginx.service")


def test_without_a_start_time_the_pid_is_all_there_is(
    fake_proc: FakeProc, enricher: Enricher
) -> None:
    fake_proc.add(50, "sleep")
    assert enricher.complete(Process(pid=50)).start_time_ns == START
    assert enricher.complete(Process(pid=50)) == enricher.find(50)
    assert enricher.find(51) is None


def test_terminals_share_the_enrichers_proc(fake_proc: FakeProc, enricher: Enricher) -> None:
    fake_proc.add(200, "xterm")
    fake_proc.add_fd(200, 7, "/dev/ptmx", 3)
    found = open_terminals(enricher, fake_proc.root.parent).holder("/dev/pts/3")
    assert found is not None
    assert found.process.start_time_ns == START
