"""Runs the tests on every kernel of kernels.toml, each booted by QEMU with the same user space.

    python3 vagrant/matrix.py             all of them
    python3 vagrant/matrix.py 6.1 newest  some
    python3 vagrant/matrix.py --write-docs

Two guests at a time, by emulation where there is no KVM that works.  KILLTRACE_UNTIL, in seconds
since the epoch: after it no kernel but the first two is begun, and that is told.  Exit status 1
where a kernel fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import debian
import tomllib

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs/kernels.md"
BOOT_AND_TEST_S = 1500
# A test that hangs is one failure, and not the end of all: by emulation all take five minutes.
ONE_TEST_S = 600
AT_A_TIME = 2
# What a bare guest runs: every cause of death, and what only a guest may do.
TESTS = ("tests/kernel/test_attribution.py", "tests/kernel/test_oom_story.py", "tests/vm")


@dataclass
class Outcome:
    """How one kernel did."""

    kernel: str
    version: str
    seconds: float
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    trouble: str | None = None
    not_run: bool = False

    @property
    def good(self) -> bool:
        """Whether all ran and none failed; so is a kernel that there was no time for."""
        return self.not_run or (not self.failed and self.trouble is None and self.passed > 0)


_KVM_TRIAL_S = 20


def accelerator(kernel: Path) -> str:
    """The accelerator: kvm where this very kernel boots on it, else tcg (emulation).

    A /dev/kvm that can be opened is no proof: nested ones may stop at the first instruction that
    they can't emulate.  So the kernel is booted with no disk: it panics, and QEMU ends.
    """
    chosen = os.environ.get("KILLTRACE_ACCEL")
    if chosen is None:
        chosen = "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) and _boots(kernel) else "tcg"
        os.environ["KILLTRACE_ACCEL"] = chosen
    return chosen


def _boots(kernel: Path) -> bool:
    command = [
        "qemu-system-x86_64", "-accel", "kvm", "-m", "512M", "-nodefaults", "-display", "none",
        "-no-reboot", "-kernel", str(kernel / "vmlinuz"), "-append", "panic=-1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        return process.wait(_KVM_TRIAL_S) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def copy_checkout(into: Path) -> None:
    """All that git knows of the checkout, as it stands in the work tree."""
    names = subprocess.run(
        ["git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True,
    ).stdout.split(b"\0")  # fmt: skip
    for name in sorted(set(names)):
        source = CHECKOUT / os.fsdecode(name)
        if name and source.is_file():
            target = into / os.fsdecode(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def project_disk(folder: Path, row: dict[str, object], tests: list[str], accel: str) -> Path:
    """An ext4 image with the checkout, the command to run, and room for what comes back."""
    tree = folder / "tree"
    (tree / "out").mkdir(parents=True)
    copy_checkout(tree / "killtrace")
    must = ",".join(str(feature) for feature in row["must"])  # type: ignore[attr-defined]
    slow = 1 if accel == "kvm" else 12
    (tree / "run").write_text(
        f"export KILLTRACE_MUST={must} KILLTRACE_TEST_SLOW={slow} KILLTRACE_GUEST=bare\n"
        "export PYTHONDONTWRITEBYTECODE=1\n"
        "exec python3 -m pytest -q -p no:cacheprovider "
        f"--timeout={ONE_TEST_S} --junitxml=/project/out/result.xml "
        # As they stand: "FILE -k NAME" is two words.  A name in [] is one, with its spaces.
        + " ".join(shlex.quote(test) if "[" in test else test for test in tests)
        + "\n"
    )
    disk = folder / "project.ext4"
    subprocess.run(["truncate", "-s", "256M", disk], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, disk], check=True)
    return disk


_RUNNING: list[subprocess.Popen[bytes]] = []


def boot(kernel: Path, root: Path, project: Path, console: Path, accel: str) -> None:
    """Run one guest until it switches itself off; TimeoutExpired where it does not."""
    command = [
        # However this process ends, its guests end with it.
        "setpriv", "--pdeathsig", "KILL", "--",
        "qemu-system-x86_64", "-accel", accel, "-smp", "2", "-m", "1G",
        "-nodefaults", "-display", "none", "-no-reboot",
        "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initrd"),
        "-append", "console=ttyS0 root=/dev/vda rw init=/guest-init mitigations=off panic=-1"
        " net.ifnames=0 quiet loglevel=4",
        "-drive", f"file={root},format=raw,if=virtio,snapshot=on",
        "-drive", f"file={project},format=raw,if=virtio",
        "-serial", f"file:{console}",
    ]  # fmt: skip
    if accel == "tcg":
        command += ["-cpu", "qemu64"]
    process = subprocess.Popen(command, start_new_session=True)
    _RUNNING.append(process)
    try:
        process.wait(BOOT_AND_TEST_S)
    finally:
        _RUNNING.remove(process)
        if process.poll() is None:
            process.kill()
            process.wait()


def fetch(project: Path, name: str, into: Path) -> str:
    """One file of what the guest wrote; "" where it wrote none."""
    target = into / Path(name).name
    subprocess.run(
        ["debugfs", "-R", f"dump /out/{name} {target}", project], capture_output=True, check=True
    )
    return target.read_text(errors="replace") if target.exists() else ""


def run(row: dict[str, object], version: str, kernel: Path, tests: list[str]) -> Outcome:
    """Test one kernel; by emulation, what fails gets a second boot, and that is told.

    An emulated machine stands still for seconds when the real one is busy, in the midst of what a
    test had timed.  What is broken fails twice.
    """
    outcome = run_once(row, version, kernel, tests)
    if accelerator(kernel) == "kvm" or not outcome.failed or outcome.trouble is not None:
        return outcome
    print(f"{outcome.kernel}: once more: {', '.join(outcome.failed)}", flush=True)
    second = run_once(row, version, kernel, outcome.failed)
    outcome.again = [test for test in outcome.failed if test not in second.failed]
    outcome.passed += len(outcome.again)
    outcome.seconds += second.seconds
    outcome.failed, outcome.trouble = second.failed, second.trouble
    return outcome


def run_once(row: dict[str, object], version: str, kernel: Path, tests: list[str]) -> Outcome:
    """Boot one kernel, and run tests in it."""
    name, root = str(row["name"]), debian.root_image()
    accel = accelerator(kernel)
    print(f"{name}: {version}, by {accel} …", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="killtrace-matrix-") as work:
        folder = Path(work)
        project, console = project_disk(folder, row, tests, accel), folder / "console"
        outcome = Outcome(name, version, 0)
        try:
            boot(kernel, root, project, console, accel)
        except subprocess.TimeoutExpired:
            outcome.trouble = f"not done within {BOOT_AND_TEST_S} s"
        outcome.seconds = time.monotonic() - began
        log = fetch(project, "log", folder)
        read_results(outcome, fetch(project, "result.xml", folder))
        status = fetch(project, "status", folder).strip()
        if status not in ("0", "1") and outcome.trouble is None:
            outcome.trouble = f"pytest ended with {status or 'no status'}"
        if not outcome.good:
            kept = CHECKOUT / f".matrix-{name}.log"
            serial = console.read_text(errors="replace") if console.exists() else ""
            kept.write_text(f"{serial}\n{log}")
            print(log[-6000:] or serial[-3000:])
            print(f"  kept: {kept}")
    return outcome


def run_all(
    rows: list[dict[str, object]], archive: debian.Archive, tests: list[str]
) -> list[Outcome]:
    """Test some kernels; what each needs is fetched before any is started."""
    debian.root_image()
    found = []
    for row in rows:
        version = archive.newest(str(row["name"]))
        found.append((row, version, archive.kernel(version)))
    accelerator(found[0][2])

    until_s = float(os.environ.get("KILLTRACE_UNTIL", "inf"))

    def one(row: dict[str, object], version: str, kernel: Path) -> Outcome:
        if time.time() > until_s and row not in rows[:AT_A_TIME]:
            outcome = Outcome(str(row["name"]), version, 0, not_run=True)
            print(report(outcome), flush=True)
            return outcome
        outcome = run(row, version, kernel, tests)
        print(report(outcome), flush=True)
        return outcome

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        futures = [pool.submit(one, *each) for each in found]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_RUNNING):
                process.kill()
            raise


def read_results(outcome: Outcome, xml: str) -> None:
    """Counts and names out of pytest's report."""
    if not xml:
        outcome.trouble = outcome.trouble or "the guest wrote no report"
        return
    for case in ET.fromstring(xml).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            file = str(case.get("classname")).replace(".", "/")
            outcome.failed.append(f"{file}.py::{case.get('name')}")
        elif skipped is not None:
            reason = skipped.get("message") or "no reason"
            # Of a whole file pytest has the reason in the text alone: (path, line, 'Skipped: …').
            if inner := re.search(r"Skipped: (.*)['\"]\)", skipped.text or ""):
                reason = inner[1]
            outcome.skipped[reason] = outcome.skipped.get(reason, 0) + 1
        else:
            outcome.passed += 1


def report(outcome: Outcome) -> str:
    """One line a kernel, and one a reason."""
    if outcome.not_run:
        return f"{outcome.kernel:<7} {outcome.version:<24} NOT RUN: no time left (KILLTRACE_UNTIL)"
    skipped = sum(outcome.skipped.values())
    ran = outcome.passed + len(outcome.failed)
    lines = [
        f"{outcome.kernel:<7} {outcome.version:<24} {outcome.seconds:5.0f} s  {ran} run, "
        f"{outcome.passed} passed, {len(outcome.failed)} failed, {skipped} skipped"
        + (f"  TROUBLE: {outcome.trouble}" if outcome.trouble else "")
    ]
    lines += [f"        failed: {name}" for name in outcome.failed]
    lines += [f"        passed on the second boot: {name}" for name in outcome.again]
    lines += [f"        skipped {n}: {reason}" for reason, n in outcome.skipped.items()]
    return "\n".join(lines)


def page(outcomes: list[Outcome], musts: dict[str, list[str]]) -> str:
    """docs/kernels.md."""
    rows = [
        f"| {o.kernel} | {o.version} | {', '.join(musts[o.kernel])} | {o.passed} | {len(o.failed)} "
        f"| {'; '.join(f'{n} × {reason}' for reason, n in o.skipped.items()) or 'none'} |"
        for o in outcomes
    ]
    return "\n".join(
        [
            "# Kernels",
            "",
            "Every kernel of vagrant/kernels.toml is booted with the same user space, and every",
            "cause of death is played on it; the names of what each must have are those of",
            "tests/kernel/workloads/features.py. Written by `make matrix ARGS=--write-docs`.",
            "",
            "| Series | Debian's kernel | must have | passed | failed | skipped, and why |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("kernels", nargs="*", help="names from kernels.toml; default: all")
    parser.add_argument("--write-docs", action="store_true", help="write docs/kernels.md")
    parser.add_argument("--test", action="append", help="a test path or -k expression's file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows = tomllib.loads((CHECKOUT / "vagrant/kernels.toml").read_text())["kernel"]
    unknown = set(options.kernels) - {row["name"] for row in rows}
    if unknown:
        parser.error(f"not in kernels.toml: {', '.join(unknown)}")
    archive = debian.Archive(os.environ.get("KILLTRACE_MIRROR"))
    wanted = [row for row in rows if not options.kernels or row["name"] in options.kernels]
    outcomes = run_all(wanted, archive, options.test or list(TESTS))
    print("\n" + "\n".join(report(outcome) for outcome in outcomes))
    if options.write_docs and not any(outcome.not_run for outcome in outcomes):
        PAGE.write_text(page(outcomes, {row["name"]: row["must"] for row in wanted}))
    not_run = sum(outcome.not_run for outcome in outcomes)
    good = sum(outcome.good for outcome in outcomes)
    told = f", {not_run} not run" if not_run else ""
    print(f"kernels: {good - not_run} passed, {len(outcomes) - good} failed{told}")
    return 0 if good == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
