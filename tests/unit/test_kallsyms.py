"""Symbols are found in the text of /proc/kallsyms as it is, as if they all had been taken apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from killtrace.probe.kallsyms import Kallsyms, base_name

Symbol = tuple[int, str, str]

symbols = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.sampled_from("tTwWdDrRAb"),
        st.text("abc_", min_size=1, max_size=6).map(lambda name: name + ".part.0"),
    ),
    max_size=20,
    unique_by=lambda symbol: symbol[0],
)


def text_of(core: list[Symbol], modules: list[Symbol]) -> bytes:
    lines = [f"{address:016x} {kind} {name}\n" for address, kind, name in sorted(core)]
    lines += [f"{address:016x} {kind} {name}\t[mod]\n" for address, kind, name in modules]
    return "".join(lines).encode()


@given(symbols, symbols, st.integers(0, 200))
def test_the_nearest_function_at_or_below(
    core: list[Symbol], modules: list[Symbol], address: int
) -> None:
    above = [(value + 100, kind, name) for value, kind, name in modules]
    found = Kallsyms(text_of(core, above)).resolve(address)
    if not core:
        assert found == "?"
        return
    known = [*core, *above] if address >= max(core)[0] else core
    below = [(value, name) for value, kind, name in known if kind in "tTwW" and value <= address]
    assert found == (base_name(max(below)[1]) if below else "?")


def test_hidden_addresses_are_not_used() -> None:
    hidden = Kallsyms(b"0000000000000000 T _text\n0000000000000000 T do_exit\n")
    assert not hidden.usable and hidden.names((1, 2)) == ()
    assert not Kallsyms(b"").usable


def test_the_stack_and_the_per_cpu_offsets() -> None:
    symbols = Kallsyms(
        b"ffffffff81000000 T _text\n"
        b"ffffffff81000100 t do_exit.cold\n"
        b"ffffffff82000000 D __per_cpu_offset\n"
        b"ffffffffc0000010 t second\t[mod]\n"
        b"ffffffffc0000000 t first\t[mod]\n"
    )
    assert symbols.per_cpu_offset == 0xFFFFFFFF82000000
    stack = (0xFFFFFFFF81000104, 0xFFFFFFFFC0000008, 0xFFFFFFFFC0000018)
    assert symbols.names(stack) == ("do_exit", "first", "second")
