"""The lab of `make test-xen`, instead of the one that other tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import lab_of_topology
from vmacro.lab.lab import Lab

TOPOLOGY = Path(__file__).with_name("two-sites.toml")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with lab_of_topology(TOPOLOGY) as found:
        yield found
