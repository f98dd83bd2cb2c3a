"""Records made by hand, as bytes of the kernel's layout and as decoded ones."""

from __future__ import annotations

import struct
from typing import Any

from killtrace import decode
from killtrace.decode import RawSignal, RawTask

TASK = RawTask(
    start_time_ns=1_000_000_000,
    exec_id=1,
    tgid=100,
    tid=100,
    ns_tgid=100,
    ppid=1,
    uid=0,
    loginuid=0xFFFFFFFF,
    session_id=0xFFFFFFFF,
    sid=100,
    pgid=100,
    flags=0,
    exec_flags=0,
    cgroup_v1=False,
    comm=b"victim",
    tty=b"",
    ancestors=(),
    cgroup=b"/",
    exe=b"",
    args=b"",
)


def task(**changes: Any) -> RawTask:
    return TASK._replace(**changes)


def signal(**changes: Any) -> RawSignal:
    record = RawSignal(
        time_ns=5_000_000_000,
        cpu=0,
        fold_id=1,
        rlim_cpu_s=(1 << 64) - 1,
        rlim_rttime_us=(1 << 64) - 1,
        signo=15,
        code=0,
        claimed_pid=0,
        result=0,
        group=True,
        disposition=1,
        blocked=False,
        target_ended=0,
        vintr=3,
        vquit=28,
        stack=(),
        memory=None,
        sender=task(tgid=50, tid=50, comm=b"sender"),
        target=TASK,
    )
    return record._replace(**changes)


def packed(fields: decode.Fields, values: dict[str, Any]) -> bytes:
    """Bytes of one struct; what is not named is zero."""
    row = [values.get(name, b"" if code.endswith("s") else 0) for name, code in fields]
    return struct.pack("<" + decode.codes(fields), *row)
