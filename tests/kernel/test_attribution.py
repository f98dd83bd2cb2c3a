"""Every cause of death in the contract, played for real: told with its true origin and outcome."""

from __future__ import annotations

import pytest
from harness import Stage, Tracer, check_truth
from workloads import CASES
from workloads.registry import Case


def _parameters() -> list[object]:
    return [
        pytest.param(case, id=case.name, marks=pytest.mark.needs(*case.needs))
        for case in CASES.values()
    ]


@pytest.mark.parametrize("case", _parameters())
def test_is_told_as_it_was(case: Case, stage: Stage, request: pytest.FixtureRequest) -> None:
    which = "fatal_tracer" if case.fatal else "default_tracer"
    tracer: Tracer = request.getfixturevalue(which)
    since = tracer.mark()
    truth = stage.play(case.name)
    records = tracer.settle(stage, since, truth)
    check_truth(records, truth)
