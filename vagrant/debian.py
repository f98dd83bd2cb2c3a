"""Kernels and root file systems from Debian's packages, found by suite and never by version."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import cache

SUITES = ("bullseye", "bookworm", "trixie", "trixie-backports", "sid")
FLAVOUR = "cloud-amd64"
# The user space of every guest; Debian's own pytest and friends, so that nothing else is fetched.
GUEST_SUITE = "bookworm"
GUEST_PACKAGES = (
    "bpftrace",
    "gcc",
    "iproute2",
    "kmod",
    "libc6-dev",
    "procps",
    "psmisc",
    "python3",
    "python3-bpfcc",
    "python3-click",
    "python3-hypothesis",
    "python3-jsonschema",
    "python3-pytest",
    "python3-pytest-timeout",
    "python3-systemd",
    "python3-tabulate",
    "tmux",
    "util-linux",
)
_LISTS_AGE_S = 12 * 3600


def _mirror() -> str:
    """The mirror that this machine's apt uses."""
    out = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True
    ).stdout.split()
    plain = [site for site in out if site.rstrip("/").endswith("/debian")]
    if not plain:
        raise SystemExit("apt has no Debian mirror here; set KILLTRACE_MIRROR to one")
    return plain[0]


class Archive:
    """A private apt, with the lists of several suites; the machine's own is left alone."""

    def __init__(self, mirror: str | None = None) -> None:
        self.root = cache.folder() / "apt"
        self.mirror = (mirror or _mirror()).rstrip("/")
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self._options = [
            f"-oDir::State={self.root}/state",
            f"-oDir::Cache={self.root}/cache",
            f"-oDir::Etc::sourcelist={self.root}/sources.list",
            "-oDir::Etc::sourceparts=/dev/null",
            "-oDir::State::status=/dev/null",
            "-oAcquire::Languages=none",
            "-oAPT::Sandbox::User=root",
        ]
        self._update()

    def _update(self) -> None:
        stamp = self.root / "updated"
        lines = [f"deb [check-valid-until=no] {self.mirror} {suite} main" for suite in SUITES]
        text = "\n".join(lines) + "\n"
        sources = self.root / "sources.list"
        fresh = stamp.exists() and time.time() - stamp.stat().st_mtime < _LISTS_AGE_S
        if fresh and sources.exists() and sources.read_text() == text:
            return
        sources.write_text(text)
        subprocess.run(["apt-get", *self._options, "-qq", "update"], check=True)
        stamp.touch()

    def newest(self, series: str) -> str:
        """The highest version of a kernel series ("6.1"), as in linux-image-VERSION-cloud-amd64."""
        pattern = rf"^linux-(?:image|binary)-(\d[^ ]*)-{FLAVOUR}$"
        out = subprocess.run(
            ["apt-cache", *self._options, "pkgnames", "linux-"], capture_output=True, text=True
        ).stdout
        found = {m[1] for line in out.splitlines() if (m := re.match(pattern, line))}
        if series != "newest":
            found = {version for version in found if re.match(re.escape(series) + r"\b", version)}
            found = {v for v in found if v == series or v[len(series)] in ".-"}
        if not found:
            raise SystemExit(f"no suite of {', '.join(SUITES)} has a kernel {series}")
        return max(found, key=_version_key)

    def kernel(self, version: str) -> Path:
        """A folder with `vmlinuz` and `initrd` of that version."""

        def make(part: Path) -> None:
            part.mkdir()
            # Up to 6.18 the image holds it all; from 7.x it is empty, and these two do.
            for kind in ("image", "binary", "modules"):
                self._unpack(f"linux-{kind}-{version}-{FLAVOUR}", part / "root")
            images = [
                *part.glob("root/boot/vmlinuz*"),
                *part.glob("root/usr/lib/modules/*/vmlinuz"),
            ]
            if not images:
                raise SystemExit(f"the packages of kernel {version} hold no vmlinuz")
            shutil.copy(images[0], part / "vmlinuz")
            initrd(part / "root", part / "initrd")
            shutil.rmtree(part / "root")

        return cache.made(f"kernel-{version}", make)

    def _unpack(self, package: str, into: Path) -> None:
        work = into.parent / "debs"
        work.mkdir(exist_ok=True)
        got = subprocess.run(
            ["apt-get", *self._options, "-qq", "download", package], cwd=work, capture_output=True
        )
        if got.returncode != 0:
            return  # before 7.0 there is no linux-binary
        for deb in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, into], check=True)
            deb.unlink()


def initrd(root: Path, target: Path, init: str = "/guest-init") -> None:
    """A ram disk that loads what the root disk needs, and goes over to its `init`."""
    folders = [*root.glob("lib/modules/*"), *root.glob("usr/lib/modules/*")]
    if not folders:
        raise SystemExit("the kernel's packages hold no modules")
    tree = target.with_suffix(".tree")
    for name in ("bin", "proc", "sys", "dev", "root", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    loads = []
    for number, module in enumerate(_closure(folders[0], ("virtio_pci", "virtio_blk", "ext4"))):
        name = f"{number:02d}-{module.name.partition('.')[0]}.ko"
        _plain(module, tree / "modules" / name)
        loads.append(f"/bin/busybox insmod /modules/{name}")
    script = [
        "#!/bin/busybox sh",
        "/bin/busybox mount -t devtmpfs dev /dev",
        *loads,
        "for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] && break; /bin/busybox sleep 0.2; done",
        "/bin/busybox mount -t ext4 /dev/vda /root",
        f"exec /bin/busybox switch_root /root {init}",
    ]
    (tree / "init").write_text("\n".join(script) + "\n")
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with target.open("wb") as out:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"],
            input=names.encode(), cwd=tree, stdout=out, check=True,
        )  # fmt: skip
    shutil.rmtree(tree)


def _closure(modules: Path, wanted: Iterable[str]) -> list[Path]:
    """The files of some modules and of all that these need, what is needed first."""
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in modules.rglob("*.ko*")}
    done: list[Path] = []

    def visit(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in done:
            return  # built in, or there already
        out = subprocess.run(
            ["modinfo", "-F", "depends", path], capture_output=True, text=True, check=True
        ).stdout
        soft = subprocess.run(["modinfo", "-F", "softdep", path], capture_output=True, text=True)
        for other in [*out.strip().split(","), *soft.stdout.replace("pre:", "").split()]:
            if other:
                visit(other)
        if path not in done:
            done.append(path)

    for name in wanted:
        visit(name)
    return done


def _plain(module: Path, target: Path) -> None:
    tool = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}.get(module.suffix)
    if tool is None:
        shutil.copy(module, target)
        return
    with target.open("wb") as out:
        subprocess.run([tool, "-dc", module], stdout=out, check=True)


def _version_key(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def root_image(packages: Iterable[str] = GUEST_PACKAGES) -> Path:
    """An ext4 image of the guest's user space."""
    included = ",".join(sorted(packages))
    init = (Path(__file__).parent / "guest-init").read_text()

    def make(part: Path) -> None:
        tar = part.with_suffix(".tar")
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={included}",
             GUEST_SUITE, tar],
            check=True,
        )  # fmt: skip
        tree = part.with_suffix(".tree")
        tree.mkdir()
        subprocess.run(["tar", "-C", tree, "-xf", tar, "--exclude=./dev/*"], check=True)
        (tree / "guest-init").write_text(init)
        (tree / "guest-init").chmod(0o755)
        (tree / "project").mkdir()
        subprocess.run(["truncate", "-s", "3G", part], check=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, part], check=True)

    return cache.made(f"root-{cache.key(included, init, GUEST_SUITE)}.ext4", make)
