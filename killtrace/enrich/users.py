"""User names, without ever waiting long for a slow directory service."""

from __future__ import annotations

import pwd
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PATIENCE_S = 0.1
_RETRY_S = 30.0


def parse_passwd(content: str) -> dict[int, tuple[str, str]]:
    """passwd(5) as uid → (name, home); the first entry of a uid wins, broken lines are left out."""
    entries: dict[int, tuple[str, str]] = {}
    for line in content.splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[0] and fields[2].isdecimal():
            entries.setdefault(int(fields[2]), (fields[0], fields[5]))
    return entries


def _nss_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


class Users:
    """Names of uids: from the passwd file, then from the system's name service (nsswitch.conf).

    The service is asked in the background: an answer that comes late serves the next question.
    A uid that nobody knew is asked for again after half a minute.
    """

    def __init__(
        self,
        passwd: Path = Path("/etc/passwd"),
        lookup: Callable[[int], str | None] = _nss_name,
        monotonic: Callable[[], float] = time.monotonic,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._passwd = passwd
        self._lookup = lookup
        self._monotonic = monotonic
        self._patience_s = patience_s
        self._stamp: tuple[int, int] | None = None
        self._local: dict[int, tuple[str, str]] = {}
        self._remote: dict[int, str] = {}
        self._asked: dict[int, float] = {}

    def name(self, uid: int | None) -> str | None:
        """The user's name, or None where it isn't known (yet)."""
        if uid is None:
            return None
        if uid in self._local:
            return self._local[uid][0]
        if uid in self._remote:
            return self._remote[uid]
        now = self._monotonic()
        if now < self._asked.get(uid, now):
            return None
        self._read_passwd()
        if uid in self._local:
            return self._local[uid][0]
        self._asked[uid] = now + _RETRY_S
        return self._ask(uid)

    def home(self, uid: int) -> Path | None:
        """The home folder by the passwd file alone; None where it has no such uid."""
        if uid not in self._local:
            self._read_passwd()
        entry = self._local.get(uid)
        return Path(entry[1]) if entry and entry[1].startswith("/") else None

    def _read_passwd(self) -> None:
        try:
            status = self._passwd.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                content = self._passwd.read_text(encoding="utf-8", errors="surrogateescape")
                self._local = parse_passwd(content)
                self._stamp = stamp
        except OSError:
            self._local, self._stamp = {}, None

    def _ask(self, uid: int) -> str | None:
        def answer() -> None:
            found = self._lookup(uid)
            if found is not None:
                self._remote[uid] = found

        # A daemon thread: a directory that never answers must not hold up the end of the program.
        thread = threading.Thread(target=answer, name=f"user-{uid}", daemon=True)
        thread.start()
        thread.join(self._patience_s)
        return self._remote.get(uid)
