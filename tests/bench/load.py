"""The loads of load.c, compiled once and run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

# The longest load takes half a minute; a machine that is busy otherwise, some times that.
_END_S = 300.0
SOURCE = Path(__file__).resolve().parent / "load.c"


class Told:
    """What a load printed: names with their values, in order."""

    def __init__(self, text: str) -> None:
        self._rows: dict[str, list[list[str]]] = defaultdict(list)
        for line in text.splitlines():
            name, *values = line.split()
            self._rows[name].append(values)

    def number(self, name: str) -> int:
        return int(self._rows[name][0][0])

    def numbers(self, name: str) -> list[int]:
        return [int(values[0]) for values in self._rows[name]]

    def rows(self, name: str) -> list[tuple[int, ...]]:
        return [tuple(int(value) for value in values) for values in self._rows[name]]


class Load:
    """The compiled program."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("bench: there is no C compiler; install it: apt-get install gcc")
        self.program = folder / "load"
        subprocess.run(
            [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(self.program), str(SOURCE)],
            check=True,
        )

    def run(self, *arguments: object) -> Told:
        """Run a load to its end; one that does not end is killed with its children, and told."""
        command = [str(self.program), *map(str, arguments)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            out, _ = process.communicate(timeout=_END_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise SystemExit(f"bench: {command} did not end in {_END_S:.0f} s") from None
            raise
        if process.returncode:
            raise SystemExit(f"bench: {command} ended with {process.returncode}")
        return Told(out)

    def ns(self, *arguments: object) -> int:
        """Run a load for the time that it took, in nanoseconds."""
        return self.run(*arguments).number("ns")

    def ns_on_one_cpu(self, *arguments: object) -> int:
        """The same, where the CPU that a child is put on would decide: it doubles a fork's time."""
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(mine)})
        try:
            return self.ns(*arguments)
        finally:
            os.sched_setaffinity(0, mine)
