"""Finds the distribution's bcc, from its own Python or from any virtual environment.

PyPI has a package of the same name that has nothing to do with it.  The real one is pure Python
over libbcc.so, so any interpreter can use it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from killtrace.errors import UnsupportedError

_PACKAGES = (
    (("debian", "ubuntu"), "python3-bpfcc", "apt-get install python3-bpfcc"),
    (("fedora", "rhel", "centos", "suse"), "python3-bcc", "dnf install python3-bcc"),
    (("arch",), "python-bcc", "pacman -S python-bcc"),
    (("alpine",), "py3-bcc", "apk add py3-bcc"),
)


def distribution_packages(root: Path = Path("/")) -> Iterator[Path]:
    """Where distributions put Python packages, most likely first."""
    yield root / "usr/lib/python3/dist-packages"
    for lib in ("usr/lib", "usr/lib64"):
        for folder in sorted((root / lib).glob("python3.*"), reverse=True):
            yield folder / "site-packages"
            yield folder / "dist-packages"


def is_iovisor(package: Path) -> bool:
    """Whether a folder named bcc is iovisor's: it binds libbcc, the unrelated one does not."""
    return (package / "__init__.py").is_file() and (package / "libbcc.py").is_file()


def load(folders: Iterable[Path] | None = None) -> ModuleType:
    """Import iovisor's bcc; UnsupportedError (69) names the right package where there is none."""
    loaded = sys.modules.get("bcc")
    if loaded is not None and hasattr(loaded, "BPF"):
        return loaded
    unrelated: Path | None = None
    for folder in [*(distribution_packages() if folders is None else folders), *_search_path()]:
        package = folder / "bcc"
        if is_iovisor(package):
            return _import(package)
        if (package / "__init__.py").is_file():
            unrelated = package
    if unrelated is not None:
        what = f"the Python package bcc at {unrelated} is not iovisor's bcc"
    else:
        what = "the Python package bcc (iovisor's BPF Compiler Collection) is not installed"
    raise UnsupportedError(what, f"install it: {install_hint()}")


def _search_path() -> Iterator[Path]:
    return (Path(entry or ".") for entry in sys.path)


def _import(package: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "bcc", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        del sys.modules["bcc"]
        raise UnsupportedError(
            f"bcc does not load ({error})", f"mend it: {install_hint()}"
        ) from error
    return module


def install_hint(os_release: Path = Path("/etc/os-release")) -> str:
    """The command that installs bcc on this distribution (os-release(5): ID and ID_LIKE)."""
    words: set[str] = set()
    try:
        for line in os_release.read_text().splitlines():
            key, _, value = line.partition("=")
            if key in ("ID", "ID_LIKE"):
                words.update(value.strip('"').split())
    except OSError:
        pass
    for names, _, command in _PACKAGES:
        if words & set(names):
            return command
    return "the distribution's package python3-bpfcc or python3-bcc"
