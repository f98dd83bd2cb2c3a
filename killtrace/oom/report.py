"""Rankings as a table for people, and as the JSON records of docs/oom.md.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from killtrace import text, wire
from killtrace.describe import size
from killtrace.model import Process
from killtrace.oom.badness import ADJ_SHIELD, INIT, KERNEL_THREAD, Candidate
from killtrace.oom.memcg import Scope
from killtrace.oom.survey import Ranking

WIDTH = 99
_WHERE_WIDTH = 26
_COMMAND_MIN = 16
_HEAD = ("RANK", "BADNESS", "SCORE", "ADJ", "RSS", "SWAP", "PID", "COMMAND", "UNIT OR CONTAINER")
_COMMAND = _HEAD.index("COMMAND")
_NAMED_SHIELDED = 3

Describe = Callable[[Candidate], Process]


def table(ranking: Ranking, describe: Describe, rows: int) -> list[str]:
    """The lines of one scope: its memory, the first `rows` candidates, and who is shielded."""
    killable = [candidate for candidate in ranking.candidates if candidate.shielded is None]
    lines = [headline(ranking.scope)]
    lines += [f"  {note}" for note in _notes(ranking)]
    if killable:
        shown = killable[:rows]
        lines += _grid([_row(candidate, describe(candidate)) for candidate in shown])
        if len(killable) > rows:
            lines.append(f"  and {len(killable) - rows} more after these")
    else:
        lines.append("  nobody to kill in it")
    shielded = [candidate for candidate in ranking.candidates if candidate.shielded is not None]
    if shielded:
        lines.append(_cut(f"  shielded: {_shielded(shielded)}", WIDTH))
    return lines


def headline(scope: Scope) -> str:
    """The scope and its memory in one line."""
    name = "system" if scope.memcg is None else f"cgroup {text.escape(scope.memcg)}"
    parts = []
    if scope.usage_kb is not None:
        limited = scope.limit_kb is not None
        of = f" of {size(scope.limit_kb or 0)} used" if limited else " used, no limit of its own"
        cache = f" ({size(scope.cache_kb)} of it file cache)" if scope.cache_kb else ""
        parts.append(f"{size(scope.usage_kb)}{of}{cache}")
    if scope.headroom_kb is not None:
        bound = f" below {text.escape(scope.bound_by)}'s limit" if scope.bound_by else ""
        parts.append(f"{size(scope.headroom_kb)} left{bound}")
    if scope.swap_kb:
        parts.append(f"{size(scope.swap_kb)} swapped")
    if scope.kills is not None:
        parts.append(f"OOM kills: {scope.kills}")
    if scope.pressure is not None:
        parts.append(f"pressure {scope.pressure.some_avg10:g} %")
    details = "; ".join(parts)
    room = max(WIDTH - len(details) - 2, 20)
    return f"{_cut_left(name, room)}: {details}"


def _notes(ranking: Ranking) -> list[str]:
    notes = [ranking.policy] if ranking.policy else []
    if ranking.group is not None:
        whole = _cut_left(text.escape(ranking.group), 40)
        notes.append(f"memory.oom.group: all of {whole} dies with the first")
    return notes


def _row(candidate: Candidate, process: Process) -> tuple[str, ...]:
    task = candidate.task
    memory = task.memory
    return (
        str(candidate.rank),
        str(candidate.badness),
        "-" if task.oom_score is None else str(task.oom_score),
        f"{task.oom_score_adj:+d}" if task.oom_score_adj else "0",
        size(memory.rss_kb) if memory else "-",
        size(memory.swap_kb) if memory and memory.swap_kb else "0",
        str(task.pid),
        text.command(process.cmdline, task.comm),
        _where(process),
    )


def _where(process: Process) -> str:
    container = process.container
    if container is None:
        return text.escape(process.unit or "")
    if container.pod:
        parts = (container.namespace, container.pod, container.name)
        return text.escape("/".join(part for part in parts if part))
    return text.escape(f"{container.runtime}:{container.name or (container.id or '')[:12]}")


def _grid(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Figures to the right, names to the left, the command cut to what is left of the width."""
    placed = any(row[-1] for row in rows)
    table_rows = [row if placed else row[:-1] for row in (_HEAD, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table_rows, strict=True)]
    if placed:
        widths[-1] = min(widths[-1], _WHERE_WIDTH)
    others = sum(widths) - widths[_COMMAND] + 2 * len(widths)
    widths[_COMMAND] = min(widths[_COMMAND], max(WIDTH - others, _COMMAND_MIN))
    lines = []
    for row in table_rows:
        cells = [
            cell.rjust(width) if at < _COMMAND else _cut(cell, width).ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def _shielded(candidates: Sequence[Candidate]) -> str:
    """Who the OOM killer leaves alone, and why: counted, and named where they are few."""
    by_reason: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_reason.setdefault(candidate.shielded or "", []).append(candidate)
    order = {INIT: 0, ADJ_SHIELD: 1, KERNEL_THREAD: 9}
    parts = []
    for reason, found in sorted(by_reason.items(), key=lambda item: order.get(item[0], 5)):
        if reason == KERNEL_THREAD:
            parts.append(f"{len(found)} kernel threads")
            continue
        names = [f"{one.task.pid} {text.escape(one.task.comm)}" for one in found[:_NAMED_SHIELDED]]
        more = f" and {len(found) - len(names)} more" if len(found) > len(names) else ""
        parts.append(f"{', '.join(names)}{more} ({reason})")
    return "; ".join(parts)


def _cut(content: str, width: int) -> str:
    return content if len(content) <= width else f"{content[: width - 1]}…"


def _cut_left(content: str, width: int) -> str:
    """The end of a path tells more than its beginning."""
    return content if len(content) <= width else f"…{content[1 - width :]}"


def record(ranking: Ranking, candidate: Candidate, process: Process) -> dict[str, Any]:
    """The oom_candidate record: the contract's fields, and `limits`, the scope's own figures."""
    task, memory = candidate.task, candidate.task.memory
    return {
        "type": "oom_candidate",
        "scope": "system" if ranking.scope.memcg is None else "memcg",
        "memcg": ranking.scope.memcg,
        "rank": candidate.rank,
        "process": wire.process_to_json(process),
        "badness": candidate.badness,
        "oom_score": task.oom_score,
        "oom_score_adj": task.oom_score_adj,
        "memory": {
            "total_vm_kb": memory.total_vm_kb if memory else None,
            "anon_rss_kb": memory.anon_rss_kb if memory else None,
            "file_rss_kb": memory.file_rss_kb if memory else None,
            "shmem_rss_kb": memory.shmem_rss_kb if memory else None,
            "swap_kb": memory.swap_kb if memory else None,
            "pgtables_kb": memory.pgtables_kb if memory else None,
            "oom_score_adj": task.oom_score_adj,
        },
        "shielded": candidate.shielded,
        "limits": _limits(ranking),
    }


def _limits(ranking: Ranking) -> dict[str, Any]:
    scope, pressure = ranking.scope, ranking.scope.pressure
    return {
        "limit_kb": scope.limit_kb,
        "usage_kb": scope.usage_kb,
        "headroom_kb": scope.headroom_kb,
        "bound_by": scope.bound_by,
        "cache_kb": scope.cache_kb,
        "swap_kb": scope.swap_kb,
        "oom": scope.ooms,
        "oom_kill": scope.kills,
        "pressure_some_avg10": pressure.some_avg10 if pressure else None,
        "pressure_full_avg10": pressure.full_avg10 if pressure else None,
        "oom_group": ranking.group,
        "policy": ranking.policy,
    }
