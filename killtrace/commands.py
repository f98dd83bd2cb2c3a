"""What a command line asks a service manager or a container runtime to end.  Pure.

`systemctl stop nginx` sends no signal itself: it asks systemd, which does.  Here such a command
is read as its own program would read it, as far as that matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from killtrace import container_commands
from killtrace.command_line import (
    INTERPRETER,
    SIGKILL,
    SIGTERM,
    Request,
    base_name,
    option,
    program,
    signal_of,
    split,
    word_set,
)


@lru_cache(maxsize=4096)
def parse(cmdline: tuple[str, ...]) -> Request | None:
    """The request that a command line is, or None: it is none that is known."""
    name, args = program(cmdline)
    reader = _READERS.get(name)
    return None if reader is None else reader(name, args)


# --- systemd -----------------------------------------------------------------------------------

_SYSTEMCTL_VALUED = word_set(
    "-t --type --state -p --property -P -s --signal --kill-whom --kill-who --kill-value -H --host"
    " -M --machine -n --lines -o --output --job-mode --root --image --what --when --message"
    " --preset-mode --timestamp"
)
_STOPS = word_set(
    "stop restart try-restart reload-or-restart try-reload-or-restart condstop condrestart"
    " condreload force-reload reload-or-try-restart"
)
_RELOADS = frozenset({"reload", "force-reload"})
_SHUTDOWNS = word_set("reboot poweroff halt kexec soft-reboot")
_ISOLATES = frozenset({"isolate", "rescue", "emergency", "default"})


def _systemctl(tool: str, args: Sequence[str]) -> Request | None:
    words, options = split(args, _SYSTEMCTL_VALUED)
    if not words or {"-H", "--host", "--root", "--image", "--dry-run"} & set(options):
        return None
    verb, names = words[0], tuple(words[1:])
    kind = "systemd-user" if "--user" in options else "systemd"
    machine = option(options, "-M", "--machine")
    if machine is not None and kind == "systemd-user":  # -M alice@ names a user of this machine
        machine = None if machine.endswith(("@", "@.host")) else machine
    lingers = "--no-block" in options
    if verb in _SHUTDOWNS or (verb == "exit" and kind == "systemd-user"):
        if "--when" in options:
            return None  # logind does it, at a time that may be a day away
        kind = "shutdown" if machine is None and verb != "exit" else kind
        return Request(tool, kind, verb, everything=True, lingers=True, machine=machine)
    if verb in _ISOLATES:
        return Request(tool, kind, verb, everything=True, lingers=lingers, machine=machine)
    if verb in ("disable", "mask") and "--now" in options:
        verb = f"{verb} --now"
    elif verb in ("start", "enable", "reenable") and (verb == "start" or "--now" in options):
        return Request(tool, kind, verb, names, starts=True, machine=machine)
    elif verb not in _STOPS | _RELOADS | {"kill"}:
        return None
    signo = None
    if verb == "kill":
        signo = signal_of(option(options, "-s", "--signal"), SIGTERM)
    return Request(tool, kind, verb, names, signo=signo, lingers=lingers, machine=machine)


def _service(tool: str, args: Sequence[str]) -> Request | None:
    words = [word for word in args if not word.startswith("-")]
    if len(words) == 1 and "--full-restart" in args:
        words.append("restart")
    if len(words) < 2:
        return None
    name, verb = words[0], words[1]
    if verb == "start":
        return Request(tool, "systemd", verb, (name,), starts=True)
    known = verb in _STOPS | _RELOADS
    return Request(tool, "systemd", verb, (name,)) if known else None


def _rc_service(tool: str, args: Sequence[str]) -> Request | None:
    return _service(tool, [word for word in args if not word.startswith("-")])


def _loginctl(tool: str, args: Sequence[str]) -> Request | None:
    valued = word_set("-p --property -P -s --signal --kill-whom --kill-who -H --host -M")
    words, options = split(args, valued)
    if not words or "-H" in options or "--host" in options:
        return None
    verb = words[0]
    signo = None
    if verb in ("kill-session", "kill-user"):
        signo = signal_of(option(options, "-s", "--signal"), SIGTERM)
    elif verb in _SHUTDOWNS:
        return Request(tool, "shutdown", verb, everything=True, lingers=True)
    elif verb not in ("terminate-session", "terminate-user", "terminate-seat"):
        return None
    # Without a name these mean the caller's own; a seat's sessions are not known here.
    everything = verb == "terminate-seat"
    return Request(tool, "session", verb, tuple(words[1:]), everything, signo, lingers=True)


def _machinectl(tool: str, args: Sequence[str]) -> Request | None:
    valued = word_set("-p --property -P -s --signal --kill-whom --kill-who -H --host -M")
    words, options = split(args, valued)
    if len(words) < 2 or "-H" in options or "--host" in options:
        return None
    verb, names = words[0], tuple(words[1:])
    if verb == "kill":
        signo = signal_of(option(options, "-s", "--signal"), SIGTERM)
        return Request(tool, "machine", verb, names, signo=signo)
    if verb == "start":
        return Request(tool, "machine", verb, names, starts=True)
    if verb in ("terminate", "poweroff", "reboot", "stop", "restart", "remove"):
        return Request(tool, "machine", verb, names, lingers=True)
    return None


def _shutdown(tool: str, args: Sequence[str]) -> Request | None:
    words, options = split(args, frozenset())
    if {"-c", "-k", "--help", "--show"} & set(options):
        return None
    when = words[0] if words else "+1"
    if when in ("now", "+0", "0"):
        delay_s = 0.0
    elif re.fullmatch(r"\+?\d{1,6}", when):
        delay_s = float(when) * 60
    else:
        return None  # hh:mm: hours may pass, and the command line with them
    return Request(tool, "shutdown", tool, everything=True, delay_s=delay_s, lingers=True)


def _reboot(tool: str, args: Sequence[str]) -> Request | None:
    _, options = split(args, frozenset())
    if {"-w", "--wtmp-only", "--help"} & set(options):
        return None
    return Request(tool, "shutdown", tool, everything=True, lingers=True)


def _init(tool: str, args: Sequence[str]) -> Request | None:
    words, _ = split(args, frozenset({"-t"}))
    if len(words) != 1 or words[0] not in ("0", "1", "6", "s", "S"):
        return None
    return Request(tool, "shutdown", f"{tool} {words[0]}", everything=True, lingers=True)


# --- supervisors -------------------------------------------------------------------------------


def _supervisorctl(tool: str, args: Sequence[str]) -> Request | None:
    valued = word_set(
        "-c --configuration -s --serverurl -u --username -p --password -r --history-file"
    )
    words, _ = split(args, valued)
    if not words:
        return None
    verb, names = words[0], words[1:]
    if verb in ("shutdown", "reload"):
        return Request(tool, "supervisord", verb, everything=True, lingers=True)
    signo = None
    if verb == "signal" and names:
        signo, names = signal_of(names[0], None), names[1:]
    elif verb == "start":
        return Request(tool, "supervisord", verb, tuple(names), "all" in names, starts=True)
    elif verb not in ("stop", "restart", "update", "remove"):
        return None
    # A group's programs are GROUP:NAME, or GROUP:* for all of them.
    plain = tuple(name.rpartition(":")[2] for name in names)
    return Request(tool, "supervisord", verb, plain, "all" in names, signo)


# sv(8): of these, the first letter is enough; the LSB words below must be whole.
_SV_SIGNALS = {"hup": 1, "interrupt": 2, "quit": 3, "kill": SIGKILL, "1": 10, "2": 12, "alarm": 14}
_SV_SIGNALS |= {"term": SIGTERM, "t": SIGTERM, "reload": 1}
_SV_SIGNALS |= {"h": 1, "i": 2, "q": 3, "k": SIGKILL, "a": 14}
_SV_STOPS = word_set(
    "down d exit e x stop shutdown restart try-restart force-stop force-shutdown force-restart"
    " force-reload"
)


def _sv(tool: str, args: Sequence[str]) -> Request | None:
    words, _ = split(args, frozenset({"-w"}))
    if len(words) < 2:
        return None
    verb, names = words[0], tuple(base_name(word.rstrip("/")) for word in words[1:])
    if verb in ("up", "u", "start", "once", "o"):
        return Request(tool, "runit", verb, names, starts=True)
    if verb in _SV_STOPS or verb in _SV_SIGNALS:
        return Request(tool, "runit", verb, names, signo=_SV_SIGNALS.get(verb), lingers=True)
    return None


_S6_SIGNALS = {"-h": 1, "-i": 2, "-q": 3, "-k": SIGKILL, "-t": SIGTERM, "-a": 14, "-1": 10}
_S6_SIGNALS |= {"-2": 12}


def _s6(tool: str, args: Sequence[str]) -> Request | None:
    words, options = split(args, frozenset({"-T", "-s"}))
    names = tuple(base_name(word.rstrip("/")) for word in words)
    if {"-d", "-D", "-r", "-x"} & set(options):
        return Request(tool, "s6", "down", names, lingers=True)
    if "-u" in options or "-U" in options:
        return Request(tool, "s6", "up", names, starts=True)
    for letter, signo in _S6_SIGNALS.items():
        if letter in options:
            return Request(tool, "s6", letter, names, signo=signo, lingers=True)
    return None


_READERS: Mapping[str, Callable[[str, Sequence[str]], Request | None]] = {
    "systemctl": _systemctl,
    "service": _service,
    "invoke-rc.d": _service,
    "rc-service": _rc_service,
    "loginctl": _loginctl,
    "machinectl": _machinectl,
    "shutdown": _shutdown,
    "reboot": _reboot,
    "poweroff": _reboot,
    "halt": _reboot,
    "init": _init,
    "telinit": _init,
    "docker": container_commands.docker,
    "podman": container_commands.docker,
    "podman-remote": container_commands.docker,
    "nerdctl": container_commands.docker,
    "docker-compose": container_commands.compose,
    "podman-compose": container_commands.compose,
    "crictl": container_commands.crictl,
    "ctr": container_commands.crictl,
    "runc": container_commands.runc,
    "crun": container_commands.runc,
    "kubectl": container_commands.kubectl,
    "oc": container_commands.kubectl,
    "k3s": container_commands.kubectl,
    "microk8s": container_commands.kubectl,
    "supervisorctl": _supervisorctl,
    "sv": _sv,
    "s6-svc": _s6,
}

_NAMES = {name.encode() for name in _READERS}


def may_ask(beginning: bytes) -> bool:
    """Whether a command line, arguments apart by NUL, may be a request, by its first word alone."""
    name = beginning.partition(b"\0")[0].rpartition(b"/")[2]
    return name in _NAMES or INTERPRETER.fullmatch(name.decode("latin-1")) is not None
