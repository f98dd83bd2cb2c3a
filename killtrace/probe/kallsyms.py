"""Kernel addresses to function names, from /proc/kallsyms."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from pathlib import Path

KALLSYMS = Path("/proc/kallsyms")


class Kallsyms:
    """All text symbols, sorted and packed (some 3 MB), read once.

    `text` is the content of /proc/kallsyms.  Where addresses are hidden (kptr_restrict) all are 0
    and `usable` is False: then the origin can't be read off the stack.
    """

    def __init__(self, text: bytes) -> None:
        rows: list[tuple[int, bytes]] = []
        self.per_cpu_offset = 0
        for line in text.splitlines():
            address, kind, name = line.split(None, 3)[:3]
            if kind in b"tTwW":
                rows.append((int(address, 16), name))
            elif name == b"__per_cpu_offset":
                self.per_cpu_offset = int(address, 16)
        rows.sort()
        self._addresses = array("Q", [address for address, _ in rows])
        self._names = b"\0".join(name for _, name in rows)
        self._starts = array("I")
        position = 0
        for _, name in rows:
            self._starts.append(position)
            position += len(name) + 1
        self._cache: dict[int, str] = {}
        self._stacks: dict[tuple[int, ...], tuple[str, ...]] = {}
        self.usable = bool(rows) and rows[-1][0] != 0

    def names(self, stack: tuple[int, ...]) -> tuple[str, ...]:
        """The base names of a stack's functions; () where addresses are hidden."""
        if not self.usable:
            return ()
        found = self._stacks.get(stack)
        if found is None:
            if len(self._stacks) > 1024:
                self._stacks.clear()
            found = self._stacks[stack] = tuple(self.resolve(address) for address in stack)
        return found

    def resolve(self, address: int) -> str:
        """The base name of the function that holds an address; "?" where there is none."""
        name = self._cache.get(address)
        if name is None:
            if len(self._cache) > 65536:
                self._cache.clear()
            name = self._cache[address] = self._find(address)
        return name

    def _find(self, address: int) -> str:
        index = bisect_right(self._addresses, address) - 1
        if index < 0 or not self.usable:
            return "?"
        start = self._starts[index]
        end = self._names.find(b"\0", start)
        return base_name(self._names[start : end if end >= 0 else None].decode())


def base_name(symbol: str) -> str:
    """A function without its compiler's suffixes: .part.0, .constprop.0, .isra.0, .cold."""
    return symbol.partition(".")[0]


def read(path: Path = KALLSYMS) -> Kallsyms:
    """Read the running kernel's symbols (0.1 s: the kernel prints 10 MB)."""
    return Kallsyms(path.read_bytes())
