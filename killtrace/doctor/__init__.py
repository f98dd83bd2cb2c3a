"""What this machine can and cannot tell: one check each, pure where it can be.

`checks` gives them all, in the order of their importance; `exit_status` sums them up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from killtrace.doctor import kernel, place, probes, records
from killtrace.doctor.machine import Check, Machine

__all__ = ["Check", "Machine", "checks", "exit_status"]

# Where only privileges are missing, these can't be tried.
_NEED_PRIVILEGES = {"privileges", "live tracing"}


def checks(machine: Machine) -> Iterator[Check]:
    """All checks."""
    # Looked at first: the trial's own programs take a moment to be gone.
    around = list(place.checks(machine))
    yield from kernel.checks(machine)
    yield from probes.checks(machine)
    yield from around
    yield from records.checks(machine)


def exit_status(found: Sequence[Check]) -> int:
    """0 when live tracing works; 77 when privileges alone are missing; else 69."""
    bad = {check.name for check in found if check.required and not check.ok}
    if not bad:
        return 0
    return 77 if "privileges" in bad and bad <= _NEED_PRIVILEGES else 69
