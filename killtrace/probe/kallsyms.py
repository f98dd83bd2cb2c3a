"""Kernel addresses to function names, from /proc/kallsyms."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

KALLSYMS = Path("/proc/kallsyms")
_TEXT = b"tTwW"


class Kallsyms:
    """The kernel's symbols, looked up in the text as it is: most are never asked for.

    `text` is the content of /proc/kallsyms: the kernel's own symbols first, by address
    (scripts/kallsyms.c sorts them), then those of modules, which have the module's name at the
    end, in any order.  Where addresses are hidden (kptr_restrict) all are 0 and `usable` is False:
    then the origin can't be read off the stack.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        marked = text.find(b"\t[")
        self._core_end = len(text) if marked < 0 else text.rfind(b"\n", 0, marked) + 1
        self._modules: list[tuple[int, bytes]] | None = None
        self._cache: dict[int, str] = {}
        self._stacks: dict[tuple[int, ...], tuple[str, ...]] = {}
        last = self._line_start(self._core_end - 1)
        self.usable = self._core_end > 0 and self._address(last) != 0
        self.per_cpu_offset = self._find_per_cpu_offset()

    def _find_per_cpu_offset(self) -> int:
        found = self._text.find(b" __per_cpu_offset\n", 0, self._core_end)
        return 0 if found < 0 else self._address(self._line_start(found))

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
        if not self.usable:
            return "?"
        core = self._in_core(address)
        # Beyond the last of the kernel's own, which is not text: among the modules, perhaps.
        module = self._in_modules(address) if core is None or core[2] else None
        if module is not None and (core is None or module[0] > core[0]):
            return base_name(module[1].decode())
        return "?" if core is None else base_name(core[1].decode())

    def _in_core(self, address: int) -> tuple[int, bytes, bool] | None:
        """The nearest function at or below an address, and whether no symbol is above it."""
        low, high = 0, self._core_end  # line starts; what is at `high` or beyond is above
        while low < high:
            middle = self._line_start((low + high) // 2)
            if self._address(middle) <= address:
                low = self._next_line(middle)
            else:
                high = middle
        is_last, start = low == self._core_end, low
        found: list[tuple[int, bytes]] = []
        while start > 0:
            start = self._line_start(start - 2)
            value, kind, name = self._text[start : self._next_line(start) - 1].split(b" ", 2)
            if found and int(value, 16) != found[0][0]:
                break
            if kind in _TEXT:
                found.append((int(value, 16), name))
        return (*max(found), is_last) if found else None

    def _in_modules(self, address: int) -> tuple[int, bytes] | None:
        if self._modules is None:
            lines = (line.split() for line in self._text[self._core_end :].splitlines())
            found = [(int(line[0], 16), line[2]) for line in lines if line[1] in _TEXT]
            self._modules = sorted(found)
        index = bisect_right(self._modules, (address, b"\xff")) - 1
        return None if index < 0 else self._modules[index]

    def _line_start(self, position: int) -> int:
        return self._text.rfind(b"\n", 0, max(position, 0)) + 1

    def _next_line(self, start: int) -> int:
        end = self._text.find(b"\n", start, self._core_end)
        return self._core_end if end < 0 else end + 1

    def _address(self, start: int) -> int:
        end = self._text.find(b" ", start)
        return 0 if end < 0 else int(self._text[start:end], 16)


def base_name(symbol: str) -> str:
    """A function without its compiler's suffixes: .part.0, .constprop.0, .isra.0, .cold."""
    return symbol.partition(".")[0]


def read(path: Path = KALLSYMS) -> Kallsyms:
    """Read the running kernel's symbols (0.05 to 0.1 s: the kernel prints 5 to 15 MB)."""
    return Kallsyms(path.read_bytes())
