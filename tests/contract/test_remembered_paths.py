"""What the kernel remembers of round trips is forgotten: real kernels, and `ip` as a second opinion."""

from __future__ import annotations

import pytest

from guest_agent import connections
from tests.contract.test_kernel_events import HOME, KINDS, PEER, Scene, ask, places, scene
from tests.support import eventually

pytestmark = pytest.mark.lab
__all__ = ["places", "scene"]


def remembered(scene: Scene) -> list[str]:
    return [line for line in scene.server.ip("tcp_metrics", "show").splitlines() if "rtt" in line]


def test_new_connections_begin_without_what_earlier_ones_have_measured(scene: Scene) -> None:
    near, far = scene.opened(KINDS["tcp, to a server with mptcp"])
    for _ in range(5):
        ask(far, near)
    far.close()
    near.close()
    eventually(lambda: remembered(scene) != [], "the kernel to remember it", within_s=5)
    assert all(line.startswith(PEER) and HOME in line for line in remembered(scene))
    with scene.server.inside():
        connections.forget_round_trips()
    assert remembered(scene) == []
