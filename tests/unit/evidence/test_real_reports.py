"""OOM reports of every kernel of the matrix, as `dmesg` printed them: a cgroup's, the machine's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from killtrace.evidence import kernel_source
from killtrace.evidence.kernel_log import OomKill, parse
from killtrace.evidence.log_lines import lines_of
from killtrace.evidence.merge import verdicts

REPORTS = sorted((Path(__file__).parent / "reports").glob("*.txt"))


def _kills(text: str) -> list[OomKill]:
    events = list(parse(lines_of(text.splitlines(), boot_ns=0, now_ns=0)))
    return [event for event in events if isinstance(event, OomKill)]


def _only(pattern: str, text: str) -> list[str]:
    return re.findall(pattern, text)


def test_every_kernel_of_the_matrix_is_here() -> None:
    assert [path.stem for path in REPORTS] == ["5.10", "6.1", "6.12", "6.18", "7.3"]


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_real_report_in_full(path: Path) -> None:
    text = path.read_text()
    of_cgroup, of_machine = _kills(text)
    killed = [int(pid) for pid in _only(r"Killed process (\d+)", text)]
    assert [of_cgroup.pid, of_machine.pid] == killed

    report = of_cgroup.report
    (memcg,) = _only(r"oom_memcg=([^,]+),", text)
    assert (report.scope, report.oom_memcg, report.task_memcg) == ("memcg", memcg, memcg)
    assert (report.limit_kb, report.usage_kb) == (32768, 32768)
    assert (report.trigger_comm, report.trigger_pid) == ("python3", killed[0])
    assert report.order == 0 and "GFP_KERNEL" in (report.gfp or "")
    (best,) = report.candidates()
    assert best["pid"] == killed[0]
    anon_kb = [int(size) for size in _only(r"anon-rss:(\d+)kB", text)]
    assert [of_cgroup.anon_rss_kb, of_machine.anon_rss_kb] == anon_kb

    report = of_machine.report
    assert (report.scope, report.oom_memcg, report.limit_kb) == ("system", None, None)
    assert of_machine.oom_score_adj == 1000
    ranked = report.candidates()
    assert ranked[0]["pid"] == killed[1]
    rows = _only(r"\[ *(\d+)\] +\d+ +\1 ", text[text.rindex("Tasks state") :])
    assert sorted(row["pid"] for row in ranked) == sorted(map(int, rows))


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_what_is_left_of_a_report_that_was_cut(path: Path) -> None:
    """The kernel prints ten whole reports in five seconds, and of more the last line alone."""
    line = next(row for row in path.read_text().splitlines() if "Killed process" in row)
    (kill,) = _kills(line)
    (verdict,) = verdicts([kernel_source.finding(kill)])
    assert "reached its limit" in verdict.summary
    assert verdict.death.process.cgroup is None
