"""Records as JSON Lines: one object a line, nothing hidden."""

from __future__ import annotations

import json
from typing import TextIO

from killtrace.model import Record
from killtrace.wire import record_to_json

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class JsonSink:
    """Writes each record as one line of JSON; `end_round` flushes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, record: Record) -> bool:
        """Write one record; True: it was shown."""
        self._out.write(_ENCODE(record_to_json(record)) + "\n")
        return True

    def end_round(self) -> None:
        """Flush what a round has written."""
        self._out.flush()

    def close(self) -> None:
        """Flush."""
        self._out.flush()
