"""Fixtures of the tests in a guest: what tests/kernel has, and where these may run."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernel"))
