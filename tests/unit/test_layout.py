"""bpf/killtrace.h and killtrace/decode.py are one contract: compared field by field."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from killtrace import decode

CHECKOUT = Path(__file__).resolve().parent.parent.parent
HEADER = CHECKOUT / "bpf/killtrace.h"

TABLES = {
    "kt_header": decode.HEADER_FIELDS,
    "kt_ancestor": decode.ANCESTOR_FIELDS,
    "kt_task": decode.TASK_FIELDS,
    "kt_memory": decode.MEMORY_FIELDS,
    "kt_signal": decode.SIGNAL_FIELDS,
    "kt_death": decode.DEATH_FIELDS,
    "kt_attempt": decode.ATTEMPT_FIELDS,
    "kt_oom": decode.OOM_FIELDS,
    "kt_exec": decode.EXEC_FIELDS,
}
# Members that are records of their own; the reader takes them one by one.
NESTED = {"header", "sender", "target", "process", "trigger", "payload"}


def _members(name: str) -> list[str]:
    body = re.search(rf"struct {name} {{(.*?)\n}};", HEADER.read_text(), re.S)
    assert body is not None
    text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.S)
    return re.findall(r"(\w+)(?:\[\w+(?: \+ \w+)?\])?;", text)


@pytest.fixture(scope="module")
def offsets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[int, int]]]:
    """{struct: {member: (offset, size)}}, as a C compiler lays the header out."""
    folder = tmp_path_factory.mktemp("layout")
    lines = ["#include <stdio.h>", "#include <stddef.h>", "#include <linux/types.h>"]
    lines += [f'#include "{HEADER}"', "int main(void) {"]
    for name in TABLES:
        lines.append(f'printf("{name} . %zu 0\\n", sizeof(struct {name}));')
        for member in _members(name):
            where = f"offsetof(struct {name}, {member})"
            size = f"sizeof(((struct {name} *)0)->{member})"
            lines.append(f'printf("{name} {member} %zu %zu\\n", {where}, {size});')
    (folder / "layout.c").write_text("\n".join([*lines, "return 0; }"]))
    subprocess.run(["cc", "-o", folder / "layout", folder / "layout.c"], check=True)
    out = subprocess.run([folder / "layout"], capture_output=True, text=True, check=True).stdout
    found: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in TABLES}
    for line in out.splitlines():
        name, member, offset, size = line.split()
        found[name][member] = (int(offset), int(size))
    return found


@pytest.mark.parametrize("name", TABLES)
def test_fields_agree(name: str, offsets: dict[str, dict[str, tuple[int, int]]]) -> None:
    fields = TABLES[name]
    members = [member for member in _members(name) if member not in NESTED]
    assert [field for field, _ in fields] == members
    start = offsets[name][members[0]][0]
    position = start
    for field, code in fields:
        assert offsets[name][field] == (position, struct.calcsize("<" + code)), field
        position += struct.calcsize("<" + code)
    rest = [at for member, (at, _) in offsets[name].items() if member in NESTED and at > start]
    assert position == min(rest, default=offsets[name]["."][0])


def test_constants_agree() -> None:
    text = HEADER.read_text()
    for name, value in {
        "KT_SIGNAL": decode.SIGNAL,
        "KT_DEATH": decode.DEATH,
        "KT_ATTEMPT": decode.ATTEMPT,
        "KT_OOM": decode.OOM,
        "KT_EXEC_ARGS_CUT": decode.ARGS_CUT,
        "KT_EXEC_INHERITED": decode.INHERITED,
        "KT_EXEC_FROM_PROC": decode.FROM_PROC,
        "KT_EXEC_KERNEL_ONLY": decode.KERNEL_ONLY,
        "KT_ENDED_DYING": decode.ENDED_DYING,
        "KT_ENDED_DEAD": decode.ENDED_DEAD,
        "KT_DISPOSITION_HANDLED": decode.DISPOSITION_HANDLED,
    }.items():
        found = re.search(rf"\b{name} = (\d+)", text)
        assert found is not None and int(found[1]) == value, name
