"""Which lab a test runs in: labs run side by side, on a worker of pytest-xdist each."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

UNIT, SHARED = "unit", "test"
OWN = {
    "test_people": "people",
    "test_provision": "bare",
    "test_faults": "faults",
    "test_ring": "ring",
    "test_many": "many",
    "test_debian13": "nested",
    "test_xen": "xen",
    "test_spoofing": "namespaces",
    "test_tunnels": "namespaces",
    "test_tunnel_ends": "namespaces",
    "test_datagrams": "namespaces",
    "test_public": "namespaces",
    "test_reach": "namespaces",
    "test_stock_kernel": "namespaces",
    "test_kernel_events": "namespaces",
    "test_following": "namespaces",
    "test_remembered_paths": "namespaces",
}
# Workers take the labs in this order, the longest first, and then the unit tests one by one.
ORDER = ("nested", SHARED, "people", "bare", "faults", "ring", "many", "namespaces", "xen", UNIT)


def lab_of(nodeid: str) -> str:
    """By its file. One that is not listed belongs to the shared lab, where it waits for its turn."""
    file = Path(nodeid.partition("::")[0])
    return UNIT if file.parent.name == "unit" else OWN.get(file.stem, SHARED)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """All tests of a lab go to one worker, in the order in which they are written. By names of files, since the
    controller knows no marks; loadgroup, which carries them in node ids, does not work with pytest 9.2."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        lab = lab_of(nodeid)
        return nodeid if lab == UNIT else lab
