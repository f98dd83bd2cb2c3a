"""What killtrace costs, side by side with bpftrace's one-liner on the same tracepoint.

    sudo python3 tests/bench               everything, some 15 minutes
    sudo python3 tests/bench --small       a minute: does it work, and is what is counted exact
    sudo python3 tests/bench --write       everything, and the table into docs/overhead.md

KILLTRACE names the command to measure; without, it is this checkout.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import report
from load import Load
from rows import Bench, Sizes
from tracers import need_bpftrace

# Each round of these is one of the rounds; the others are long, or exact, and run once.
_EACH_ROUND = ("storm", "getppid", "spawn", "latency", "idle")
_ONCE = ("first_start", "race", "children", "deaths", "memory", "recorder")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="small loads, one round")
    parser.add_argument("--rounds", type=int, help="how many rounds (default 5)")
    parser.add_argument("--only", choices=_EACH_ROUND + _ONCE, action="append", metavar="ROW")
    parser.add_argument("--write", action="store_true", help="write docs/overhead.md")
    given = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench: tracing needs root; run it with sudo")
    need_bpftrace()
    # A shell's & leaves it ignored here and in all that starts from here; Ctrl-C ends a tracer.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sizes = Sizes.small() if given.small else Sizes()
    sizes = replace(sizes, rounds=given.rounds or sizes.rounds)
    chosen = given.only or _EACH_ROUND + _ONCE
    failed = []
    with tempfile.TemporaryDirectory(prefix="killtrace-bench-") as folder:
        bench = Bench(Load(Path(folder)), Path(folder), sizes)
        for number in range(sizes.rounds):
            for name in _EACH_ROUND + (_ONCE if number == 0 else ()):
                if name not in chosen:
                    continue
                print(f"round {number + 1} of {sizes.rounds}: {name}", file=sys.stderr)
                try:
                    getattr(bench, name)()
                except AssertionError as error:
                    failed.append(str(error))
                    print(f"  {error}", file=sys.stderr)
    print(report.machine() + "\n")
    print(report.table(bench.rows.values()))
    if given.write:
        report.write_page(bench.rows.values(), sizes.rounds)
    for failure in failed:
        print(f"bench: not exact: {failure}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
