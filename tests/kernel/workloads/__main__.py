"""Play workloads: one by name, or, for the tests, each that is asked for on stdin."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from typing import Any

from workloads import CASES
from workloads.features import missing
from workloads.linux import PR_SET_CHILD_SUBREAPER, children, prctl

# A workload takes two seconds at most on a quick machine.
_LIMIT_S = int(20 * float(os.environ.get("KILLTRACE_TEST_SLOW", "1")))


def play(name: str) -> dict[str, Any]:
    """Play a workload in a session of its own; its truth, or {"error"} or {"missing"}."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        os.setsid()
        signal.alarm(_LIMIT_S)
        with os.fdopen(into, "w") as file:
            json.dump(_play_here(name), file)
            file.flush()
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as file:
        text = _read_until_end_of(pid, file.fileno())
    return json.loads(text) if text else {"error": f"{name} took more than {_LIMIT_S} s"}


def _read_until_end_of(pid: int, descriptor: int) -> str:
    """What the child wrote; whatever it left running is ended first, and holds the pipe too."""
    os.waitpid(pid, 0)
    left = children(os.getpid())
    for child in left:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    text = b""
    while block := os.read(descriptor, 65536):
        text += block
    if left and text and b'"error"' not in text:
        return json.dumps({"error": f"left running: {left}"})
    return text.decode()


def _play_here(name: str) -> dict[str, Any]:
    chosen = CASES[name]
    for feature in chosen.needs:
        why = missing(feature)
        if why is not None:
            return {"missing": feature, "reason": why}
    try:
        return chosen.play().to_json()
    except Exception:
        return {"error": traceback.format_exc()}


def main() -> None:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    arguments = sys.argv[1:]
    if arguments == ["--serve"]:
        for line in sys.stdin:
            print(json.dumps(play(line.strip())), flush=True)
    elif arguments == ["--list"]:
        for known in CASES.values():
            print(f"{known.name:28} {known.about}")
    else:
        for name in arguments:
            print(json.dumps(play(name), indent=1))


main()
