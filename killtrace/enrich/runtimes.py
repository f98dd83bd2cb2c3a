"""The state files of container runtimes, one small reader for each kind.

A file that is missing, half written or of another form gives None: runtimes write them while
killtrace reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Details:
    """What a runtime's files tell of one container; `runtime` where they tell that too."""

    runtime: str | None = None
    name: str | None = None
    image: str | None = None
    pod: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Folders:
    """Where the runtimes keep their state, the usual places first."""

    docker: tuple[Path, ...]
    containerd: tuple[Path, ...]
    storage: tuple[Path, ...]


_DOCKER = ("var/lib/docker", "var/snap/docker/common/var-lib-docker")
# io.containerd.runtime.v2.task is the shim's state folder since containerd 1.2.
_TASKS = "io.containerd.runtime.v2.task"
_CONTAINERD = (
    "run/containerd",
    "run/k3s/containerd",
    "run/rke2/containerd",
    "var/snap/microk8s/common/run/containerd",
    "run/docker/containerd/daemon",
)
_STORAGE = ("var/lib/containers/storage", "run/containers/storage")


def folders(root: Path, home: Path | None) -> Folders:
    """Every place to look in; `home`, if given, is the user's of a rootless container."""
    docker = [root / name for name in _DOCKER]
    configured = _load(root / "etc/docker/daemon.json").get("data-root")
    if isinstance(configured, str):
        docker.insert(0, root / configured.lstrip("/"))
    storage = [root / name for name in _STORAGE]
    if home is not None:
        share = root / str(home).lstrip("/") / ".local/share"
        docker.insert(0, share / "docker")
        storage.insert(0, share / "containers/storage")
    return Folders(
        docker=tuple(folder / "containers" for folder in docker),
        containerd=tuple(root / name / _TASKS for name in _CONTAINERD),
        storage=tuple(storage),
    )


def merged(one: Details | None, other: Details | None) -> Details | None:
    """The first one's fields, completed from the other."""
    if one is None or other is None:
        return one or other
    return Details(**{key: value or getattr(other, key) for key, value in vars(one).items()})


def listed(folder: Path) -> list[Path]:
    """The folder's entries, or none if it is not there."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def docker(folder: Path, ident: str) -> Details | None:
    """Docker's config.v2.json; `folder` is DATA-ROOT/containers."""
    data = _load(folder / ident / "config.v2.json")
    if not data:
        return None
    config = _mapping(data.get("Config"))
    labels = _mapping(config.get("Labels"))
    kubernetes = _kubernetes(labels)
    name = _text(data.get("Name"))
    return Details(
        runtime="docker",
        name=kubernetes.name or (name.lstrip("/") if name else None),
        image=_text(config.get("Image")),
        pod=kubernetes.pod,
        namespace=kubernetes.namespace,
    )


def containerd(folder: Path, ident: str) -> Details | None:
    """The OCI bundle of a running containerd task; `folder` holds one folder a namespace."""
    for namespace in listed(folder):
        spec = namespace / ident / "config.json"
        if spec.exists():
            # Docker runs its containers through containerd, in a namespace of its own.
            runtime = "docker" if namespace.name == "moby" else "containerd"
            return oci_spec(spec, runtime) or Details(runtime)
    return None


def oci_spec(path: Path, runtime: str | None) -> Details | None:
    """An OCI config.json: what CRI plugins, CRI-O and nerdctl write in its annotations."""
    notes = _mapping(_load(path).get("annotations"))
    kubernetes = _kubernetes(notes)
    sandbox = notes.get("io.kubernetes.cri.container-type") == "sandbox"
    name = (
        kubernetes.name
        or _text(notes.get("io.kubernetes.cri.container-name"))
        or _text(notes.get("nerdctl/name"))
        or ("POD" if sandbox else None)  # the pause container, as the kubelet calls it
    )
    image = _first(
        notes,
        "io.kubernetes.cri.image-name",
        "io.kubernetes.cri-o.ImageName",
        "io.kubernetes.cri-o.Image",
    )
    found = Details(
        runtime=runtime,
        name=name,
        image=image,
        pod=kubernetes.pod or _text(notes.get("io.kubernetes.cri.sandbox-name")),
        namespace=kubernetes.namespace or _text(notes.get("io.kubernetes.cri.sandbox-namespace")),
    )
    return found if found != Details(runtime) else None


def storage_lists(folder: Path) -> Iterator[Path]:
    """The container lists of a containers/storage folder: one for each storage driver."""
    for entry in listed(folder):
        if entry.name.endswith("-containers"):
            yield entry / "containers.json"
            yield entry / "volatile-containers.json"  # podman run --rm


def storage(path: Path) -> dict[str, Details]:
    """A containers.json of containers/storage, which Podman and CRI-O share."""
    found = {}
    for entry in _load_list(path):
        ident = _text(entry.get("id"))
        if ident is None:
            continue
        names = entry.get("names")
        name = names[0] if isinstance(names, list) and names else None
        meta = _parse(_text(entry.get("metadata")) or "{}")
        crio = bool(meta.get("pod-id"))
        found[ident] = Details(
            runtime="cri-o" if crio else "podman",
            # CRI-O makes its own long name of pod, container and attempt: the short one is users'.
            name=_text(meta.get("metadata-name")) if crio else _text(name),
            image=_text(meta.get("image-name")),
            pod=_text(meta.get("pod-name")) if crio else None,
            namespace=_text(meta.get("namespace")) if crio else None,
        )
    return found


def container_log(folder: Path, ident: str) -> Details | None:
    """By the kubelet's link POD_NAMESPACE_CONTAINER-ID.log in /var/log/containers."""
    suffix = f"-{ident}.log"
    for path in listed(folder):
        if path.name.endswith(suffix):
            fields = path.name.removesuffix(suffix).split("_")
            if len(fields) == 3:
                return Details(pod=fields[0], namespace=fields[1], name=fields[2])
    return None


def pod_log(folder: Path, pod_uid: str) -> Details | None:
    """By the kubelet's folder NAMESPACE_POD_UID in /var/log/pods, with one folder a container."""
    for path in listed(folder):
        fields = path.name.split("_")
        if len(fields) == 3 and fields[2] == pod_uid:
            containers = listed(path)
            only = containers[0].name if len(containers) == 1 else None
            return Details(namespace=fields[0], pod=fields[1], name=only)
    return None


def _kubernetes(labels: Mapping[str, Any]) -> Details:
    return Details(
        name=_text(labels.get("io.kubernetes.container.name")),
        pod=_text(labels.get("io.kubernetes.pod.name")),
        namespace=_text(labels.get("io.kubernetes.pod.namespace")),
    )


def _first(values: Mapping[str, Any], *keys: str) -> str | None:
    return next((found for key in keys if (found := _text(values.get(key)))), None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _parse(content: str) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(content))
    except ValueError:
        return {}


def _load(path: Path) -> Mapping[str, Any]:
    try:
        return _parse(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _load_list(path: Path) -> list[Mapping[str, Any]]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
