"""How fast the store takes records, how large it is, and how fast it answers.

    python tests/bench/store_speed.py [--records 5000000] [--folder DIR]

The records are made up to be as varied as a busy machine's: every target and every fifth sender is
a process of its own, in hundreds of places.  Prints a table with the machine's own figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests"), str(CHECKOUT / "tests/unit/store")]

import machine
from store_fakes import NOW_NS, Origin, death, process, signal
from tabulate import tabulate

from killtrace.model import Ancestor, Record
from killtrace.store.recorder import Recorder
from killtrace.wire import record_to_json

_RUNS = 7
_PID_MAX = 4_194_304


def varied(count: int) -> Iterator[Record]:
    """Signals, each with its death: `count` records."""
    for number in range(count // 2):
        pid = 1000 + number * 7 % (_PID_MAX - 1000)
        started_ns = NOW_NS + number * 10_000_000
        shell = 500 + number // 20 % 30_000
        family = tuple(
            Ancestor(shell - step, name, (f"/usr/bin/{name}", "--serve", f"job-{shell}"))
            for step, name in enumerate(("worker", "supervisor", "containerd-shim", "systemd"))
        )
        unit = f"job-{number // 1000 % 300}.service"
        target = process(
            pid,
            f"/usr/bin/task{number % 199}",
            "--config",
            f"/etc/task/{number}.conf",
            start_time_ns=started_ns,
            ppid=shell,
            tty=None,
            cgroup=f"/system.slice/{unit}",
            unit=unit,
            ancestors=family,
        )
        sender = process(shell + number // 5 % 4, "/usr/bin/worker", "--stop", str(number // 5))
        how = f"{sender.pid} (worker --stop {number // 5}), run by alice sent it with kill(2)"
        origin = Origin("process", how, True, {"syscall": "kill", "group": None})
        sent = signal(0, time_ns=started_ns + 5, target=target, sender=sender, origin=origin)
        yield sent
        yield death(sent)


def fill(path: Path, count: int) -> tuple[float, float]:
    """Write records; how many a second, and a second of CPU, without the time to make them up."""
    recorder = Recorder(path)
    recorder.arm()
    spent_ns, cpu_ns, made = 0, 0, varied(count)
    while True:
        some = [record for record, _ in zip(made, range(2000), strict=False)]
        if not some:
            break
        began_ns, cpu_began_ns = time.perf_counter_ns(), time.process_time_ns()
        for record in some:
            recorder.write(record)
        recorder.tick()
        spent_ns += time.perf_counter_ns() - began_ns
        cpu_ns += time.process_time_ns() - cpu_began_ns
    recorder.close()
    return count / (spent_ns / 1e9), count / (cpu_ns / 1e9)


def answer_ms(*args: str) -> list[float]:
    """How long a command takes, interpreter and all: milliseconds of each run."""
    times = []
    for _ in range(_RUNS):
        began_ns = time.perf_counter_ns()
        done = subprocess.run(
            [*machine.command(), *args], capture_output=True, cwd=CHECKOUT, check=False
        )
        times.append((time.perf_counter_ns() - began_ns) / 1e6)
        assert done.returncode in (0, 3), done.stderr.decode()
    return times


def main() -> None:
    """Fill a store, and ask it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    gc.freeze()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = Path(folder) / "killtrace.db"
        rate, cpu_rate = fill(path, chosen.records)
        text = json.dumps(record_to_json(next(varied(2))), separators=(",", ":"))
        pid = str(1000 + chosen.records // 4 * 7 % (_PID_MAX - 1000))
        rows: list[tuple[str, str]] = [
            ("records", f"{chosen.records:,}"),
            ("a record as JSON", f"{len(text):,} bytes"),
            ("written", f"{rate:,.0f} a second, {cpu_rate:,.0f} a second of CPU"),
            ("the store", f"{path.stat().st_size / chosen.records:.0f} bytes a record"),
        ]
        asked: dict[str, Callable[[], list[float]]] = {
            f"history --pid {pid}": lambda: answer_ms(
                "history", "--store", str(path), "--pid", pid
            ),
            "history --comm task77 --since … (1 %)": lambda: answer_ms(
                "history",
                "--store",
                str(path),
                "--comm",
                "task77",
                "--since",
                f"@{(NOW_NS + chosen.records // 2 * 9_900_000) // 1_000_000_000}",
            ),
            "history --origin oom (none)": lambda: answer_ms(
                "history", "--store", str(path), "--origin", "oom"
            ),
            f"why {pid}": lambda: answer_ms("why", "--store", str(path), pid),
        }
        for name, ask in asked.items():
            times = ask()
            middle = statistics.median(times)
            rows.append((name, f"{min(times):.0f} / {middle:.0f} / {max(times):.0f} ms"))
        print(tabulate(rows, headers=("what", "least / median / most"), tablefmt="plain"))


if __name__ == "__main__":
    main()
