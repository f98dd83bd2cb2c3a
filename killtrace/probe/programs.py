"""Compiled programs and their maps: bytes to keep, and how they get into the kernel."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from killtrace.probe import syscalls
from killtrace.probe.ring import open_event

_MAP_CREATE, _LOOKUP, _UPDATE, _PROG_LOAD, _OPEN_RAW_TRACEPOINT = 0, 1, 2, 5, 17
_TAKE_BATCH = 25  # BPF_MAP_LOOKUP_AND_DELETE_BATCH
PROG_KPROBE, PROG_RAW_TRACEPOINT = 2, 17
_PER_CPU = (5, 6, 10)  # BPF_MAP_TYPE_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH
_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_64, _PSEUDO_MAP_FD = 0x18, 1
_MAGIC = b"killtrace programs 1\n"
_LOG_SIZE = 1 << 20


BPF_NOEXIST = 1
RAW_TRACEPOINT_PREFIX = "raw_tracepoint__"  # of the programs that bcc's macro makes
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408  # PERF_EVENT_IOC_*, include/uapi/linux/perf_event.h


class LoadError(OSError):
    """The kernel does not take a map or a program; `log` has the verifier's words."""

    def __init__(self, error: OSError, log: str = "") -> None:
        super().__init__(error.errno, error.strerror)
        self.log = log


class ProgramsError(ValueError):
    """Bytes that are no compiled programs, or programs that can't be kept."""


@dataclass(frozen=True)
class MapSpec:
    """What a map is made with: BPF_MAP_CREATE's arguments."""

    type: int
    key_size: int
    value_size: int
    entries: int
    flags: int


@dataclass(frozen=True)
class Program:
    """One program.  `maps`: (index of the instruction, name of the map) for each use of a map."""

    type: int
    code: bytes
    maps: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Compiled:
    """All programs and maps of one compilation."""

    maps: Mapping[str, MapSpec]
    programs: Mapping[str, Program]

    def pack(self) -> bytes:
        """As bytes, which `unpack` takes."""
        return (
            _MAGIC
            + json.dumps(
                {
                    "maps": {name: list(vars(spec).values()) for name, spec in self.maps.items()},
                    "programs": {
                        name: [program.type, program.code.hex(), program.maps]
                        for name, program in self.programs.items()
                    },
                }
            ).encode()
        )

    @classmethod
    def unpack(cls, data: bytes) -> Compiled:
        """What `pack` made; ProgramsError for anything else."""
        try:
            if not data.startswith(_MAGIC):
                raise ProgramsError("not compiled programs")
            read = json.loads(data[len(_MAGIC) :])
            return cls(
                {name: MapSpec(*spec) for name, spec in read["maps"].items()},
                {
                    name: Program(kind, bytes.fromhex(code), tuple((i, m) for i, m in maps))
                    for name, (kind, code, maps) in read["programs"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProgramsError(str(error)) from error


def relocatable(kind: int, code: bytes, names: Mapping[int, str]) -> Program:
    """A program whose instructions name maps by descriptor: `names` says which is which."""
    uses, out = [], bytearray(code)
    for position in range(0, len(code), 8):
        op, registers, offset, value = _INSTRUCTION.unpack_from(code, position)
        source = registers >> 4
        if op != _LOAD_64 or source == 0:
            continue
        if source != _PSEUDO_MAP_FD or value not in names:
            raise ProgramsError(f"an instruction refers to {source}:{value}, which is no map")
        uses.append((position // 8, names[value]))
        _INSTRUCTION.pack_into(out, position, op, registers, offset, 0)
    return Program(kind, bytes(out), tuple(uses))


def relocated(program: Program, descriptors: Mapping[str, int]) -> bytes:
    """The instructions, with the descriptors of maps filled in."""
    out = bytearray(program.code)
    for index, name in program.maps:
        op, registers, offset, _ = _INSTRUCTION.unpack_from(out, index * 8)
        _INSTRUCTION.pack_into(out, index * 8, op, registers, offset, descriptors[name])
    return bytes(out)


class Map:
    """A map in the kernel."""

    def __init__(self, name: str, spec: MapSpec, possible_cpus: int) -> None:
        self.spec = spec
        attr = struct.pack(
            "=IIIIIII16s",
            *(spec.type, spec.key_size, spec.value_size, spec.entries, spec.flags, 0, 0),
            name.encode()[:15],
        )
        self.fd = syscalls.bpf_making(_MAP_CREATE, syscalls.attribute(attr))
        per_cpu = spec.type in _PER_CPU
        size = (spec.value_size + 7 & ~7) * possible_cpus if per_cpu else spec.value_size
        # Made once: a look-up is on the way of every record.
        self._key = ctypes.create_string_buffer(spec.key_size)
        self._value = ctypes.create_string_buffer(size)
        places = (self.fd, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)
        self._attr = syscalls.attribute(struct.pack("=I4xQQQ", *places))

    def get(self, key: int) -> bytes | None:
        """The value (of all CPUs, for a per-CPU map) of a 32-bit key; None where there is none."""
        struct.pack_into("=I", self._key, 0, key)
        try:
            syscalls.bpf(_LOOKUP, self._attr)
        except FileNotFoundError:
            return None
        return self._value.raw

    def set(self, key: int, value: bytes, flags: int = 0) -> bool:
        """Set the value of a 32-bit key; False where `flags` (BPF_NOEXIST 1) forbid, or no room."""
        key_bytes = ctypes.create_string_buffer(struct.pack("=I", key), 4)
        value_bytes = ctypes.create_string_buffer(value, self.spec.value_size)
        places = (self.fd, ctypes.addressof(key_bytes), ctypes.addressof(value_bytes), flags)
        try:
            syscalls.bpf(_UPDATE, syscalls.attribute(struct.pack("=I4xQQQ", *places)))
        except OSError:
            return False
        return True

    def take_all(self) -> bytes:
        """The values of a whole hash table, which is empty afterwards (since 5.6)."""
        room = 4096
        keys = ctypes.create_string_buffer(room * self.spec.key_size)
        values = ctypes.create_string_buffer(room * self.spec.value_size)
        token = ctypes.create_string_buffer(8)
        out, begin, done = bytearray(), 0, False
        while not done:
            where = (begin, *(ctypes.addressof(each) for each in (token, keys, values)))
            attr = syscalls.attribute(struct.pack("=QQQQIIQQ", *where, room, self.fd, 0, 0))
            try:
                syscalls.bpf(_TAKE_BATCH, attr)
            except FileNotFoundError:  # that was the last
                done = True
            count = struct.unpack_from("=I", attr, 32)[0]
            out += values.raw[: count * self.spec.value_size]
            begin = ctypes.addressof(token)
        return bytes(out)

    def close(self) -> None:
        """Let go of it; it lives on while programs use it."""
        os.close(self.fd)


class Loaded:
    """Compiled programs in the kernel: maps made, programs verified, nothing attached yet.

    LoadError where the kernel refuses.
    """

    def __init__(self, compiled: Compiled, possible_cpus: int) -> None:
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, int] = {}
        self._attached: list[int] = []
        self._refusals: list[LoadError] = []
        try:
            for name, spec in compiled.maps.items():
                self.maps[name] = Map(name, spec, possible_cpus)
        except OSError as error:
            self.close()
            raise LoadError(error) from error
        self._load_all(compiled)

    def _load_all(self, compiled: Compiled) -> None:
        """Verify the programs side by side: that is what takes the kernel time."""
        threads = [
            threading.Thread(target=self._load, args=item) for item in compiled.programs.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._refusals:
            self.close()
            raise self._refusals[0]

    def _load(self, name: str, program: Program) -> None:
        code = relocated(program, {name: each.fd for name, each in self.maps.items()})
        try:
            self.programs[name] = _load_program(program.type, code, name)
        except OSError as error:
            self._refusals.append(LoadError(error, _why_refused(program.type, code, name)))

    def attach_raw_tracepoint(self, event: str, program: str) -> None:
        """Run a program at every passing of a tracepoint."""
        text = ctypes.create_string_buffer(event.encode())
        attr = struct.pack("=QI4x", ctypes.addressof(text), self.programs[program])
        self._attached.append(syscalls.bpf(_OPEN_RAW_TRACEPOINT, syscalls.attribute(attr)))

    def attach_kprobe(self, function: str, program: str, kind: Path) -> None:
        """Run a program whenever a kernel function is called; `kind` holds the event's type."""
        text = ctypes.create_string_buffer(function.encode())
        event = open_event(int(kind.read_text()), config1=ctypes.addressof(text))
        self._attached.append(event)
        fcntl.ioctl(event, _IOC_SET_BPF, self.programs[program])
        fcntl.ioctl(event, _IOC_ENABLE, 0)

    def detach(self) -> None:
        """Run the programs no more; maps can still be read."""
        for descriptor in self._attached:
            os.close(descriptor)
        self._attached = []

    def close(self) -> None:
        """Detach all, and let go of all."""
        self.detach()
        for descriptor in self.programs.values():
            os.close(descriptor)
        for each in self.maps.values():
            each.close()
        self.programs, self.maps = {}, {}


def _load_program(kind: int, code: bytes, name: str, log: syscalls.Buffer | None = None) -> int:
    text = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack(
        "=IIQQIIQII16s",
        *(kind, len(code) // 8, ctypes.addressof(text), ctypes.addressof(licence)),
        *((1, len(log), ctypes.addressof(log)) if log is not None else (0, 0, 0)),
        *(0, 0, name.encode()[-15:]),
    )
    return syscalls.bpf_making(_PROG_LOAD, syscalls.attribute(attr))


def _why_refused(kind: int, code: bytes, name: str) -> str:
    """The verifier's words: loaded once more, with a log."""
    log = ctypes.create_string_buffer(_LOG_SIZE)
    try:
        os.close(_load_program(kind, code, name, log))
    except OSError as error:
        return f"{name}: {error}\n{log.value.decode(errors='replace')}"
    return ""
