"""Starts a command exactly as if killtrace were not there.

Whatever killtrace or its interpreter has changed in this process is put back in the child before it
executes the command: environment, signal mask and dispositions, limits.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from killtrace.errors import KilltraceError

# Python ignores these two for itself before any code runs (Py_Initialize), so what they were can't
# be known; default is what a shell gives.
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)
_SHELL = b"/bin/sh"


class NotFoundError(KilltraceError):
    """There is no such command (exit 127, as a shell)."""

    exit_status = 127


class NotExecutableError(KilltraceError):
    """The command is there and can't be executed (exit 126, as a shell)."""

    exit_status = 126


@dataclass(frozen=True)
class Inheritance:
    """What this process was given, and its children are to get."""

    environment: Mapping[bytes, bytes]
    mask: frozenset[int]
    ignored: frozenset[int]
    memlock: tuple[int, int]


def inheritance(environ: Path = Path("/proc/self/environ")) -> Inheritance:
    """What this process was given; to be called before any of it is changed.

    The environment is read from the kernel: Python may have added LC_CTYPE (PEP 538).  bcc may
    raise RLIMIT_MEMLOCK (libbpf does where maps are charged to it, before 5.11).
    """
    ignored = (s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN)
    return Inheritance(
        environment=_environment(environ),
        mask=frozenset(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        ignored=frozenset(int(s) for s in ignored) - {int(s) for s in _PYTHONS_OWN},
        memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK),
    )


def _environment(environ: Path) -> Mapping[bytes, bytes]:
    try:
        entries = environ.read_bytes().split(b"\0")
    except OSError:
        return dict(os.environb)
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def start(command: Sequence[str], given: Inheritance, changed: Iterable[int]) -> int:
    """Fork and execute; the pid.  `changed` are the signals whose disposition is not `given`'s.

    NotFoundError (127) and NotExecutableError (126) as a shell has them.
    """
    read, write = os.pipe()  # closed by a successful exec: PEP 446
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _become(command, given, changed, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    if answer:
        os.waitpid(pid, 0)
        raise _failure(command[0], int(answer))
    return pid


def _become(
    command: Sequence[str], given: Inheritance, changed: Iterable[int], failed: int
) -> NoReturn:
    """The child's part; it never returns, whatever happens."""
    code = errno.EIO
    try:
        for signo in (*changed, *_PYTHONS_OWN):
            ignored = signo in given.ignored
            signal.signal(signo, signal.SIG_IGN if ignored else signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, given.memlock)
        signal.pthread_sigmask(signal.SIG_SETMASK, given.mask)
        _execute([os.fsencode(argument) for argument in command], given.environment)
    except OSError as error:
        code = error.errno or errno.EIO
    except BaseException:
        pass
    finally:
        os.write(failed, str(code).encode())
        os._exit(127)


def _execute(command: list[bytes], environment: Mapping[bytes, bytes]) -> None:
    """As execvp(3): along PATH, where what may not be executed is passed over if another may."""
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _paths(command[0], environment):
        try:
            os.execve(path, command, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            failure = error
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script with no #! line, which shells and execvp(3) hand to a shell.
            os.execve(_SHELL, [_SHELL, path, *command[1:]], environment)
    raise failure


def _paths(name: bytes, environment: Mapping[bytes, bytes]) -> list[bytes]:
    if not name or b"/" in name:
        return [name]
    folders = environment.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    return [os.path.join(folder, name) for folder in folders]  # noqa: PTH118 - bytes


def _failure(name: str, code: int) -> KilltraceError:
    reason = os.strerror(code)
    if code in (errno.ENOENT, errno.ENOTDIR) and not Path(name).exists():
        return NotFoundError(f"{name}: command not found", "check its name, or give its path")
    if code == errno.ENOENT:
        return NotFoundError(
            f"{name}: the interpreter that its first line names is not there",
            "mend that line, or install the interpreter",
        )
    if code == errno.EACCES:
        return NotExecutableError(
            f"{name} can't be executed ({reason})", f"make it a program: chmod +x {name}"
        )
    return NotExecutableError(f"{name} can't be executed ({reason})", "check the file")
