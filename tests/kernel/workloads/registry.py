"""What a workload promises, and the list of all workloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Sent:
    """One signal that must be recorded, `count` times (1 + repeats, summed).

    `sender` and `target` are thread group ids of the initial PID namespace.  `detail` holds what
    the origin must carry: plain values, or {"pid": N} where it carries a process.  A `result` of
    None is one that the workload can't know: its target may be dying already.
    """

    signo: int
    target: int
    kind: str
    code: str
    sender: int | None = None
    tid: int | None = None
    sender_tid: int | None = None
    scope: str = "process"
    result: str | None = "delivered"
    detail: dict[str, Any] = field(default_factory=dict)
    sender_comm: str | None = None
    sender_cmdline: list[str] | None = None
    count: int = 1
    # The kernel may send it again, at each tick, until the target has died of the first.
    again: bool = False


@dataclass
class Died:
    """One death that must be recorded, as wait(2) told it; `cause` is a signal's number."""

    pid: int
    signo: int | None = None
    status: int | None = None
    core_dumped: bool = False
    cause: int | None = None
    signals: list[tuple[int, str]] | None = None
    at_least_ns: int = 0


@dataclass
class Truth:
    """All that a workload did.

    `silent` are pids of which no record at all may tell; `alive` are those that no death may name.
    """

    sent: list[Sent] = field(default_factory=list)
    died: list[Died] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Truth:
        return cls(
            sent=[Sent(**one) for one in data["sent"]],
            died=[Died(**one) for one in data["died"]],
            silent=data["silent"],
            alive=data["alive"],
        )


@dataclass(frozen=True)
class Case:
    """A workload: its name, what it does, what the machine must have, and the tracer's signals."""

    name: str
    play: Callable[[], Truth]
    needs: tuple[str, ...] = ()
    fatal: bool = False

    @property
    def about(self) -> str:
        return (self.play.__doc__ or "").strip().split("\n")[0]


CASES: dict[str, Case] = {}


def case(*needs: str, fatal: bool = False) -> Callable[[Callable[[], Truth]], Callable[[], Truth]]:
    """Register a workload under its function's name.

    `needs` are feature names of `features.PROBES`; `fatal` asks for a tracer that was started with
    `--signal fatal`, for signals that are not traced by default.
    """

    def register(play: Callable[[], Truth]) -> Callable[[], Truth]:
        name = play.__name__
        if name in CASES:
            raise ValueError(f"two workloads named {name}")
        CASES[name] = Case(name, play, needs, fatal)
        return play

    return register
