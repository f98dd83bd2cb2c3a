"""The cast: processes that wait for a signal, send one, or end, each in step with the others.

Steps are kept by pipes and wait(2), never by sleeping.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from workloads import linux
from workloads.registry import Died

_RESET = ("SIGINT", "SIGHUP", "SIGTERM", "SIGQUIT", "SIGPIPE", "SIGALRM", "SIGXFSZ")


def fork(body: Callable[..., object], *args: object) -> int:
    """Run body(*args) in a child with default signals; it exits with what body returns, or 0."""
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        signal.alarm(0)
        for name in _RESET:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        status = int(body(*args) or 0)  # type: ignore[call-overload]
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(status)


class Gate:
    """A pipe that one process waits on until another opens it; both must be related."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()

    def open(self, message: bytes = b"!") -> None:
        os.write(self._in, message)

    def wait(self) -> bytes:
        message = os.read(self._out, 4096)
        if not message:
            raise EOFError("the other side ended before it was ready")
        return message


def pause_for_ever() -> NoReturn:
    while True:
        signal.pause()


def waiting(prepare: Callable[[], object] | None = None) -> int:
    """A child that has run `prepare` and now waits for a signal; returns once it is ready."""
    ready = Gate()

    def body() -> None:
        if prepare is not None:
            prepare()
        ready.open()
        pause_for_ever()

    pid = fork(body)
    ready.wait()
    return pid


def named(name: str) -> int:
    """A waiting child with this comm."""
    return waiting(lambda: linux.set_name(name.encode()))


def ignoring(signo: int) -> int:
    return waiting(lambda: signal.signal(signo, signal.SIG_IGN))


def handling(signo: int, status: int) -> int:
    """A child that catches `signo` and exits with `status`.

    The wake-up descriptor closes the gap between the handler and the wait.
    """
    ready = Gate()

    def body() -> int:
        out, into = os.pipe()
        os.set_blocking(into, False)
        signal.set_wakeup_fd(into)
        signal.signal(signo, lambda *_: None)
        ready.open()
        os.read(out, 1)
        return status

    pid = fork(body)
    ready.wait()
    return pid


@dataclass
class Threaded:
    """A process with waiting threads; `go` opens the gate that its main thread waits at."""

    pid: int
    tids: list[int]
    go: Gate


def threaded(then: Callable[[], object] | None = None, others: int = 2) -> Threaded:
    """A child with `others` threads beside its first, which runs `then` once told to."""
    ready, go = Gate(), Gate()

    def thread() -> None:
        ready.open(f"{threading.get_native_id()} ".encode())
        pause_for_ever_in_thread()

    def body() -> int:
        for _ in range(others):
            threading.Thread(target=thread, daemon=True).start()
        go.wait()
        return int((then() if then is not None else 0) or 0)  # type: ignore[call-overload]

    pid = fork(body)
    tids: list[int] = []
    while len(tids) < others:
        tids += [int(word) for word in ready.wait().split()]
    return Threaded(pid, tids, go)


def pause_for_ever_in_thread() -> NoReturn:
    # signal.pause() in a thread would be interrupted for nothing; a read of an empty pipe is not.
    out, _into = os.pipe()
    while True:
        os.read(out, 1)


def sender(act: Callable[[], object]) -> int:
    """Run act() in a child of its own, which has ended when this returns; its pid."""
    pid = fork(act)
    ended = wait(pid)
    if ended.status != 0:
        raise RuntimeError(f"the sender ended with {ended}")
    return pid


def wait(pid: int, cause: int | None = None) -> Died:
    """Reap a child: how it ended."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Died(pid, os.WTERMSIG(status), None, os.WCOREDUMP(status), cause)
    return Died(pid, None, os.WEXITSTATUS(status), False, cause)


def died_of(pid: int, signo: int) -> Died:
    """Reap a child that must have died of `signo`, its cause as well."""
    ended = wait(pid, cause=signo)
    if ended.signo != signo:
        raise RuntimeError(f"{pid} should have died of signal {signo}: {ended}")
    return ended


def exited(pid: int, status: int, cause: int | None = None) -> Died:
    """Reap a child that must have exited with `status`."""
    ended = wait(pid, cause)
    if ended.status != status:
        raise RuntimeError(f"{pid} should have exited with {status}: {ended}")
    return ended


def end(pids: Iterable[int]) -> None:
    """Put an end to children that have played their part."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def until_zombie(pid: int) -> None:
    """Wait until a child has ended, and leave it unreaped."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def adopt() -> None:
    """Become the parent of descendants whose own parents end, so that they can be reaped."""
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)


def temporary_cgroup(root: Path, name: str) -> Path:
    """Make a cgroup under a hierarchy's root."""
    folder = root / f"killtrace-{name}-{os.getpid()}"
    folder.mkdir()
    return folder
