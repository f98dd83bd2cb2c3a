"""Who is logged in where: utmp(5), and logind's session files.  Parsers are pure."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from killtrace import text


@dataclass(frozen=True)
class Login:
    """One login: the user, and the host it came from (None: from this machine)."""

    user: str | None
    host: str | None
    tty: str | None = None
    session: str | None = None


# utmp(5): type, pid, line, id, user, host; what follows is as wide as the machine's time_t.
_UTMP_HEAD = struct.Struct("=hxxi32s4s32s256s")
_UTMP_SIZES = (384, 400)
_USER_PROCESS, _TYPE_MAX = 7, 9
# Multiplexers write their own name where the remote host belongs.
_NO_HOST = re.compile(r":.*|tmux\(.*|screen.*")
_MOSH_HOST = re.compile(r"(\S+) via mosh.*")
_SESSION_SCOPE = re.compile(r"/session-([^/]+)\.scope(?:/|$)")
_T = TypeVar("_T")


def parse_utmp(raw: bytes) -> tuple[Login, ...]:
    """The logins of an utmp file; () where it has no known form."""
    for size in _UTMP_SIZES:
        if len(raw) % size == 0:
            heads = [_UTMP_HEAD.unpack_from(raw, at) for at in range(0, len(raw), size)]
            if all(0 <= head[0] <= _TYPE_MAX for head in heads):
                return tuple(_utmp_login(head) for head in heads if head[0] == _USER_PROCESS)
    return ()


def _utmp_login(head: Sequence[bytes]) -> Login:
    line, user, host = (text.decode(head[at].split(b"\0", 1)[0]) for at in (2, 4, 5))
    return Login(user or None, _remote(host), f"/dev/{line}" if line else None)


def parse_session(name: str, content: str) -> Login:
    """One file of /run/systemd/sessions; `name` is the session's id."""
    pairs = (line.partition("=") for line in content.splitlines())
    fields = {key: value for key, equals, value in pairs if equals and not key.startswith("#")}
    tty = fields.get("TTY")
    return Login(
        user=fields.get("USER") or None,
        host=_remote(fields.get("REMOTE_HOST", "")),
        tty=f"/dev/{tty.removeprefix('/dev/')}" if tty else None,
        session=name,
    )


def session_of(cgroup: str | None) -> str | None:
    """The logind session that a cgroup path belongs to, or None."""
    match = _SESSION_SCOPE.search(cgroup or "")
    return match[1] if match else None


def _remote(host: str) -> str | None:
    if mosh := _MOSH_HOST.fullmatch(host):
        return mosh[1]
    return None if not host or _NO_HOST.fullmatch(host) else host


class Logins:
    """Finds logins in the machine's own records; files that are missing are no error."""

    def __init__(
        self,
        utmp: Path = Path("/run/utmp"),
        sessions: Path = Path("/run/systemd/sessions"),
    ) -> None:
        self._utmp = utmp
        self._sessions = sessions

    def on(self, tty: str, cgroup: str | None = None) -> Login | None:
        """The login on a terminal, or else the one whose session scope the cgroup is in."""
        session = session_of(cgroup)
        known = [*self._from_logind(), *self._from_utmp()]
        by_tty = [login for login in known if login.tty == tty]
        by_session = [login for login in known if session and login.session == session]
        found = by_tty + by_session
        if not found:
            return None
        # The sources complete each other: utmp may lack the host, logind the terminal.
        return Login(
            user=_first(login.user for login in found),
            host=_first(login.host for login in found),
            tty=tty,
            session=_first(login.session for login in found),
        )

    def _from_utmp(self) -> tuple[Login, ...]:
        return _read(self._utmp, lambda path: parse_utmp(path.read_bytes())) or ()

    def _from_logind(self) -> Iterator[Login]:
        for path in _read(self._sessions, lambda folder: sorted(folder.iterdir())) or ():
            # Beside each session's file there is a FIFO, NAME.ref.
            if path.is_file() and not path.name.endswith(".ref"):
                content = _read(path, lambda file: file.read_text("utf-8", "surrogateescape"))
                if content is not None:
                    yield parse_session(path.name, content)


def _read(path: Path, how: Callable[[Path], _T]) -> _T | None:
    try:
        return how(path)
    except OSError:
        return None


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value), None)
