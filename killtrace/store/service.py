"""The recorder as a systemd service: its unit file, and what it tells the service manager."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from killtrace.errors import KilltraceError, NotPermittedError, UnsupportedError
from killtrace.privileges import wants_admin

UNIT = "killtrace.service"
UNIT_FOLDER = Path("/etc/systemd/system")
_BOOTED = Path("/run/systemd/system")

Run = Callable[[Sequence[str]], None]


class Notifier:
    """Tells systemd that the service is ready, alive, stopping (sd_notify(3)).

    A datagram to the socket that the manager names; no manager, no telling.  It is too little to
    depend on python3-systemd for.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        every_us = environment.get("WATCHDOG_USEC", "") if mine else ""
        # Half of the time that the manager waits (sd_watchdog_enabled(3)).
        self._every_ns = int(every_us) * 1000 // 2 if every_us.isdecimal() else None
        self._told_ns = 0

    def tell(self, *states: str) -> None:
        """Send states such as READY=1; a manager that does not listen is no fault of ours."""
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            self._socket.sendto("\n".join(states).encode(), address)
        except OSError:
            pass

    def alive(self, now_ns: int) -> None:
        """Feed the watchdog, if it is due; `now_ns` is any steady clock."""
        if self._every_ns is not None and now_ns - self._told_ns >= self._every_ns:
            self._told_ns = now_ns
            self.tell("WATCHDOG=1")


def unit_text(
    arguments: Sequence[str], program: Sequence[str] | None = None, *, admin: bool | None = None
) -> str:
    """The unit file for a recorder that is started with these arguments of `killtrace record`.

    `admin`: whether it has CAP_SYS_ADMIN, too; by default, where this kernel may want it.
    """
    template = resources.files("killtrace.store").joinpath(UNIT).read_text("utf-8")
    words = [*(program or _program()), "record", *arguments]
    admin = wants_admin() if admin is None else admin
    template = template.replace("@ADMIN@", " CAP_SYS_ADMIN" if admin else "")
    return template.replace("@COMMAND@", " ".join(_quoted(word) for word in words))


def _program() -> list[str]:
    """How this killtrace was started, as systemd needs it: by absolute paths."""
    started = Path(sys.argv[0])
    if started.name == "killtrace":
        found = shutil.which(str(started))
        if found is not None:
            return [str(Path(found).absolute())]
    return [sys.executable, "-m", "killtrace"]


def _quoted(word: str) -> str:
    """A word of an ExecStart line (systemd.service(5), "Command lines"; systemd.unit(5), %)."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = word and all(c.isalnum() or c in "/._-=,:@+%" for c in word)
    return word if plain else f'"{word}"'


def install(text: str, *, folder: Path = UNIT_FOLDER, run: Run | None = None) -> Path:
    """Write the unit file and start the service; returns the file's path.

    NotPermittedError (77) for who is not root, UnsupportedError (69) where systemd doesn't run,
    KilltraceError where the service does not start.
    """
    run = run or _systemctl
    path = folder / UNIT
    try:
        path.write_text(text, "utf-8")
        path.chmod(0o644)
    except OSError as error:
        raise _not_permitted(f"the unit {path} can't be written", error) from error
    run(["daemon-reload"])
    run(["enable", UNIT])
    # Not `enable --now`: one that runs already must take up the new options.
    run(["restart", UNIT])
    return path


def uninstall(*, folder: Path = UNIT_FOLDER, run: Run | None = None) -> bool:
    """Stop the service and remove the unit file; False where there is none.  Errors as install."""
    run = run or _systemctl
    path = folder / UNIT
    if not path.exists():
        return False
    run(["disable", "--now", UNIT])
    try:
        path.unlink()
    except OSError as error:
        raise _not_permitted(f"the unit {path} can't be removed", error) from error
    run(["daemon-reload"])
    return True


def require_systemd(booted: Path = _BOOTED) -> None:
    """UnsupportedError (69) where systemd doesn't run (sd_booted(3)), 77 for who is not root."""
    if os.geteuid() != 0:
        raise NotPermittedError("only root may install a service", "run it with sudo")
    if not booted.is_dir() or shutil.which("systemctl") is None:
        raise UnsupportedError(
            "systemd does not run on this machine",
            "start `killtrace record` from whatever starts services here",
        )


def _systemctl(arguments: Sequence[str]) -> None:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise KilltraceError(
            f"systemctl {' '.join(arguments)} failed ({said})",
            f"see `systemctl status {UNIT}` and `journalctl -u {UNIT}`",
        )


def _not_permitted(what: str, error: OSError) -> KilltraceError:
    return NotPermittedError(f"{what} ({error.strerror})", "run it with sudo")
