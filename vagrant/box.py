"""Builds the Vagrant box from Debian's packages: a whole system, with no Vagrant Cloud about it.

python3 vagrant/box.py      prints the path of the box, built if it is not in the cache
"""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
from pathlib import Path

import cache
import debian

HERE = Path(__file__).resolve().parent
NAME = "killtrace/bookworm64"
# What a server has, and what the tests of tests/vm ask for.
PACKAGES = (
    *debian.GUEST_PACKAGES,
    "acct",
    "auditd",
    "busybox-static",
    "crun",
    "dbus",
    "linux-image-cloud-amd64",
    "make",
    "openssh-server",
    "podman",
    "python3-audit",
    "python3-pip",
    "python3-setuptools",
    "python3-venv",
    "python3-wheel",
    "rsync",
    "sudo",
    "systemd-sysv",
)
# The key that comes with every Vagrant: the guest is reached from this machine only.
_PUBLIC_KEY = "gems/vagrant-*/keys/vagrant.pub"
_METADATA = {"provider": "libvirt", "format": "qcow2", "virtual_size": 6}
_VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |libvirt|
    libvirt.kernel = File.join(__dir__, "vmlinuz")
    libvirt.initrd = File.join(__dir__, "initrd")
    libvirt.cmd_line = "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off"
  end
end
"""


def _public_key() -> str:
    found = [
        *Path("/usr/share/rubygems-integration/all").glob(_PUBLIC_KEY),
        *Path("/opt/vagrant/embedded").glob(_PUBLIC_KEY),
    ]
    if not found:
        raise SystemExit("vagrant is not installed: its public key is not to be found")
    return found[0].read_text()


def box() -> Path:
    """The .box file: a tar of disk, kernel, initrd, metadata and the box's own Vagrantfile."""
    included = ",".join(sorted(PACKAGES))
    setup = (HERE / "box-setup").read_text()
    own = (HERE / "box.py").read_text() + inspect.getsource(debian.initrd)

    def make(part: Path) -> None:
        work = part.parent
        (work / "box-setup").write_text(setup)
        (work / "box-setup").chmod(0o755)
        (work / "box-key.pub").write_text(_public_key())
        tar, tree = work / "root.tar", work / "tree"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={included}",
             f"--customize-hook={work}/box-setup", debian.GUEST_SUITE, tar],
            check=True,
        )  # fmt: skip
        tree.mkdir()
        subprocess.run(["tar", "-C", tree, "-xf", tar, "--exclude=./dev/*"], check=True)
        tar.unlink()
        content = work / "content"
        content.mkdir()
        shutil.copy(next(tree.glob("boot/vmlinuz-*")), content / "vmlinuz")
        debian.initrd(tree, content / "initrd", "/sbin/init")
        _disk(tree, content / "box.img")
        (content / "metadata.json").write_text(json.dumps(_METADATA))
        (content / "Vagrantfile").write_text(_VAGRANTFILE)
        subprocess.run(["tar", "-C", content, "-cf", part, "."], check=True)

    return cache.made(f"bookworm64-{cache.key(included, setup, own)}.box", make)


def _disk(tree: Path, image: Path) -> None:
    """A compressed qcow2 with the tree on an ext4 that fills the whole disk."""
    raw = image.with_suffix(".raw")
    subprocess.run(["truncate", "-s", "6G", raw], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, raw], check=True)
    shutil.rmtree(tree)
    subprocess.run(
        ["qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", raw, image],
        check=True,
    )
    raw.unlink()


if __name__ == "__main__":
    print(box())
