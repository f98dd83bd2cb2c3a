"""Layouts of kernel structs from BTF, the kernel's own description of its types.

Format: Documentation/bpf/btf.rst.  Only what layouts need is read: structs, unions, enums and the
sizes of what their members point at are not followed.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable

_MAGIC = 0xEB9F
_ARRAY, _STRUCT, _UNION, _ENUM, _ENUM64 = 3, 4, 5, 6, 19
# What follows the 12 bytes of struct btf_type, by kind: (bytes, bytes for each of vlen).
_EXTRA = {
    1: (4, 0),  # INT
    3: (12, 0),  # ARRAY
    4: (0, 12),  # STRUCT
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    17: (4, 0),  # DECL_TAG
    19: (0, 12),  # ENUM64
}


class BtfError(ValueError):
    """The bytes are not BTF, or lack a type that is asked for."""


class Btf:
    """The structs and enums of `names`, found in one pass over a kernel's BTF.

    `raw` is the content of /sys/kernel/btf/vmlinux.  Raises BtfError where it is no BTF.
    """

    def __init__(self, raw: bytes, names: Iterable[str]) -> None:
        if len(raw) < 24 or struct.unpack_from("<H", raw)[0] != _MAGIC:
            raise BtfError("no BTF")
        _, _, _, header, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", raw)
        self._types = raw[header + type_off : header + type_off + type_len]
        self._strings = raw[header + str_off : header + str_off + str_len]
        self._at = array("I", [0])
        self._found: dict[str, list[int]] = {name: [] for name in names}
        try:
            self._index()
        except struct.error as error:
            raise BtfError("BTF is cut short") from error

    def _index(self) -> None:
        wanted = {self._name_offset(name): name for name in self._found}
        wanted.pop(0, None)
        by_info = {kind << 24: (base, each) for kind, (base, each) in _EXTRA.items()}
        types, append, position = self._types, self._at.append, 0
        unpack, end = struct.Struct("<II").unpack_from, len(self._types)
        nothing = (0, 0)
        while position < end:
            name_offset, info = unpack(types, position)
            append(position)
            if name_offset in wanted:
                self._found[wanted[name_offset]].append(position)
            base, each = by_info.get(info & 0x1F000000, nothing)
            position += 12 + base + each * (info & 0xFFFF)

    def _name_offset(self, name: str) -> int:
        return self._strings.find(b"\0" + name.encode() + b"\0") + 1

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _header(self, position: int) -> tuple[int, int, int, int]:
        name, info, size = struct.unpack_from("<III", self._types, position)
        return name, info >> 24 & 0x1F, info & 0xFFFF, size

    def _members(self, position: int) -> Iterable[tuple[str, int, int]]:
        """(name, type id, bit offset) of each member; a bit field's offset without its size."""
        _, info, _ = struct.unpack_from("<III", self._types, position)
        for at in range(position + 12, position + 12 + 12 * (info & 0xFFFF), 12):
            name, type_id, offset = struct.unpack_from("<III", self._types, at)
            if info >> 31:
                offset &= 0xFFFFFF
            yield self._name(name), type_id, offset

    def offset(self, struct_name: str, member: str) -> int | None:
        """Byte offset of a member, looked for in anonymous members too; None where it is not."""
        for position in self._found[struct_name]:
            if self._header(position)[1] in (_STRUCT, _UNION):
                bits = self._search(position, member)
                if bits is not None:
                    return bits // 8
        return None

    def _search(self, position: int, member: str) -> int | None:
        for name, type_id, offset in self._members(position):
            if name == member:
                return offset
            if not name:
                inner = self._at[type_id]
                if self._header(inner)[1] in (_STRUCT, _UNION):
                    found = self._search(inner, member)
                    if found is not None:
                        return offset + found
        return None

    def is_array(self, struct_name: str, member: str) -> bool:
        """Whether a member is an array; False where it is not there."""
        for position in self._found[struct_name]:
            if self._header(position)[1] in (_STRUCT, _UNION):
                type_id = self._member_type(position, member)
                if type_id is not None:
                    return self._header(self._at[type_id])[1] == _ARRAY
        return False

    def _member_type(self, position: int, member: str) -> int | None:
        for name, type_id, _ in self._members(position):
            if name == member:
                return type_id
            if not name and self._header(self._at[type_id])[1] in (_STRUCT, _UNION):
                found = self._member_type(self._at[type_id], member)
                if found is not None:
                    return found
        return None

    def size(self, struct_name: str) -> int | None:
        """Size of a struct in bytes; None where the kernel has none of that name."""
        for position in self._found[struct_name]:
            _, kind, members, size = self._header(position)
            if kind in (_STRUCT, _UNION) and members:
                return size
        return None

    def enum_value(self, enum_name: str, constant: str) -> int | None:
        """The value of an enum's constant; None where it is not there."""
        for position in self._found[enum_name]:
            _, kind, count, _ = self._header(position)
            step = {_ENUM: 8, _ENUM64: 12}.get(kind)
            if step is None:
                continue
            for at in range(position + 12, position + 12 + step * count, step):
                name, value = struct.unpack_from("<Ii", self._types, at)
                if self._name(name) == constant:
                    return int(value)
        return None
