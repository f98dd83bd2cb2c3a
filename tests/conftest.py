"""What all tests share: how slow the machine is, and the JSON Schema of the records."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

# The helpers that several folders of tests use live beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))
# A command that tests start must find this checkout, whatever folder it runs in.
os.environ["PYTHONPATH"] = os.pathsep.join(
    part for part in (str(CHECKOUT), os.environ.get("PYTHONPATH")) if part
)
