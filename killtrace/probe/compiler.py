"""Compiles the programs with bcc, in a process of its own: LLVM's memory goes when it ends."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NoReturn

from killtrace.errors import KilltraceError, UnsupportedError
from killtrace.probe import bcc_module, source, syscalls
from killtrace.probe.programs import (
    PROG_KPROBE,
    PROG_RAW_TRACEPOINT,
    RAW_TRACEPOINT_PREFIX,
    Compiled,
    MapSpec,
    ProgramsError,
    relocatable,
)

_MAP_INFO_BY_FD = 15  # BPF_OBJ_GET_INFO_BY_FD


def compile_programs(options: source.Options, *, debug: bool = False) -> Compiled:
    """The programs for these options and this kernel.

    UnsupportedError (69) where bcc, BTF or headers are missing, or the compiler fails; `debug`
    shows on stderr what the compiler said.
    """
    receive, send = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child_pid = os.fork()
    if child_pid == 0:
        os.close(receive)
        _child(options, send, debug)
    os.close(send)
    with open(receive, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child_pid, 0)
    head, _, body = answer.partition(b"\n")
    if head == b"compiled":
        return Compiled.unpack(body)
    if head == b"failed":
        raise UnsupportedError(*json.loads(body))
    raise UnsupportedError(
        "the compiler of the programs ended in mid-work", "see what --debug shows, and free memory"
    )


def _child(options: source.Options, send: int, debug: bool) -> NoReturn:
    """The other process: compiles, answers through the pipe, ends."""
    try:
        # libbcc writes the compiler's output to descriptor 2.
        with tempfile.TemporaryFile() as sink:
            said = os.dup(2)
            os.dup2(sink.fileno(), 2)
            try:
                answer = b"compiled\n" + _compile(options).pack()
            except KilltraceError as error:
                answer = b"failed\n" + json.dumps([error.what, error.mend]).encode()
            if debug:
                _copy(sink, said)
        with open(send, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


def _copy(sink: IO[bytes], descriptor: int) -> None:
    sink.seek(0)
    os.write(descriptor, sink.read())


def _compile(options: source.Options) -> Compiled:
    bcc = bcc_module.load()
    if source.BTF_PATH.exists():
        with tempfile.TemporaryDirectory(prefix="killtrace-") as folder:
            features = source.stub_headers(Path(folder))
            return _with_headers(bcc, options, Path(folder), features)
    if source.installed_headers() is None:
        raise UnsupportedError(
            "this kernel has neither BTF (/sys/kernel/btf/vmlinux) nor installed headers",
            f"install the headers: {source.headers_hint()}",
        )
    # bcc finds these by itself; Debian has them in two folders, which it knows to join.
    return _with_headers(bcc, options, None, {"KT_HEADERS": 1})


def _with_headers(
    bcc: Any, options: source.Options, headers: Path | None, features: Any
) -> Compiled:
    if headers is not None:
        os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    # bcc would load and attach what it compiles; that is done elsewhere.
    only_compiler = type("Compiler", (bcc.BPF,), {"_trace_autoload": lambda self: None})
    try:
        module = only_compiler(
            text=source.program_text(options), cflags=source.flags(options, features)
        )
        return _extract(bcc.libbcc.lib, module)
    except Exception as error:  # bcc raises nothing more exact
        raise UnsupportedError(
            f"the programs do not compile for this kernel ({str(error).splitlines()[0]})",
            "see `killtrace doctor`, and `--debug` for the compiler's own words",
        ) from error


def _extract(lib: Any, module: Any) -> Compiled:
    """Take maps and instructions out of bcc's module."""
    # bcc's own Python does not declare these two.
    lib.bpf_num_tables.argtypes, lib.bpf_num_tables.restype = [ctypes.c_void_p], ctypes.c_size_t
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_name.restype = ctypes.c_char_p
    names: dict[int, str] = {}
    maps: dict[str, MapSpec] = {}
    for number in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, number)
        descriptor = lib.bpf_table_fd(module.module, name)
        names[descriptor] = name.decode()
        maps[name.decode()] = _spec(descriptor)
    programs = {}
    for number in range(lib.bpf_num_functions(module.module)):
        function = lib.bpf_function_name(module.module, number)
        name = function.decode()
        raw = name.startswith(RAW_TRACEPOINT_PREFIX)
        kind = PROG_RAW_TRACEPOINT if raw else PROG_KPROBE
        code = module.dump_func(function)
        if not code:
            raise ProgramsError(f"{name} was compiled to nothing")
        programs[name] = relocatable(kind, code, names)
    return Compiled(maps, programs)


def _spec(descriptor: int) -> MapSpec:
    """What a map was made with: struct bpf_map_info, include/uapi/linux/bpf.h."""
    info = ctypes.create_string_buffer(88)
    attr = struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info))
    syscalls.bpf(_MAP_INFO_BY_FD, syscalls.attribute(attr))
    kind, _, key_size, value_size, entries, flags = struct.unpack_from("=6I", info)
    return MapSpec(kind, key_size, value_size, entries, flags)
