"""The running kernel's struct layouts, as C that bcc reads rightly.

Only the members that the programs read are declared, each at its BTF offset, padded with char
arrays: bcc's compiler lays out wide or anonymous padding otherwise than the kernel's, silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from killtrace.probe.btf import Btf, BtfError

# struct -> member -> its C declaration.  A leading "?" marks a member that not every kernel has.
_STRUCTS: Mapping[str, Mapping[str, str]] = {
    "pid": {"level": "u32 level", "numbers": "struct upid numbers[32]"},
    "upid": {"nr": "int nr"},
    "cred": {"uid": "u32 uid"},
    "tty_struct": {"name": "char name[64]", "termios": "struct ktermios termios"},
    "ktermios": {"c_cc": "u8 c_cc[19]"},
    "rlimit": {"rlim_cur": "u64 rlim_cur", "rlim_max": "u64 rlim_max"},
    "signal_struct": {
        "live": "int live",
        "flags": "u32 flags",
        "group_exit_code": "int group_exit_code",
        "pids": "struct pid *pids[4]",
        "tty": "struct tty_struct *tty",
        "rlim": "struct rlimit rlim[16]",
        "oom_score_adj": "short oom_score_adj",
    },
    "kernel_siginfo": {"si_code": "int si_code", "_sifields": "int _sifields"},
    "sighand_struct": {"action": "char action[8]"},
    "kernfs_node": {
        "name": "const char *name",
        "?parent": "struct kernfs_node *parent",
        "?__parent": "struct kernfs_node *__parent",
    },
    "cgroup": {"kn": "struct kernfs_node *kn"},
    "cgroup_subsys_state": {"cgroup": "struct cgroup *cgroup"},
    "css_set": {
        "subsys": "struct cgroup_subsys_state *subsys[1]",
        "dfl_cgrp": "struct cgroup *dfl_cgrp",
    },
    "page_counter": {
        "usage": "long usage",
        "max": "unsigned long max",
        "parent": "struct page_counter *parent",
    },
    "?mem_cgroup": {"css": "char css[8]", "memory": "struct page_counter memory"},
    "mm_struct": {
        "total_vm": "unsigned long total_vm",
        "pgtables_bytes": "long pgtables_bytes",
        "arg_start": "unsigned long arg_start",
        "arg_end": "unsigned long arg_end",
        "rss_stat": "char rss_stat[8]",
    },
    "files_struct": {"fdt": "struct fdtable *fdt"},
    "fdtable": {"fd": "struct file **fd"},
    "path": {"dentry": "struct dentry *dentry"},
    "file": {"f_path": "char f_path[16]"},
    "dentry": {"d_name": "char d_name[16]", "d_sb": "struct super_block *d_sb"},
    "super_block": {"s_magic": "unsigned long s_magic"},
    "linux_binprm": {"interp": "const char *interp"},
    "task_struct": {
        "flags": "u32 flags",
        "exit_code": "int exit_code",
        "pid": "int pid",
        "tgid": "int tgid",
        "real_parent": "struct task_struct *real_parent",
        "group_leader": "struct task_struct *group_leader",
        "thread_pid": "struct pid *thread_pid",
        "start_boottime": "u64 start_boottime",
        "self_exec_id": "u64 self_exec_id",
        "comm": "char comm[16]",
        "mm": "struct mm_struct *mm",
        "files": "struct files_struct *files",
        "signal": "struct signal_struct *signal",
        "sighand": "struct sighand_struct *sighand",
        "blocked": "u64 blocked",
        "real_cred": "struct cred *real_cred",
        "cgroups": "struct css_set *cgroups",
        "?loginuid": "u32 loginuid",
        "?sessionid": "u32 sessionid",
    },
    "oom_control": {
        "memcg": "struct mem_cgroup *memcg",
        "gfp_mask": "u32 gfp_mask",
        "order": "int order",
        "totalpages": "unsigned long totalpages",
        "chosen": "struct task_struct *chosen",
        "chosen_points": "long chosen_points",
        "constraint": "u32 constraint",
    },
}
_ALSO = ("k_sigaction", "percpu_counter", "cgroup_subsys_id", "qstr")

_SIZES = {
    "u8": 1,
    "char": 1,
    "short": 2,
    "u32": 4,
    "int": 4,
    "u64": 8,
    "long": 8,
    "unsigned long": 8,
}


@dataclass(frozen=True)
class Layout:
    """What the compiler needs to know of the kernel: C declarations and feature macros."""

    declarations: str
    features: Mapping[str, int]


def from_btf(raw: bytes) -> Layout:
    """The layout that a kernel's BTF gives; BtfError names what is missing."""
    names = [name.lstrip("?") for name in _STRUCTS]
    btf = Btf(raw, [*names, *_ALSO])
    features = _features(btf)
    parts = [f"struct {name};" for name in names]
    done: dict[str, int] = {}
    for name, members in _in_order():
        text = _declare(btf, name, members, done)
        if text:
            parts.append(text)
    return Layout("\n".join(parts) + "\n", features)


def _in_order() -> list[tuple[str, Mapping[str, str]]]:
    """Structs that others hold by value come first."""
    by_value = {"upid", "ktermios", "rlimit", "page_counter"}
    return sorted(_STRUCTS.items(), key=lambda item: item[0] not in by_value)


def _declare(btf: Btf, name: str, members: Mapping[str, str], done: dict[str, int]) -> str:
    optional, name = name.startswith("?"), name.lstrip("?")
    size = btf.size(name)
    if size is None:
        if optional:
            return ""
        raise BtfError(f"struct {name} is not in this kernel's BTF")
    placed: list[tuple[int, str]] = []
    for member, declaration in members.items():
        offset = btf.offset(name, member.lstrip("?"))
        if offset is not None:
            placed.append((offset, declaration))
        elif not member.startswith("?"):
            raise BtfError(f"{name}.{member} is not in this kernel's BTF")
    lines, position = [], 0
    for offset, declaration in sorted(placed):
        if offset < position:
            raise BtfError(f"struct {name} is laid out as killtrace does not expect")
        if offset > position:
            lines.append(f"\tchar _pad{position}[{offset - position}];")
        lines.append(f"\t{declaration};")
        position = offset + _sizeof(declaration, done)
    # An array of these needs the whole size; a flexible tail must not shrink it.
    if size > position:
        lines.append(f"\tchar _pad{position}[{size - position}];")
    done[name] = max(size, position)
    return f"struct {name} {{\n" + "\n".join(lines) + "\n};"


def _sizeof(declaration: str, done: Mapping[str, int]) -> int:
    kind, _, name = declaration.rpartition(" ")
    count = int(name[name.index("[") + 1 : -1]) if "[" in name else 1
    if "*" in declaration:
        return 8 * count
    if kind.startswith("struct "):
        return done[kind[7:]] * count
    return _SIZES[kind] * count


def _features(btf: Btf) -> dict[str, int]:
    features: dict[str, int] = {}
    if btf.offset("task_struct", "loginuid") is not None:
        features["KT_HAS_AUDIT"] = 1
    if btf.offset("kernfs_node", "__parent") is not None:
        features["KT_HAS_KERNFS___PARENT"] = 1
    memory = btf.enum_value("cgroup_subsys_id", "memory_cgrp_id")
    if memory is not None and btf.size("mem_cgroup") is not None:
        features["KT_HAS_MEMCG"] = 1
        features["KT_MEMORY_CGRP_ID"] = memory
    action = btf.size("k_sigaction")
    sifields = btf.offset("kernel_siginfo", "_sifields")
    if action is None or sifields is None:
        raise BtfError("struct k_sigaction is not in this kernel's BTF")
    features["KT_K_SIGACTION_SIZE"] = action
    features["KT_SI_PID_OFFSET"] = sifields
    features["KT_QSTR_NAME_OFFSET"] = btf.offset("qstr", "name") or 0
    features |= _rss_features(btf)
    return features


def _rss_features(btf: Btf) -> dict[str, int]:
    """mm->rss_stat: percpu_counter[4] since 6.2 (commit f1a7941243c1), one struct before."""
    count, counters = (
        btf.offset("percpu_counter", "count"),
        btf.offset("percpu_counter", "counters"),
    )
    size = btf.size("percpu_counter")
    if btf.is_array("mm_struct", "rss_stat") and None not in (count, counters, size):
        assert count is not None and counters is not None and size is not None
        return {
            "KT_RSS_PERCPU": 1,
            "KT_RSS_FIRST": count,
            "KT_RSS_STRIDE": size,
            "KT_PERCPU_COUNTERS_DELTA": counters - count,
        }
    return {"KT_RSS_FIRST": 0, "KT_RSS_STRIDE": 8}
