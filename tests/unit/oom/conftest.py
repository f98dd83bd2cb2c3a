from __future__ import annotations

from pathlib import Path

import pytest
from machines import FakeMachine


@pytest.fixture
def v1(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "v1", 1)


@pytest.fixture
def v2(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "v2", 2)


@pytest.fixture(params=[1, 2])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "machine", request.param)
