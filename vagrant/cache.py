"""Downloads and built images, kept outside the checkout and keyed by what they are made of."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """$XDG_CACHE_HOME/killtrace, else root's /var/cache/killtrace; made if it is not there."""
    usual = "/var/cache" if os.geteuid() == 0 else str(Path.home() / ".cache")
    base = os.environ.get("XDG_CACHE_HOME") or usual
    path = Path(base) / "killtrace"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(*parts: str) -> str:
    """Twelve characters that stand for what an image is made of."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def made(name: str, make: Callable[[Path], None]) -> Path:
    """The cached file or folder `name`; `make` builds it where it is missing.

    It appears under its name only when it is whole: an interrupted build leaves nothing behind.
    """
    target = folder() / name
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder(), prefix="making-") as work:
        part = Path(work) / "part"
        make(part)
        shutil.move(part, target)
    return target
