"""Machines made of files: a /proc with memory, and cgroup trees of both versions."""

from __future__ import annotations

from pathlib import Path

PAGE_KB = 4


class FakeMachine:
    def __init__(self, root: Path, version: int) -> None:
        self.proc = root / "proc"
        self.version = version
        self.mount = root / "cgroup"
        self.mount.mkdir(parents=True)
        kind = "cgroup rw,memory" if version == 1 else "cgroup2 rw"
        name, options = kind.split()
        self.write(
            self.proc / "self/mountinfo",
            f"22 1 0:20 / /proc rw - proc proc rw\n"
            f"31 23 0:28 / {self.mount} rw,relatime - {name} {name} {options}\n",
        )
        self.memory(1_000_000)
        if version == 2:
            self.write(self.mount / "cgroup.controllers", "cpu memory pids\n")
        self.write(self.mount / "cgroup.procs", "")

    @staticmethod
    def write(path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def memory(self, ram_kb: int, swap_kb: int = 0, swappiness: int = 60) -> None:
        self.write(
            self.proc / "meminfo",
            f"MemTotal: {ram_kb} kB\nMemAvailable: {ram_kb // 2} kB\n"
            f"SwapTotal: {swap_kb} kB\nSwapFree: {swap_kb // 4} kB\nHugePages_Total: 0\n",
        )
        self.write(self.proc / "sys/vm/swappiness", f"{swappiness}\n")
        self.write(self.proc / "vmstat", "nr_free_pages 5\noom_kill 3\n")
        self.write(
            self.proc / "pressure/memory",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\n"
            "full avg10=0.25 avg60=0.00 avg300=0.00 total=1\n",
        )

    def cgroup(
        self,
        path: str,
        limit_kb: int | None = None,
        usage_kb: int = 0,
        swap_limit_kb: int | None = None,
        **files: str,
    ) -> Path:
        """A cgroup; `swap_limit_kb` is as the version counts: with memory (1), alone (2)."""
        folder = self.mount / path.lstrip("/")
        if self.version == 1:
            unlimited = 0x7FFF_FFFF_FFFF_F000
            content = {
                "memory.limit_in_bytes": unlimited if limit_kb is None else limit_kb << 10,
                "memory.usage_in_bytes": usage_kb << 10,
                "memory.memsw.limit_in_bytes": (
                    unlimited if swap_limit_kb is None else swap_limit_kb << 10
                ),
                "memory.memsw.usage_in_bytes": usage_kb << 10,
                "memory.stat": "cache 5\ntotal_active_file 1024\ntotal_inactive_file 2048\n",
                "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                "memory.swappiness": 60,
                "memory.use_hierarchy": 1,
            }
        else:
            content = {
                "memory.max": "max" if limit_kb is None else limit_kb << 10,
                "memory.current": usage_kb << 10,
                "memory.swap.max": "max" if swap_limit_kb is None else swap_limit_kb << 10,
                "memory.swap.current": 4096,
                "memory.stat": "anon 1\nactive_file 1024\ninactive_file 2048\n",
                "memory.events": "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 0\n",
                "memory.oom.group": 0,
                "memory.pressure": "some avg10=12.30 avg60=0 avg300=0 total=9\n",
            }
        for name, value in content.items():
            self.write(folder / name, f"{value}\n")
        for name, value in files.items():
            self.write(folder / name.replace("__", "."), f"{value}\n")
        return folder

    def process(
        self,
        pid: int,
        rss_kb: int = 0,
        adj: int = 0,
        cgroup: str = "/",
        *,
        comm: str = "hog",
        ppid: int = 1,
        start: int | None = None,
        flags: int = 0,
        state: str = "S",
        swap_kb: int = 0,
        pgtables_kb: int = 0,
        kernel: bool = False,
    ) -> Path:
        folder = self.proc / str(pid)
        middle = [ppid, pid, pid, 0, -1, flags | (0x200000 if kernel else 0), *[0] * 12]
        begin = pid if start is None else start
        tail = " ".join(str(field) for field in [*middle, begin, *[0] * 30])
        self.write(folder / "stat", f"{pid} ({comm}) {state} {tail}\n")
        self.write(folder / "status", self.status(comm, pid, rss_kb, swap_kb, pgtables_kb, kernel))
        self.write(folder / "oom_score_adj", f"{adj}\n")
        self.write(folder / "oom_score", "667\n")
        self.write(folder / "cmdline", f"{comm}\0")
        lines = f"4:memory:{cgroup}\n0::/\n" if self.version == 1 else f"0::{cgroup}\n"
        self.write(folder / "cgroup", lines)
        return folder

    @staticmethod
    def status(
        comm: str, pid: int, rss_kb: int, swap_kb: int = 0, pgtables_kb: int = 0, none: bool = False
    ) -> str:
        head = f"Name:\t{comm}\nTgid:\t{pid}\nUid:\t0\t0\t0\t0\nNSpid:\t{pid}\n"
        if none:
            return head
        return head + (
            f"VmSize:\t{rss_kb * 2} kB\nRssAnon:\t{rss_kb} kB\nRssFile:\t0 kB\n"
            f"RssShmem:\t0 kB\nVmPTE:\t{pgtables_kb} kB\nVmSwap:\t{swap_kb} kB\n"
        )
