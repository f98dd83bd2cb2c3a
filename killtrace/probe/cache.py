"""Compiled programs kept on disk: the compiler is most of the time that a start takes.

They hold for one kernel build, one set of options and one version of the programs' text, all of
which name the file.  The folder is root's alone: what is in it gets into the kernel.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Iterable
from pathlib import Path

from killtrace.probe import source
from killtrace.probe.programs import Compiled, ProgramsError

DEFAULT_FOLDER = Path("/var/cache/killtrace/programs")
# The kernel's ELF notes: its build id is among them, where it was linked with one.
KERNEL_NOTES = Path("/sys/kernel/notes")
_KEPT = 32


def folder() -> Path | None:
    """Where compiled programs are kept: KILLTRACE_CACHE if set; None where that is empty."""
    given = os.environ.get("KILLTRACE_CACHE")
    if given is None:
        return DEFAULT_FOLDER
    return Path(given) if given else None


def key(options: source.Options, notes: Path = KERNEL_NOTES) -> str:
    """The file's name: a digest of all that the programs depend on."""
    parts: list[str | bytes] = [source.program_text(options), *source.flags(options, {})]
    parts += [platform.release(), platform.version(), _content(notes)]
    parts.append(_content(source.POSSIBLE_CPUS))
    parts += [str(source.BTF_PATH), str(_size(source.BTF_PATH))]
    digest = hashlib.sha256()
    for part in _as_bytes(parts):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _as_bytes(parts: Iterable[str | bytes]) -> Iterable[bytes]:
    return (part.encode() if isinstance(part, str) else part for part in parts)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def load(where: Path, name: str) -> Compiled | None:
    """The programs of that name; None where there are none that can be trusted."""
    if not _is_private(where):
        return None
    try:
        descriptor = os.open(where / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not _is_ours(os.fstat(descriptor)):
                return None
            return Compiled.unpack(file.read())
    except (OSError, ProgramsError):
        return None


def save(where: Path, name: str, compiled: Compiled) -> None:
    """Keep programs under a name; the oldest go.  A folder that can't be used is no fault."""
    import tempfile

    try:
        where.parent.mkdir(exist_ok=True)
        where.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(where):
            return
        with tempfile.NamedTemporaryFile(dir=where, prefix=".new-", delete=False) as file:
            file.write(compiled.pack())
        Path(file.name).rename(where / name)
        files = sorted(where.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[_KEPT:]:
            path.unlink()
    except OSError:
        pass


def forget(where: Path, name: str) -> None:
    """Remove programs that the kernel would not take."""
    try:
        (where / name).unlink()
    except OSError:
        pass


def _is_private(where: Path) -> bool:
    try:
        found = where.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and _is_ours(found)


def _is_ours(found: os.stat_result) -> bool:
    """Whether nobody but this user could have written it."""
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022
