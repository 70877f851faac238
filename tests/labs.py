"""Which lab a test runs in: labs run side by side, on a worker of pytest-xdist each."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

UNIT, SHARED, PACKETS = "unit", "test", "namespaces"
OWN = {
    "test_people": "people",
    "test_provision": "bare",
    "test_faults": "faults",
    "test_ring": "ring",
    "test_many": "many",
    "test_managers": "managers",
    "test_renumber": "paper",
    "test_debian13": "nested",
    "test_xen": "xen",
    "test_spoofing": PACKETS,
    "test_tunnels": PACKETS,
    "test_tunnel_ends": PACKETS,
    "test_joins": PACKETS,
    "test_datagrams": PACKETS,
    "test_public": PACKETS,
    "test_reach": PACKETS,
    "test_hold": PACKETS,
    "test_dhcp_client": PACKETS,
    "test_stock_kernel": PACKETS,
    "test_kernel_events": PACKETS,
    "test_following": PACKETS,
    "test_crowd": PACKETS,
    "test_muting": PACKETS,
    "test_feeds": PACKETS,  # a server on loopback alone
    "test_remembered_paths": PACKETS,
}
LABS_AT_ONCE = 2  # with more, guests that boot under emulation starve
NICE = 5  # a third of the others' share, where there is not enough: unit tests have deadlines, too
# Workers take the labs in this order, the longest first, and then what the spare worker has left.
ORDER = ("nested", SHARED, "people", "faults", "bare", "ring", "many", "managers", "paper", PACKETS, "xen", UNIT)


def lab_of(nodeid: str) -> str:
    """By its file. One that is not listed belongs to the shared lab, where it waits for its turn."""
    file = Path(nodeid.partition("::")[0])
    return UNIT if file.parent.name == "unit" else OWN.get(file.stem, SHARED)


def is_spare(worker: str, workers: int) -> bool:
    """Of three the last one takes no guests: unit tests and packets, with what processor time the labs leave."""
    return workers > LABS_AT_ONCE and worker == f"gw{workers - 1}"


def stand_back_if_spare(config: pytest.Config) -> None:
    """The spare worker and what it starts yield to all others. Labs have sessions of their own, among which the kernel
    shares by the niceness of their groups (sched(7), autogroup)."""
    worker = getattr(config, "workerinput", None)
    if worker is None or not is_spare(worker["workerid"], worker["workercount"]):
        return
    os.nice(NICE)
    os.setsid()
    # A session's leader gets every terminal that it opens as its own, and the end of one would be its end; no test's
    # program inherits a handler.
    signal.signal(signal.SIGHUP, lambda *_: None)
    group = Path("/proc/self/autogroup")
    if group.exists():
        group.write_text(str(NICE))


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """All tests of a lab go to one worker, in the order in which they are written. By names of files, since the
    controller knows no marks; loadgroup, which carries them in node ids, does not work with pytest 9.2."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if is_spare(node.gateway.id, self.numnodes):
            scope = next((scope for scope in self.workqueue if lab_of(scope) == UNIT), PACKETS)
            if scope not in self.workqueue:
                node.shutdown()
                return
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        lab = lab_of(nodeid)
        return nodeid if lab == UNIT else lab
