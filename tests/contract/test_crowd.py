"""A crowd of clients joins a new address at once, many more than the server's listener has room for: the agent's own
decisions and real kernels (guest_agent/listeners.py)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from guest_agent import connections, crowd
from guest_agent.arrival import prepare
from tests.contract.test_following import guest_at_home, longer_way
from tests.contract.test_kernel_events import HOME, MPTCP, PORT, Scene, places, scene
from vmacro.wire.agent_verbs import PrepareArgs

pytestmark = pytest.mark.lab
__all__ = ["places", "scene"]
CLIENTS, BACKLOG, NEW, WITHIN_S = 200, 48, "10.72.0.150", 20.0


def test_all_of_a_crowd_join_although_a_listener_has_room_for_few(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SYN cookies some ten would be lost for good. Answers take a while, or the queue would never be full."""
    monkeypatch.setattr(crowd, "CALM_S", 1.5)
    for _ in range(CLIENTS):
        scene.opened(MPTCP)
    scene._listeners[HOME, MPTCP.server].listen(BACKLOG)

    async def move() -> int:
        guest, before = await guest_at_home(tmp_path), connections.cookies()
        assert connections.rooms()[PORT] == BACKLOG
        await prepare(guest, PrepareArgs(NEW))
        until_s = time.monotonic() + WITHIN_S
        while (joined := sum(c.reaches(NEW) for c in connections.connections())) < CLIENTS:
            if time.monotonic() > until_s:
                break
            await asyncio.sleep(0.1)
        while guest.state.queueing:
            await asyncio.sleep(0.1)
        assert connections.cookies() == before
        await guest.withdraw_all(NEW)
        await guest.link.move_out(NEW)
        return joined

    with longer_way(scene.server, NEW, tmp_path), scene.server.inside():
        assert asyncio.run(move()) == CLIENTS
