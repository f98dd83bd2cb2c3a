"""Who asked: the process behind a signal that a service manager or a runtime sent.  Pure.

`systemctl stop nginx` asks systemd over a socket, and systemd sends the signal: the kernel sees
systemd alone.  What was executed just before tells who asked, if its command line names the very
unit or container that was hit.  That is evidence and no proof: `certain` is False then.  Where the
asking process is an ancestor of the sender, it is proven.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from killtrace import commands
from killtrace.command_line import Request, base_name, program, word_set
from killtrace.model import Ancestor, Process

_S = 1_000_000_000
# After a command has ended, what it asked for is over, but for what is on its way.
_GONE_NS = 10 * _S
# A stop may first run ExecStop= for as long as this (DefaultTimeoutStopSec=, systemd-system.conf);
# the process is there to be hit for as long as the stop is not over.
_STOP_NS = 100 * _S
_SHUTDOWN_NS = 300 * _S


@dataclass(frozen=True)
class Execution:
    """One process as it was executed; times are boot time, `exec_time_ns` 0: before tracing."""

    pid: int
    start_time_ns: int
    exec_time_ns: int
    ppid: int
    uid: int | None
    exe: str | None
    cmdline: tuple[str, ...]
    cmdline_cut: bool = False


@dataclass(frozen=True)
class Proxy:
    """What a sender is, if it sends on behalf of others; `via` names it, `kinds` what it obeys."""

    via: str
    kinds: frozenset[str]


@dataclass(frozen=True)
class Requester:
    """Who asked, with what; an ancestor of the sender, or one of the processes executed before."""

    request: Request | None
    via: str
    certain: bool
    execution: Execution | None = None
    ancestor: Ancestor | None = None


_CONTAINERS = frozenset({"container", "pod"})
_SYSTEMD = Proxy("systemd", frozenset({"systemd", "session", "machine", "shutdown"}) | _CONTAINERS)
_USER_MANAGER = Proxy("systemd --user", frozenset({"systemd-user", "session", "shutdown"}))
_OBEYS = {
    "systemd-logind": {"session", "shutdown"},
    "systemd-machined": {"machine"},
    "systemd-shutdown": {"shutdown"},
    "supervisord": {"supervisord"},
    "runsv": {"runit"},
    "s6-supervise": {"s6"},
    "start-stop-daemon": {"systemd"},
}
_OBEYS |= {
    name: set(_CONTAINERS)
    for name in word_set("dockerd containerd containerd-shim conmon runc crun podman crio kubelet")
}
# By the 15 characters that the kernel keeps of a name; what follows in a shim's is its version.
_PROXIES = {name[:15]: Proxy(name, frozenset(kinds)) for name, kinds in _OBEYS.items()}
_SERVICE_SCRIPTS = {"service", "invoke-rc.d", "rc-service"}
# Programs that send what somebody typed, and those under which one types as somebody else.
TOOLS = word_set("kill pkill killall killall5 skill snice fuser xkill htop top")
_SHELLS = word_set("sh bash dash zsh ksh fish ash")
BECOMES = word_set("sudo sudo-rs su doas pkexec runuser")


def proxy(sender: Process) -> Proxy | None:
    """What kind of proxy a sender is, or None: it acts for itself."""
    if is_systemd(sender):
        if sender.pid == 1 or sender.ns_pid == 1:
            return _SYSTEMD
        return _USER_MANAGER
    name, _ = program(sender.cmdline or ())
    for known in (name, sender.comm or ""):
        found = _PROXIES.get(known[:15])
        if found is not None:
            return found
    if _runs_for_systemd(sender):
        return Proxy("systemd", frozenset({"systemd"}))
    return None


def is_systemd(sender: Process) -> bool:
    """Whether a process is a systemd manager, the system's or a user's."""
    name = base_name(sender.exe or (sender.cmdline or ("",))[0])
    return name == "systemd" or (sender.comm == "systemd" and name in ("init", ""))


def _runs_for_systemd(sender: Process) -> bool:
    """ExecReload=/bin/kill -HUP $MAINPID: a tool that systemd itself started."""
    name, _ = program(sender.cmdline or ())
    return name in TOOLS and sender.unit is not None and sender.ppid == 1


def find(
    sender: Process,
    target: Process,
    signo: int,
    time_ns: int,
    executions: Iterable[Execution],
    runs: Callable[[Execution], bool] = lambda _: False,
) -> Requester | None:
    """Who asked `sender` for a signal to `target`, or None where nothing tells.

    `time_ns` is the signal's boot time; `runs`: whether an execution's process is still there.
    """
    what = proxy(sender)
    if what is None:
        return _typed_as_another(sender)
    above = _among_ancestors(what, sender, target, signo)
    if above is not None:
        return above
    latest_first = sorted(executions, key=lambda execution: -execution.exec_time_ns)
    unnamed = []
    for execution in latest_first:
        request = _request(execution, what, sender, signo, time_ns)
        if request is None or execution.pid == target.pid:
            continue
        named = reaches(request, sender, target)
        if named and request.starts:
            return None  # what was asked before is over: it has been started since
        if request.starts or not _in_time(request, execution, time_ns, runs):
            continue
        found = Requester(request, what.via, False, execution=execution)
        if named:
            return found
        if request.kind == "supervisord":
            unnamed.append(found)
    # supervisord's programs do not bear their names; it signals none unless it is asked to.
    return unnamed[0] if len(unnamed) == 1 else None


def _request(
    execution: Execution,
    what: Proxy,
    sender: Process,
    signo: int,
    time_ns: int,
) -> Request | None:
    if execution.exec_time_ns > time_ns or execution.pid == sender.pid:
        return None
    request = commands.parse(execution.cmdline)
    if request is None or request.kind not in what.kinds:
        return None
    if request.kind == "systemd-user" and execution.uid != sender.uid:
        return None
    if request.verb == "reload" and not _runs_for_systemd(sender):
        return None
    return request if request.signo in (None, signo) else None


def _in_time(
    request: Request, execution: Execution, time_ns: int, runs: Callable[[Execution], bool]
) -> bool:
    age_ns = time_ns - execution.exec_time_ns - int(request.delay_s * _S)
    if age_ns < 0:
        return False
    if request.kind == "shutdown":
        return age_ns <= _SHUTDOWN_NS
    ends = request.verb.startswith(("stop", "down", "rm", "remove", "delete", "disable", "mask"))
    window_ns = _STOP_NS if ends or request.lingers else _GONE_NS
    return (execution.exec_time_ns > 0 and age_ns <= window_ns) or runs(execution)


def _among_ancestors(what: Proxy, sender: Process, target: Process, signo: int) -> Requester | None:
    """`podman stop web` runs `crun kill ID`: the farthest ancestor that asked is who began it."""
    own = commands.parse(sender.cmdline or ())
    told = own is not None and reaches(own, sender, target)
    found = None
    for step in sender.ancestors:
        request = commands.parse(step.cmdline or ())
        if request is None or request.starts or request.kind not in what.kinds:
            continue
        # `podman stop web` told the runtime the container's id; a script of init.d has no unit.
        named = told or request.tool in _SERVICE_SCRIPTS or reaches(request, sender, target)
        if named and request.signo in (None, signo):
            found = Requester(request, what.via, True, ancestor=step)
    return found


def _typed_as_another(sender: Process) -> Requester | None:
    """`sudo pkill x`: whoever ran sudo typed it."""
    name, _ = program(sender.cmdline or ())
    if name not in TOOLS and not (name in _SHELLS and sender.tty is not None):
        return None
    for step in sender.ancestors:
        above, _ = program(step.cmdline or ())
        if above in BECOMES:
            return Requester(None, above, True, ancestor=step)
    return None


def became(ancestors: Sequence[Ancestor]) -> Ancestor | None:
    """The nearest sudo, su or the like: its own user is who typed what runs under it."""
    for step in ancestors:
        if program(step.cmdline or ())[0] in BECOMES:
            return step
    return None


# --- whether a request is about this target ----------------------------------------------------


def reaches(request: Request, sender: Process, target: Process) -> bool:
    """Whether a request, carried out by `sender`, is about `target`."""
    if request.machine not in (None, ".host", _machine_name(sender)):
        return False
    if request.everything and _everything_reaches(request, target):
        return True
    return any(_name_reaches(request, name, target) for name in request.names)


def _machine_name(process: Process) -> str | None:
    return None if process.container is None else process.container.name


def _everything_reaches(request: Request, target: Process) -> bool:
    if request.kind in _CONTAINERS:
        return target.container is not None and _runtime_fits(request.tool, target)
    if request.kind == "session":
        return "/user.slice" in (target.cgroup or "")
    return True


def _name_reaches(request: Request, name: str, target: Process) -> bool:
    if request.kind in ("systemd", "systemd-user"):
        return _unit_reaches(name, target)
    if request.kind == "session":
        return _session_reaches(request.verb, name, target)
    if request.kind == "machine":
        return name == _machine_name(target)
    if request.kind == "container":
        return _container_reaches(request.tool, name, target)
    if request.kind == "pod":
        return _pod_reaches(name, target)
    return _supervised_reaches(name, target)


_UNIT_TYPE = re.compile(
    r"\.(?:service|socket|device|mount|automount|swap|target|path|timer|slice|scope)$"
)


def _unit_reaches(name: str, target: Process) -> bool:
    """As systemctl completes names: no type means .service, a path is a mount."""
    if "/" in name:
        return False
    full = name if _UNIT_TYPE.search(name) else f"{name}.service"
    units = {part for part in (target.cgroup or "").split("/") if part}
    if target.unit is not None:
        units.add(target.unit)
    if full.endswith(".slice") or not any(mark in full for mark in "*?["):
        return full in units
    # A glob means units, not the slices and managers above them.
    return target.unit is not None and fnmatchcase(target.unit, full)


def _session_reaches(verb: str, name: str, target: Process) -> bool:
    parts = (target.cgroup or "").split("/")
    if verb.endswith("-session"):
        return f"session-{name}.scope" in parts
    if verb.endswith("-user"):
        return any(part == f"user-{name}.slice" for part in parts) or (
            target.user == name and "user.slice" in parts
        )
    return False


_RUNTIMES = {
    "docker": {"docker"},
    "docker-compose": {"docker"},
    "podman": {"podman"},
    "podman-remote": {"podman"},
    "podman-compose": {"podman"},
    "nerdctl": {"containerd"},
    "ctr": {"containerd"},
    "crictl": {"containerd", "cri-o", "docker"},
}


def _runtime_fits(tool: str, target: Process) -> bool:
    known = _RUNTIMES.get(tool)
    runtime = None if target.container is None else target.container.runtime
    return known is None or runtime in known or runtime == "oci"


def _container_reaches(tool: str, name: str, target: Process) -> bool:
    container = target.container
    if container is None or not _runtime_fits(tool, target):
        return False
    if container.id and re.fullmatch(r"[0-9a-f]{3,64}", name) and container.id.startswith(name):
        return True
    if container.name is None:
        return False
    return container.name == name or ("*" in name and fnmatchcase(container.name, name))


def _pod_reaches(name: str, target: Process) -> bool:
    container = target.container
    if container is None or container.pod is None:
        return False
    if name.startswith("namespace/"):
        return container.namespace == name.removeprefix("namespace/")
    return fnmatchcase(container.pod, name)


def _supervised_reaches(name: str, target: Process) -> bool:
    """Whether a supervised program has this name: runsv and s6-supervise bear it as argument."""
    for step in target.ancestors[:1]:
        if program(step.cmdline or ())[0] in ("runsv", "s6-supervise"):
            return name in [base_name(word) for word in (step.cmdline or ())[1:]]
    words = [target.comm or "", *(target.cmdline or ())]
    return any(name in re.split(r"[^\w.-]+", word) for word in words)
