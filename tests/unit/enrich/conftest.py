from __future__ import annotations

from pathlib import Path

import pytest
from faketree import FakeProc


@pytest.fixture
def fake_proc(tmp_path: Path) -> FakeProc:
    root = tmp_path / "proc"
    root.mkdir()
    (root / "tty").mkdir()
    (root / "tty" / "drivers").write_text(
        "/dev/tty             /dev/tty        5       0 system:/dev/tty\n"
        "/dev/console         /dev/console    5       1 system:console\n"
        "usbserial            /dev/ttyUSB   188 0-511 serial\n"
        "hvc                  /dev/hvc      229 0-7 system\n"
        "pty_slave            /dev/pts      136 0-1048575 pty:slave\n"
        "broken line\n"
    )
    return FakeProc(root)
