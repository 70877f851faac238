"""Every contract is tried twice: in memory, and, as root, on the hosts of the lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract import stages
from tests.contract.stages import Stage


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.lab)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param == "fake":
        staging = stages.in_memory()
    else:
        lab, settings = request.getfixturevalue("lab"), request.getfixturevalue("settings")
        staging = stages.in_lab(lab, settings.inventory)
    with staging as found:
        yield found


@pytest.fixture
def scratch(stage: Stage) -> Iterator[str]:
    """The scratch domain's name, while it runs at `here`."""
    stage.backstage.stop_scratch()  # what a killed run may have left
    stage.backstage.start_scratch()
    yield stages.SCRATCH
    stage.backstage.stop_scratch()
