"""The out-of-memory story of a kill: what the kernel's hooks and its log say, joined.

Pure.  Three tellers: the kprobe on oom_kill_process (RawOom), the victim's own SIGKILL record (its
mm_struct, and the nearest memcg that is at its limit), and the kernel log's report.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from killtrace.attribute import Attribution
from killtrace.decode import RawMemory, RawOom, RawSignal
from killtrace.describe import Oom
from killtrace.gfp import gfp_words
from killtrace.model import Process
from killtrace.text import decode

if TYPE_CHECKING:
    from killtrace.evidence.kernel_log import OomKill

# enum oom_constraint, include/linux/oom.h.
_SCOPES = ("system", "cpuset", "mempolicy", "memcg")
# All kills of one oom_kill_process() follow within this; a slow console can stretch it.
_WINDOW_NS = 10_000_000_000
_KEPT = 64


class OomStories:
    """Remembers recent calls of oom_kill_process(), for the SIGKILLs that follow."""

    def __init__(self, page_kb: int) -> None:
        self._page_kb = page_kb
        self._calls: deque[tuple[RawOom, Process]] = deque(maxlen=_KEPT)

    def call(self, raw: RawOom, trigger: Process) -> None:
        """One call of oom_kill_process(); `trigger` is who asked for memory."""
        self._calls.append((raw, trigger))

    def story(
        self, found: Attribution, record: RawSignal, trigger: Process, logged: OomKill | None
    ) -> Oom:
        """All that is known of the OOM kill behind a SIGKILL; None for what nobody tells."""
        call = self._call_of(record)
        if call is not None:
            return self._from_call(call, found, record, logged)
        memory, page_kb = record.memory, self._page_kb
        limited = memory is not None and memory.memcg_limit and found.oom_scope == "memcg"
        memcg, limit_kb, usage_kb = None, None, None
        if limited:
            assert memory is not None
            memcg = _ancestor(decode(record.target.cgroup), memory.memcg_level)
            limit_kb, usage_kb = memory.memcg_limit * page_kb, memory.memcg_usage * page_kb
        report = logged.report if logged is not None else None
        scope = found.oom_scope or "system"
        if report is not None:
            # The log names the constraint, and the memcg by its path.
            scope = report.scope or scope
            memcg = report.oom_memcg or memcg
            limit_kb = report.limit_kb if limit_kb is None else limit_kb
            usage_kb = report.usage_kb if usage_kb is None else usage_kb
        return Oom(
            scope=scope,
            memcg=memcg,
            limit_kb=limit_kb,
            usage_kb=usage_kb,
            trigger=trigger,
            group=found.oom_group,
            memory=self.memory(memory),
            badness=_logged_badness(logged),
            order=None if report is None else report.order,
            gfp=None if report is None else report.gfp,
            candidates=_candidates(logged, self._page_kb),
            by_sysrq=found.by_sysrq,
        )

    def _call_of(self, record: RawSignal) -> tuple[RawOom, Process] | None:
        for raw, trigger in reversed(self._calls):
            same = raw.trigger.tid == record.sender.tid
            if same and 0 <= record.time_ns - raw.time_ns < _WINDOW_NS:
                return raw, trigger
        return None

    def _from_call(
        self,
        call: tuple[RawOom, Process],
        found: Attribution,
        record: RawSignal,
        logged: OomKill | None,
    ) -> Oom:
        raw, trigger = call
        is_chosen = raw.victim_tgid == record.target.tgid
        in_memcg = raw.memcg is not None
        return Oom(
            scope=_SCOPES[raw.constraint] if raw.constraint < len(_SCOPES) else "system",
            memcg=None if raw.memcg is None else decode(raw.memcg),
            limit_kb=raw.memcg_limit * self._page_kb if in_memcg else None,
            usage_kb=raw.memcg_usage * self._page_kb if in_memcg else None,
            trigger=trigger,
            group=found.oom_group,
            memory=self.memory(record.memory),
            badness=raw.chosen_points if is_chosen else None,
            order=raw.order,
            gfp=gfp_words(raw.gfp),
            candidates=_candidates(logged, self._page_kb),
            by_sysrq=found.by_sysrq,
        )

    def memory(self, raw: RawMemory | None) -> dict[str, int | None] | None:
        """A victim's memory in kB, as the contract names it; None where its mm was gone."""
        if raw is None or not raw.mm:
            return None
        page_kb = self._page_kb
        return {
            "total_vm_kb": raw.total_vm * page_kb,
            "anon_rss_kb": raw.anon_rss * page_kb,
            "file_rss_kb": raw.file_rss * page_kb,
            "shmem_rss_kb": raw.shmem_rss * page_kb,
            "swap_kb": raw.swap * page_kb,
            "pgtables_kb": raw.pgtables_bytes // 1024,
            "oom_score_adj": raw.oom_score_adj,
        }


def _candidates(logged: OomKill | None, page_kb: int) -> list[dict[str, Any]] | None:
    """The log's task table, by badness; None where there is none (vm.oom_dump_tasks, or no log)."""
    rows = [] if logged is None else logged.report.candidates(page_kb)
    return list(rows) or None


def _logged_badness(logged: OomKill | None) -> int | None:
    """The victim's badness, where its table row gives it exactly: with no adjustment."""
    if logged is None or logged.oom_score_adj != 0:
        return None
    for row in logged.report.candidates():
        if row["pid"] == logged.pid:
            badness = row["badness"]
            return badness if isinstance(badness, int) else None
    return None


def _ancestor(path: str, levels: int) -> str:
    parts = path.strip("/").split("/")
    kept = parts[: len(parts) - levels] if levels else parts
    return "/" + "/".join(kept)
