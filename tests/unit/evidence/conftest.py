"""Puts the folder's own helpers in reach."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
