"""The kernel log's own words: OOM reports of all ages, faults, panics and lockups.

Pure: lines in, events out; nothing in a line can raise.  Sources: mm/oom_kill.c (dump_header,
dump_tasks, __oom_kill_process) from 2.6.36 to 7.x, mm/memcontrol.c, arch/x86/mm/fault.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KernelLine:
    """One line without its prefix; `time_ns` is wall time, None where the log has none."""

    text: str
    time_ns: int | None = None


@dataclass(frozen=True)
class TaskRow:
    """One row of the OOM report's task table; memory in pages but where it says otherwise."""

    pid: int
    uid: int
    tgid: int
    total_vm: int
    rss: int
    pgtables_bytes: int
    swapents: int
    oom_score_adj: int
    comm: str


@dataclass
class OomReport:
    """What the kernel said when the OOM killer ran, as far as the log goes."""

    time_ns: int | None = None
    trigger_comm: str | None = None
    trigger_pid: int | None = None
    gfp: str | None = None
    order: int | None = None
    constraint: str | None = None
    oom_memcg: str | None = None
    task_memcg: str | None = None
    chosen_pid: int | None = None
    usage_kb: int | None = None
    limit_kb: int | None = None
    total_pages: int | None = None
    group: bool = False
    tasks: list[TaskRow] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def scope(self) -> str | None:
        """The contract's word for the constraint."""
        words = {
            "CONSTRAINT_NONE": "system",
            "CONSTRAINT_MEMCG": "memcg",
            "CONSTRAINT_CPUSET": "cpuset",
            "CONSTRAINT_MEMORY_POLICY": "mempolicy",
        }
        return words.get(self.constraint or "")

    def candidates(self, page_kb: int = 4) -> list[dict[str, int | str | None]]:
        """The task table as the kernel ranked it: oom_badness(), largest first."""
        total = self.total_pages
        if self.limit_kb is not None:
            total = self.limit_kb // page_kb
        rows: list[dict[str, int | str | None]] = []
        for task in self.tasks:
            if task.pid != task.tgid:
                continue
            points: int | None = None
            if task.oom_score_adj != -1000 and (total is not None or task.oom_score_adj == 0):
                points = task.rss + task.swapents + task.pgtables_bytes // (page_kb * 1024)
                points += task.oom_score_adj * (total or 0) // 1000
            rows.append(
                {
                    "pid": task.tgid,
                    "comm": task.comm,
                    "uid": task.uid,
                    "badness": points,
                    "rss_kb": task.rss * page_kb,
                    "swap_kb": task.swapents * page_kb,
                    "pgtables_kb": task.pgtables_bytes // 1024,
                    "total_vm_kb": task.total_vm * page_kb,
                    "oom_score_adj": task.oom_score_adj,
                }
            )
        return sorted(rows, key=lambda row: -(_number(row["badness"], -(1 << 62))))


@dataclass(frozen=True)
class OomKill:
    """One victim of the OOM killer, with the report that it stands in."""

    time_ns: int | None
    pid: int
    comm: str
    report: OomReport
    text: str
    uid: int | None = None
    total_vm_kb: int | None = None
    anon_rss_kb: int | None = None
    file_rss_kb: int | None = None
    shmem_rss_kb: int | None = None
    pgtables_kb: int | None = None
    oom_score_adj: int | None = None
    in_memcg: bool = False


@dataclass(frozen=True)
class Fault:
    """A process that the kernel ended for what it did: segfault, trap, bus error."""

    time_ns: int | None
    pid: int
    comm: str
    what: str
    text: str


@dataclass(frozen=True)
class Trouble:
    """The whole machine in trouble: panic, lockup, hung task."""

    time_ns: int | None
    what: str
    text: str
    pid: int | None = None
    comm: str | None = None


KernelEvent = OomKill | Fault | Trouble


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


_INVOKED = re.compile(
    r"(?P<comm>.{1,64}?) invoked oom-killer: gfp_mask=(?P<mask>0x[0-9a-f]+)(?:\((?P<gfp>[^)]*)\))?"
    r",.*?\border=(?P<order>-?\d+)"
)
_TRIGGER = re.compile(
    r"\bPID: (?P<pid>\d+) (?:UID: \d+ )?Comm: (?P<comm>.{1,64}?) (?:Not t|T)ainted"
)
_CONSTRAINT = re.compile(r"oom-kill:constraint=(?P<constraint>\w+),")
_MEMCGS = re.compile(
    r"(?:,oom_memcg=(?P<oom>.*?))?,task_memcg=(?P<task>.*?),task=.{0,64}?,pid=(?P<pid>\d+),uid=\d+\s*$"
)
_OLD_MEMCG = re.compile(r"Task in (?P<task>/\S*) killed as a result of limit of (?P<oom>/\S*)")
_USAGE = re.compile(r"^memory: usage (?P<usage>\d+)kB, limit (?P<limit>\d+)kB")
_PAGES = re.compile(r"^(?P<pages>\d+) pages (?P<what>RAM|reserved)\s*$")
_SWAP_TOTAL = re.compile(r"^Total swap = (?P<kb>\d+)kB")
_GROUP = re.compile(r"Tasks in (?P<memcg>.+) are going to be killed due to memory\.oom\.group set")
_KILLED = re.compile(
    r"Killed process (?P<pid>\d+)(?: \((?P<comm>.*?)\)|, UID \d+, \((?P<comm2>.*?)\))"
    r",?(?: total-vm:(?P<vm>\d+)kB)?(?:, anon-rss:(?P<anon>\d+)kB)?(?:, file-rss:(?P<file>\d+)kB)?"
    r"(?:, shmem-rss:(?P<shmem>\d+)kB)?(?:, UID:(?P<uid>\d+))?(?: pgtables:(?P<pt>\d+)k?B)?"
    r"(?: oom_score_adj:(?P<adj>-?\d+))?"
)
_SCORED = re.compile(
    r"Out of memory: Kill process (?P<pid>\d+) \((?P<comm>.*?)\) score (?P<score>\d+)"
)
_TABLE = re.compile(r"^\[ *pid *\]\s+uid\s+tgid\s+(?P<columns>.*)$")
_ROW = re.compile(r"^\[ *(?P<pid>\d+)\] +(?P<rest>\d.*)$")
_FAULT = re.compile(
    r"^(?P<comm>.{1,64}?)\[(?P<pid>\d+)\]:? (?P<what>segfault at|general protection fault"
    r"|traps?: |bad frame|unhandled signal|vsyscall attempted)"
)
_TRAP = re.compile(r"^traps: (?P<comm>.{1,64}?)\[(?P<pid>\d+)\] (?P<what>[^:]{1,40}?) ip:")
_HUNG = re.compile(r"INFO: task (?P<comm>.{1,64}?):(?P<pid>\d+) blocked for more than")
_PANIC = re.compile(r"Kernel panic - not syncing: (?P<what>.*)")
_LOCKUP = re.compile(r"(?:watchdog: )?BUG: soft lockup|NMI watchdog: Watchdog detected hard LOCKUP")


class Parser:
    """Feeds on lines in order; a report may be cut, interleaved with others' lines, or old."""

    def __init__(self) -> None:
        self._report = OomReport()
        self._columns: list[str] | None = None
        self._ram_pages = 0
        self._after_kill = False

    def feed(self, line: KernelLine) -> KernelEvent | None:
        """The event that a line completes, or None."""
        text = line.text[:4096]
        killed = _KILLED.search(text)
        if killed:
            return self._killed(line, killed)
        self._collect(line, text)
        return _trouble(line, text)

    def _collect(self, line: KernelLine, text: str) -> None:
        report = self._report
        if invoked := _INVOKED.search(text):
            report = self._begin(line)
            report.trigger_comm, report.gfp = invoked["comm"], invoked["gfp"] or invoked["mask"]
            report.order = int(invoked["order"])
        elif match := _CONSTRAINT.search(text):
            report = self._begin(line) if self._after_kill else report
            report.constraint = match["constraint"]
            if memcgs := _MEMCGS.search(text):
                report.oom_memcg, report.task_memcg = memcgs["oom"], memcgs["task"]
                report.chosen_pid = int(memcgs["pid"])
        elif match := _OLD_MEMCG.search(text):
            report.task_memcg, report.oom_memcg = match["task"], match["oom"]
            report.constraint = "CONSTRAINT_MEMCG"
        elif match := _USAGE.search(text):
            report.usage_kb, report.limit_kb = int(match["usage"]), int(match["limit"])
        elif match := _GROUP.search(text):
            report.group = True
            report.oom_memcg = report.oom_memcg or match["memcg"]
        elif report.trigger_comm and report.trigger_pid is None and (m := _TRIGGER.search(text)):
            report.trigger_pid = int(m["pid"])
        elif not self._totals(text) and not self._table(text):
            return
        report.lines.append(text)

    def _begin(self, line: KernelLine) -> OomReport:
        self._report = OomReport(time_ns=line.time_ns)
        self._columns, self._ram_pages, self._after_kill = None, 0, False
        return self._report

    def _totals(self, text: str) -> bool:
        if pages := _PAGES.match(text):
            sign = 1 if pages["what"] == "RAM" else -1
            self._ram_pages += sign * int(pages["pages"])
        elif swap := _SWAP_TOTAL.match(text):
            self._ram_pages += int(swap["kb"]) // 4
        else:
            return False
        self._report.total_pages = self._ram_pages if self._ram_pages > 0 else None
        return True

    def _table(self, text: str) -> bool:
        if head := _TABLE.match(text):
            self._columns = head["columns"].split()
            return True
        row = _ROW.match(text) if self._columns else None
        if row is None or self._columns is None:
            return False
        task = _task(row, self._columns)
        if task is not None and len(self._report.tasks) < 100_000:
            self._report.tasks.append(task)
        return task is not None

    def _killed(self, line: KernelLine, match: re.Match[str]) -> OomKill:
        report = self._report
        report.lines.append(line.text[:4096])
        self._after_kill = True
        in_memcg = "emory cgroup out of memory" in line.text or report.scope == "memcg"
        return OomKill(
            time_ns=line.time_ns,
            pid=int(match["pid"]),
            comm=match["comm"] or match["comm2"] or "",
            report=report,
            text=line.text[:4096],
            uid=_int(match["uid"]),
            total_vm_kb=_int(match["vm"]),
            anon_rss_kb=_int(match["anon"]),
            file_rss_kb=_int(match["file"]),
            shmem_rss_kb=_int(match["shmem"]),
            pgtables_kb=_int(match["pt"]),
            oom_score_adj=_int(match["adj"]),
            in_memcg=in_memcg,
        )


def _task(row: re.Match[str], columns: list[str]) -> TaskRow | None:
    """One row; the columns between tgid and name differ by kernel, so they go by their names."""
    names = ["uid", "tgid", *columns]
    names = names[:-1] if names[-1] == "name" else names
    *numbers, comm = row["rest"].split(None, len(names))
    if len(numbers) != len(names):
        return None
    try:
        value = dict(zip(names, (int(number) for number in numbers), strict=True))
    except ValueError:
        return None
    pages_of_tables = value.get("nr_ptes", 0) + value.get("nr_pmds", 0) + value.get("nr_puds", 0)
    return TaskRow(
        pid=int(row["pid"]),
        uid=value["uid"],
        tgid=value["tgid"],
        total_vm=value.get("total_vm", 0),
        rss=value.get("rss", 0),
        pgtables_bytes=value.get("pgtables_bytes", pages_of_tables * 4096),
        swapents=value.get("swapents", 0),
        oom_score_adj=value.get("oom_score_adj", 0),
        comm=comm,
    )


def _trouble(line: KernelLine, text: str) -> KernelEvent | None:
    for pattern in (_FAULT, _TRAP):
        if match := pattern.search(text):
            what = match["what"].strip(" :")
            return Fault(line.time_ns, int(match["pid"]), match["comm"], what, text)
    if match := _HUNG.search(text):
        return Trouble(line.time_ns, "hung task", text, int(match["pid"]), match["comm"])
    if match := _PANIC.search(text):
        return Trouble(line.time_ns, f"kernel panic: {match['what']}", text)
    if _LOCKUP.search(text):
        return Trouble(line.time_ns, "lockup", text)
    return None


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)


def parse(lines: Iterable[KernelLine]) -> Iterator[KernelEvent]:
    """All events of a log, in its order."""
    parser = Parser()
    for line in lines:
        event = parser.feed(line)
        if event is not None:
            yield event
