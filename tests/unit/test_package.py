"""What `make install` installs: all of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import machine

CHECKOUT = Path(__file__).resolve().parent.parent.parent
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "killtrace", "bpf")
_OURS = {".py", ".c", ".h", ".service"}


def _files(folder: Path, installed_as: str) -> set[str]:
    found = (path for path in folder.rglob("*") if path.suffix in _OURS)
    return {f"{installed_as}/{path.relative_to(folder)}" for path in found}


def test_the_wheel_holds_every_module_and_every_program(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in BUILT_FROM:
        path = CHECKOUT / name
        if path.is_dir():
            shutil.copytree(path, source / name)
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(path, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    build += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, timeout=machine.seconds(60))
    (wheel,) = tmp_path.glob("killtrace-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    due = _files(CHECKOUT / "killtrace", "killtrace") | _files(CHECKOUT / "bpf", "killtrace/bpf")
    assert due - held == set()
