"""The programs' text and the folder of stub headers that bcc compiles it with."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from killtrace.errors import UnsupportedError

# In this order: each uses what stands before it.  bcc rewrites one text only, so they are joined.
_ALWAYS = ("headers.h", "killtrace.h", "task.c", "memory.c", "signal.c", "process.c")

_SYSCALLS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
SYSCALL_NUMBERS: Mapping[str, tuple[int, ...]] = {
    "x86_64": (62, 200, 234, 129, 297, 424),
    "aarch64": (129, 130, 131, 138, 240, 424),
}
POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
ONLINE_CPUS = Path("/sys/devices/system/cpu/online")
BTF_PATH = Path(os.environ.get("KILLTRACE_BTF", "/sys/kernel/btf/vmlinux"))


@dataclass(frozen=True)
class Options:
    """What is decided at compile time; numbers and switches only, no text of the user's."""

    signal_mask: int
    only_targets: bool = False
    only_senders: bool = False
    only_users: bool = False
    follow: bool = False
    all_deaths: bool = False
    failed: bool = False
    oom_kprobe: bool = False
    oom_stack: bool = False
    exec_entries: int = 16384
    extra: Mapping[str, int] = field(default_factory=dict)


def bpf_folder() -> Path:
    """The folder of C sources: installed beside the package, or the checkout's bpf/."""
    installed = Path(__file__).resolve().parent.parent / "bpf"
    return installed if installed.is_dir() else installed.parent.parent / "bpf"


def syscall_names() -> dict[int, str]:
    """The numbers, on this machine, of the calls that send signals."""
    numbers = SYSCALL_NUMBERS.get(platform.machine(), ())
    return dict(zip(numbers, _SYSCALLS, strict=False))


def program_text(options: Options) -> str:
    """All of the programs as one C text."""
    names = list(_ALWAYS)
    if options.oom_kprobe:
        names.append("oom.c")
    if options.failed:
        names.append("attempt.c")
    folder = bpf_folder()
    return "\n".join((folder / name).read_text() for name in names)


def flags(options: Options, features: Mapping[str, int]) -> list[str]:
    """The compiler's -D flags for options and kernel features."""
    defines: dict[str, int] = {
        "KT_EXEC_ENTRIES": options.exec_entries,
        f"KT_ARCH_{platform.machine().upper()}": 1,
        "KT_LINUX_VERSION_CODE": version_code(),
        "KT_CPUS": os.cpu_count() or 1,
        **features,
        **options.extra,
    }
    switches = {
        "KT_ONLY_TARGETS": options.only_targets,
        "KT_ONLY_SENDERS": options.only_senders,
        "KT_ONLY_USERS": options.only_users,
        "KT_FOLLOW": options.follow,
        "KT_ALL_DEATHS": options.all_deaths,
        "KT_OOM_STACK": options.oom_stack,
    }
    defines |= {name: 1 for name, on in switches.items() if on}
    if options.failed:
        for number, name in syscall_names().items():
            defines[f"KT_NR_{name.upper()}"] = number
    out = [f"-D{name}={value}" for name, value in defines.items()]
    out.append(f"-DKT_SIGNAL_MASK={options.signal_mask:#x}ULL")
    # css_set.subsys is as long as the kernel's configuration has controllers.
    out.append("-Wno-array-bounds")
    return out


def stub_headers(folder: Path, btf_path: Path = BTF_PATH) -> Mapping[str, int]:
    """Fill `folder` with the headers that stand in for the kernel's; returns feature macros.

    UnsupportedError (69) where the kernel's BTF lacks something that is needed.
    """
    # Imported here: what is compiled already is started without.
    import shutil

    from killtrace.probe import layout
    from killtrace.probe.btf import BtfError

    try:
        kernel = layout.from_btf(btf_path.read_bytes())
    except BtfError as error:
        raise UnsupportedError(
            f"this kernel's type information can't be used ({error})",
            f"install the kernel's headers ({headers_hint()}) or report it",
        ) from error
    shutil.copytree(bpf_folder() / "stub", folder, dirs_exist_ok=True)
    declarations = "#ifndef KT_LAYOUT_H\n#define KT_LAYOUT_H\n" + kernel.declarations + "#endif\n"
    (folder / "include/killtrace_layout.h").write_text(declarations)
    return kernel.features


def cpus(path: Path) -> list[int]:
    """The CPUs that a file of /sys/devices/system/cpu lists, as 0-3,8 (cpumap_print_list)."""
    found: list[int] = []
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def installed_headers() -> Path | None:
    """The running kernel's headers, where they are installed (bcc looks there too)."""
    build = Path("/lib/modules") / platform.release() / "build"
    return build if (build / "include").is_dir() else None


def headers_hint() -> str:
    """What to install for this kernel's headers."""
    return f"apt-get install linux-headers-{platform.release()}"


def version_code(release: str | None = None) -> int:
    """KERNEL_VERSION() of a release like 6.1.0-18-amd64."""
    numbers = [int(n) for n in re.findall(r"\d+", release or platform.release())[:3]]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return (major << 16) + (minor << 8) + min(patch, 255)
