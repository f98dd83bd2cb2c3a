"""Real deaths with a known cause: each workload kills something and tells exactly how it did.

`python3 -m workloads NAME` (in tests/kernel) plays one and prints its truth as JSON;
`python3 -m workloads --list` names them all.
"""

from __future__ import annotations

# Each of these modules registers its workloads when it is imported.
from workloads import by_kernel, by_process, by_terminal, by_tool, memory, stories  # noqa: F401
from workloads.registry import CASES, Case

__all__ = ["CASES", "Case"]
