"""The Vagrant VM: brought up, tested in, and destroyed.

    python3 vagrant/vm.py test [PYTEST ARGUMENT ...]   up, the tests in it, destroy
    python3 vagrant/vm.py up | shell | destroy

Run by root it works as a user of its own, killtrace-vm: libvirt then runs in that user's session,
and nothing of the machine's own libvirt, network or Vagrant is touched.  Exit status 1 where a
test fails.  The variables of vagrant/Vagrantfile hold here too.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import box
import cache
import debian
import matrix

USER = "killtrace-vm"
SERIES = "6.1"  # the kernel of the box's Debian: what tells whether KVM works here
# By emulation, the tests that start a tracer each are left out: 150 of them take half an hour.
TESTS = {
    "kvm": ("tests/kernel", "tests/vm"),
    "tcg": (
        "tests/kernel/test_attribution.py",
        "tests/kernel/test_oom_story.py",
        "tests/kernel/test_doctor.py::test_this_machine_can_trace",
        "tests/vm",
    ),
}
AFTER_BOOT = "tests/vm/test_past_boot.py"
_TEST_S = 2400


class Vm:
    """A folder with all that Vagrant and libvirt write, and the user that they run as."""

    def __init__(self) -> None:
        self.local = os.environ.get("KILLTRACE_VM", "local") == "local"
        if os.geteuid() == 0 and self.local:
            self.home = Path("/var/lib") / USER
            self._account()
            self.user: str | None = USER
        else:
            self.home = Path.home() / ".local/state/killtrace-vm"
            self.user = None
        for name in (".", "run", "vagrant", "machine", "checkout"):
            self._own_folder(self.home / name)
        self.serial = self.home / "serial.log"
        # One at a time: held until this process ends.
        self._lock = (self.home / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{self.home}: another run is using the VM") from None

    def _account(self) -> None:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            subprocess.run(
                ["useradd", "--system", "--user-group", "--home-dir", self.home, USER], check=True
            )

    def _own_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.user:
            shutil.chown(path, self.user, self.user)

    def environment(self) -> dict[str, str]:
        """What Vagrant runs with: a home of its own, and the settings of the Vagrantfile."""
        own = {
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "PATH": os.environ["PATH"],
            "TERM": os.environ.get("TERM", "dumb"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_CWD": str(self.home / "checkout/vagrant"),
            "VAGRANT_DOTFILE_PATH": str(self.home / "machine"),
            "VAGRANT_HOME": str(self.home / "vagrant"),
            "KILLTRACE_VM": "public",
        }
        if self.local:
            own |= {
                "VAGRANT_DEFAULT_PROVIDER": "libvirt",
                "XDG_RUNTIME_DIR": str(self.home / "run"),
                "KILLTRACE_VM": "local",
                "KILLTRACE_SERIAL": str(self.serial),
                "KILLTRACE_SSH": self._port(),
            }
        given = {name: os.environ[name] for name in os.environ if name.startswith("KILLTRACE_")}
        return {**own, **given}

    def _port(self) -> str:
        """The forwarded port of the VM that is up, or one that is free."""
        kept = self.home / "port"
        if not kept.exists():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                kept.write_text(str(free.getsockname()[1]))
        return kept.read_text()

    def as_user(self, *command: str | Path) -> list[str]:
        """A command, to be run as the user of the VM."""
        words = [str(word) for word in command]
        if self.user is None:
            return words
        who = [f"--reuid={self.user}", f"--regid={self.user}", "--init-groups"]
        return ["setpriv", *who, "--", *words]

    def vagrant(self, *arguments: str, check: bool = True, timeout_s: float | None = None) -> int:
        """Run vagrant; its exit status."""
        # A log takes no progress bars; `vagrant ssh` knows no such option.
        quiet = () if sys.stdout.isatty() or arguments[0] == "ssh" else ("--no-tty",)
        process = subprocess.Popen(
            self.as_user("vagrant", *arguments, *quiet), env=self.environment(), cwd=self.home,
        )  # fmt: skip
        try:
            status = process.wait(timeout_s)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if check and status != 0:
            raise SystemExit(f"vagrant {arguments[0]} failed ({status})")
        return status

    def up(self) -> None:
        """Bring the VM up and install killtrace in it."""
        archive = debian.Archive(os.environ.get("KILLTRACE_MIRROR"))
        # It tells by a boot whether KVM works here, and sets KILLTRACE_ACCEL.
        matrix.accelerator(archive.kernel(archive.newest(SERIES)))
        print(f"VM: by {os.environ['KILLTRACE_ACCEL']}", flush=True)
        self._take_checkout()
        if self._is_up():
            self.vagrant("rsync")
            self.vagrant("provision")
            return
        self.serial.unlink(missing_ok=True)
        if self.local:
            with _timed("box"):
                self._add_box(box.box())
        with _timed("vagrant up"):
            self.vagrant("up")

    def _take_checkout(self) -> None:
        """A copy of the checkout that the user of the VM may read."""
        checkout = self.home / "checkout"
        shutil.rmtree(checkout)
        matrix.copy_checkout(checkout)
        self._hand_over(checkout)

    def _is_up(self) -> bool:
        status = subprocess.run(
            self.as_user("vagrant", "status", "--machine-readable"),
            env=self.environment(), cwd=self.home, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return ",state,running" in status.stdout

    def _add_box(self, file: Path) -> None:
        """Give Vagrant the box, unless it has this very one."""
        mark = self.home / "box"
        if mark.exists() and mark.read_text() == file.name:
            return
        self.destroy()
        copy = self.home / file.name
        shutil.copy(file, copy)
        self._hand_over(copy)
        self.vagrant("box", "add", "--force", "--name", box.NAME, str(copy))
        copy.unlink()
        # libvirt keeps a volume of each box, by its name: the old one would be taken again.
        for volume in (self.home / ".local/share/libvirt/images").glob("killtrace-VAGRANT*"):
            subprocess.run(
                self.as_user("virsh", "-c", "qemu:///session", "vol-delete", "--pool", "default",
                             volume.name),
                env=self.environment(), check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        mark.write_text(file.name)

    def _hand_over(self, path: Path) -> None:
        if self.user:
            subprocess.run(["chown", "-R", f"{self.user}:{self.user}", path], check=True)

    def test(self, arguments: list[str]) -> int:
        """Run the tests in the guest, and those that ask for another boot after it."""
        chosen = arguments or list(TESTS[os.environ["KILLTRACE_ACCEL"]])
        status = self._run_tests(chosen, "vm")
        if status == 1 and os.environ["KILLTRACE_ACCEL"] == "tcg":
            print("VM: once more, what failed: an emulated machine may stand still", flush=True)
            status = self._run_tests([*chosen, "--last-failed"], "vm")
        if status == 0 and not arguments:
            self.vagrant("reload", "--no-provision")
            status = self._run_tests([AFTER_BOOT], "vm-again")
        return status

    def _run_tests(self, arguments: list[str], guest: str) -> int:
        """Pytest's exit status."""
        slow = 1 if os.environ["KILLTRACE_ACCEL"] == "kvm" else 12
        settings = {
            "KILLTRACE_CMD": "/usr/local/bin/killtrace",
            "KILLTRACE_GUEST": guest,
            "KILLTRACE_MUST": "all",
            "KILLTRACE_TEST_SLOW": str(slow),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        words = [f"{name}={value}" for name, value in settings.items()]
        # sudo takes the limit of core files away.
        command = ["sudo", "prlimit", "--core=unlimited", "env", *words]
        command += ["python3", "-m", "pytest", "-q", "-o", "cache_dir=/var/tmp/pytest"]
        command += [f"--timeout={matrix.ONE_TEST_S}"]
        command += arguments
        line = "cd /killtrace && " + " ".join(command)
        return self.vagrant("ssh", "-c", line, check=False, timeout_s=_TEST_S)

    def destroy(self) -> None:
        """Destroy the VM, and end the libvirt of the session."""
        if any((self.home / "machine").iterdir()):
            self._take_checkout()
            self.vagrant("destroy", "-f", check=False)
        for daemon in (self.home / "run/libvirt").glob("*.pid"):
            _end(daemon)
        (self.home / "port").unlink(missing_ok=True)


def _end(pid_file: Path) -> None:
    """End a daemon by the file that it wrote its pid to, where it still is that daemon."""
    text = pid_file.read_text().strip()
    name = Path(f"/proc/{text}/comm")
    if text and name.exists() and name.read_text().strip() in ("libvirtd", "virtlogd"):
        os.kill(int(text), signal.SIGTERM)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    print(f"VM: {what} …", flush=True)
    began = time.monotonic()
    yield
    print(f"VM: {what}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("do", choices=["up", "shell", "test", "destroy"])
    options, arguments = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = Vm()
    if options.do == "destroy":
        machine.destroy()
        return 0
    if options.do in ("up", "shell"):
        try:
            machine.up()
        except BaseException:
            machine.destroy()
            raise
        return machine.vagrant("ssh", check=False) if options.do == "shell" else 0
    status = 1
    try:
        machine.destroy()
        machine.up()
        with _timed("tests"):
            status = machine.test(arguments)
    finally:
        if status != 0 and machine.serial.exists():
            kept = cache.folder() / "vm-serial.log"
            shutil.copy(machine.serial, kept)
            print(f"VM: serial log kept: {kept}")
        with _timed("vagrant destroy"):
            machine.destroy()
    return status


if __name__ == "__main__":
    sys.exit(main())
