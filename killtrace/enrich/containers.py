"""Names, images and pods of containers, from the files that their runtimes keep on the node.

No daemon is asked and no API called.  What was learned once is kept: a container that is removed
a moment after the kill is still named.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from killtrace.enrich import runtimes
from killtrace.enrich.cgroup import UNKNOWN_RUNTIME, Place
from killtrace.enrich.runtimes import Details
from killtrace.model import Container

_KEEP = 8192
_MISS_S = 2.0


class Containers:
    """Describes containers by what is on disk under `root`; `home` gives a user's home folder."""

    def __init__(
        self,
        root: Path = Path("/"),
        home: Callable[[int], Path | None] = lambda uid: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._home = home
        self._monotonic = monotonic
        self._known: OrderedDict[str, Details] = OrderedDict()
        self._missed: dict[str, float] = {}
        self._stores: dict[Path, tuple[int, dict[str, Details]]] = {}

    def warm(self) -> None:
        """Learn every container that the machine's runtimes have now (not the users' own)."""
        for ident, details in self._listed():
            self._keep(ident, details)

    def describe(self, place: Place) -> Container | None:
        """The place's container with all that is known of it; None where it is in none."""
        container = place.container
        if container is None or container.id is None or container.name is not None:
            return container  # LXC and nspawn: the path carries the name
        details = self._details(container.id, container.runtime, place)
        if details is None:
            return container
        return replace(
            container,
            runtime=details.runtime or container.runtime,
            name=details.name,
            image=details.image,
            pod=details.pod,
            namespace=details.namespace,
        )

    def _details(self, ident: str, runtime: str, place: Place) -> Details | None:
        if ident in self._known:
            self._known.move_to_end(ident)
            return self._known[ident]
        now = self._monotonic()
        if now < self._missed.get(ident, 0.0):
            return None
        found = self._look(ident, runtime, place.owner_uid)
        if found is None or found.pod is None:
            found = runtimes.merged(found, self._pod(ident, place.pod_uid))
        if found is None:
            if len(self._missed) >= _KEEP:
                self._missed.clear()
            self._missed[ident] = now + _MISS_S
            return None
        self._keep(ident, found)
        return found

    def _keep(self, ident: str, details: Details) -> None:
        self._known[ident] = details
        self._known.move_to_end(ident)
        while len(self._known) > _KEEP:
            self._known.popitem(last=False)

    def _look(self, ident: str, runtime: str, owner_uid: int | None) -> Details | None:
        home = self._home(owner_uid) if owner_uid else None
        folders = runtimes.folders(self._root, home)
        by_runtime: dict[str, Callable[[], Details | None]] = {
            "docker": lambda: self._first(folders.docker, runtimes.docker, ident),
            "containerd": lambda: self._first(folders.containerd, runtimes.containerd, ident),
            "podman": lambda: self._stored(folders.storage, ident),
            "cri-o": lambda: self._stored(folders.storage, ident),
        }
        asked = by_runtime.get(runtime)
        if asked is not None and (found := asked()) is not None:
            return found
        if runtime not in ("containerd", UNKNOWN_RUNTIME):
            return None
        # A bare id in a pod may be Docker's as well, and elsewhere anyone's.
        others = (look for name, look in by_runtime.items() if name != runtime)
        return next((found for look in others if (found := look()) is not None), None)

    def _first(
        self,
        folders: tuple[Path, ...],
        read: Callable[[Path, str], Details | None],
        ident: str,
    ) -> Details | None:
        return next((found for folder in folders if (found := read(folder, ident))), None)

    def _stored(self, folders: tuple[Path, ...], ident: str) -> Details | None:
        for folder in folders:
            for path in runtimes.storage_lists(folder):
                if (found := self._store(path).get(ident)) is not None:
                    spec = path.parent / ident / "userdata" / "config.json"
                    return runtimes.merged(found, runtimes.oci_spec(spec, found.runtime))
        return None

    def _store(self, path: Path) -> dict[str, Details]:
        """One containers.json, parsed again only when it has changed."""
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            return {}
        kept = self._stores.get(path)
        if kept is None or kept[0] != stamp:
            kept = (stamp, runtimes.storage(path))
            self._stores[path] = kept
        return kept[1]

    def _pod(self, ident: str, pod_uid: str | None) -> Details | None:
        logs = self._root / "var/log"
        by_container = runtimes.container_log(logs / "containers", ident)
        if by_container is not None or pod_uid is None:
            return by_container
        return runtimes.pod_log(logs / "pods", pod_uid)

    def _listed(self) -> Iterator[tuple[str, Details]]:
        folders = runtimes.folders(self._root, None)
        for folder in folders.docker:
            for path in runtimes.listed(folder):
                if (found := runtimes.docker(folder, path.name)) is not None:
                    yield path.name, found
        for state in folders.containerd:
            for namespace in runtimes.listed(state):
                for path in runtimes.listed(namespace):
                    if (found := runtimes.containerd(state, path.name)) is not None:
                        yield path.name, found
        for folder in folders.storage:
            for path in runtimes.storage_lists(folder):
                yield from self._store(path).items()
