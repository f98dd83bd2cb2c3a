"""What a cgroup path says: the systemd unit, the container, the Kubernetes pod.  Pure.

Unit names follow systemd's own reading of a path (cg_path_get_unit and cg_path_get_user_unit in
its src/basic/cgroup-util.c) and keep systemd's escaping.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from killtrace.model import Container


@dataclass(frozen=True)
class Place:
    """Where a cgroup path is: unit, container, pod, and the user whose slice it is in."""

    unit: str | None = None
    container: Container | None = None
    pod_uid: str | None = None
    owner_uid: int | None = None


# The unit types that have processes (systemd.unit(5)); a slice only holds other units.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap)")
_SLICE = re.compile(r"(?:-|[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*)\.slice")
_USER_MANAGER = re.compile(r"user@(\d+)\.service")
_USER_SLICE = re.compile(r"user-(\d+)\.slice")
_ESCAPE = re.compile(r"\\x([0-9A-Fa-f]{2})")
_UNIT_NAME_MAX = 256

_ID = r"([0-9a-f]{12,64})"
# Names that tell the runtime by themselves, in whichever folder they are.
_NAMED_CONTAINERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"docker-{_ID}\.scope"), "docker"),
    (re.compile(rf"cri-containerd-{_ID}(?:\.scope)?"), "containerd"),
    (re.compile(rf"nerdctl-{_ID}(?:\.scope)?"), "containerd"),
    (re.compile(rf"crio-{_ID}(?:\.scope)?"), "cri-o"),
    (re.compile(rf"libpod-(?:payload-)?{_ID}(?:\.scope)?"), "podman"),
    # A runtime told to use cgroupfs, but given systemd's "slice:prefix:name" notation.
    (re.compile(rf"[^/:]*:cri-containerd:{_ID}"), "containerd"),
    (re.compile(rf"[^/:]*:docker:{_ID}"), "docker"),
    (re.compile(rf"[^/:]*:crio:{_ID}"), "cri-o"),
    (re.compile(rf"[^/:]*:libpod:{_ID}"), "podman"),
)
# A bare id whose folder tells no runtime: what it is by the OCI's definition, till files tell more.
UNKNOWN_RUNTIME = "oci"
_BARE_ID = re.compile(r"[0-9a-f]{64}")
# Folders whose bare 64-digit children are containers.  Kubernetes: CRI-O writes its own prefix
# with either driver, so a bare id is containerd's; Containers corrects it where Docker has the id.
_PARENTS = {
    "docker": "docker",
    "ecs": "docker",
    "libpod_parent": "podman",
    "default": "containerd",
    "k8s.io": "containerd",
}

# Sides of a container that are no part of it: the monitor, conmon, nspawn's own process.
_OUTSIDE = re.compile(r"(?:libpod|crio)-conmon-.*|lxc\.monitor(?:\..*)?|conmon")
_LXC_PAYLOAD = re.compile(r"lxc\.payload\.(.+)")
_LXC_PARENTS = {"lxc", "lxc.payload"}
_MACHINE = re.compile(r"machine-(.+)\.scope")
_NSPAWN_SERVICE = re.compile(r"systemd-nspawn@(.+)\.service")
_LIBVIRT_VM = re.compile(r"qemu-\d+-.*")
_LIBVIRT_LXC = re.compile(r"lxc-\d+-(.*)")
# Sub-cgroups that a runtime or a container's own systemd puts between it and the units inside.
_INNER = {"payload", "container", "ns", ".lxc"}

_POD_UID = (
    r"([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})"
)
_POD_SLICE = re.compile(rf"(?:.*-)?kubepods(?:-[a-z]+)?-pod{_POD_UID}\.slice(?::.*)?")
_POD_FOLDER = re.compile(rf"pod{_POD_UID}")


@lru_cache(maxsize=1024)
def place(path: str) -> Place:
    """Read a cgroup path, as /proc/PID/cgroup has it, whichever hierarchy it is from.

    In a container that runs its own systemd, the unit is that systemd's; a user's unit comes
    before the user's manager, user@UID.service.  The innermost container counts.
    """
    parts = [part for part in path.split("/") if part and part != ".."]
    found = _innermost_container(parts)
    pod_uid = _last(parts, _pod_uid)
    owner_text = _last(parts, _owner_uid)
    owner = None if owner_text is None else int(owner_text)
    if found is None:
        return Place(_unit(parts), None, pod_uid, owner)
    container, at = found
    outer = _unit(parts[: at + 1])
    inner_parts = parts[at + 1 :]
    while inner_parts and inner_parts[0] in _INNER:
        inner_parts = inner_parts[1:]
    inner = _unit(inner_parts)
    # A container's PID 1 sits in its own init.scope: the outer unit is the better name.
    unit = outer if inner is None or (inner == "init.scope" and outer) else inner
    return Place(unit, container, pod_uid, owner)


def unescape(name: str) -> str:
    r"""Undo systemd's escaping of a name: `-` is /, `\x2d` is - (unit_name_unescape)."""
    raw = bytearray()
    rest = name.replace("-", "/")
    position = 0
    for match in _ESCAPE.finditer(rest):
        raw += rest[position : match.start()].encode("utf-8", "surrogateescape")
        raw.append(int(match[1], 16))
        position = match.end()
    raw += rest[position:].encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "surrogateescape")


def _last(parts: Sequence[str], read: Callable[[str], str | None]) -> str | None:
    return next((found for part in reversed(parts) if (found := read(part)) is not None), None)


def _pod_uid(part: str) -> str | None:
    match = _POD_SLICE.fullmatch(part) or _POD_FOLDER.fullmatch(part)
    return match[1].replace("_", "-") if match else None


def _owner_uid(part: str) -> str | None:
    match = _USER_SLICE.fullmatch(part) or _USER_MANAGER.fullmatch(part)
    return match[1] if match else None


def _is_unit(part: str) -> bool:
    if len(part) >= _UNIT_NAME_MAX or not _UNIT.fullmatch(part):
        return False
    prefix, at, instance = part.rpartition(".")[0].partition("@")
    return bool(prefix) and not (at and not instance)  # foo@.service is a template, never started


def _is_slice(part: str) -> bool:
    return len(part) < _UNIT_NAME_MAX and _SLICE.fullmatch(part) is not None


def _unit(parts: Sequence[str]) -> str | None:
    """The first part after the leading slices, and for a user's manager what comes after that."""
    # cg_unescape: systemd puts "_" before a name that the kernel's own files could have.
    plain = [part[1:] if part.startswith("_") else part for part in parts]
    at = next((n for n, part in enumerate(plain) if not _is_slice(part)), len(plain))
    if at == len(plain) or not _is_unit(plain[at]):
        return None
    unit = plain[at]
    if _USER_MANAGER.fullmatch(unit):
        own = _unit(parts[at + 1 :])
        return unit if own is None or own == "init.scope" else own
    return unit


def _innermost_container(parts: Sequence[str]) -> tuple[Container, int] | None:
    """The container nearest to the process, with the index of the part that names it."""
    for at in range(len(parts) - 1, -1, -1):
        part, parent = parts[at], parts[at - 1] if at else ""
        if _OUTSIDE.fullmatch(part):
            return None
        found = _by_name(part) or _by_parent(part, parent, parts[:at]) or _machine(part)
        if found is None:
            continue
        # nspawn and podman's split mode keep their own process in the sibling `supervisor`.
        if found.runtime == "systemd-nspawn" and parts[at + 1 : at + 2] == ["supervisor"]:
            return None
        return found, at
    return None


def _by_name(part: str) -> Container | None:
    for pattern, runtime in _NAMED_CONTAINERS:
        if match := pattern.fullmatch(part):
            return Container(runtime, match[1])
    if match := _LXC_PAYLOAD.fullmatch(part):
        return Container("lxc", match[1], match[1])
    return None


def _by_parent(part: str, parent: str, above: Sequence[str]) -> Container | None:
    if parent in _LXC_PARENTS:
        return Container("lxc", part, part)
    if not _BARE_ID.fullmatch(part):
        return None
    if _pod_uid(parent) is not None:
        return Container("containerd", part)
    grandparent = above[-2] if len(above) > 1 else ""
    runtime = _PARENTS.get(parent) or _PARENTS.get(grandparent)
    return Container(runtime or UNKNOWN_RUNTIME, part)


def _machine(part: str) -> Container | None:
    if match := _NSPAWN_SERVICE.fullmatch(part):
        return Container("systemd-nspawn", match[1], match[1])
    match = _MACHINE.fullmatch(part)
    if match is None:
        return None
    name = unescape(match[1])
    if _LIBVIRT_VM.fullmatch(name):  # machined registers virtual machines too
        return None
    if libvirt := _LIBVIRT_LXC.fullmatch(name):
        return Container("libvirt-lxc", libvirt[1], libvirt[1])
    return Container("systemd-nspawn", name, name)
