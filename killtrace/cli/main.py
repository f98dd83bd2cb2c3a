"""The killtrace command: dispatches, and turns every fault into one line and an exit status."""

from __future__ import annotations
