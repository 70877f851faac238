"""A client that takes one announced address at a time follows its server's addresses for ever, while another client's
plain TCP connection keeps the first of them: the agent's own decisions and real kernels (docs/decisions/0021)."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from guest_agent import connections, link, mptcp
from guest_agent.__main__ import BootClock
from guest_agent.arrival import prepare
from guest_agent.guest import Guest
from guest_agent.kernel_events import KernelEvents
from guest_agent.ports import Leases
from guest_agent.retirement import retire
from guest_agent.state import State
from tests.contract.test_kernel_events import HOME, HOME6, KINDS, MPTCP, Kind, Scene, ask, places, scene
from tests.contract.towns import Place
from tests.support import eventually
from vmacro.lab import forwarder, namespaces, process
from vmacro.wire.agent_verbs import Lease, PrepareArgs

pytestmark = pytest.mark.lab
__all__ = ["places", "scene"]
MOVES = 10
LONGER_MS = 60.0


def lease(address: str) -> Lease:
    return Lease(address, 24, "10.72.0.254", "10.72.0.254", 3600)


async def joined(address: str, token: int, within_s: float = 3.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if any(c.token == token and c.reaches(address) for c in connections.connections()):
            return True
        await asyncio.sleep(0.02)
    return False


@contextmanager
def longer_way(place: Place, address: str, folder: Path) -> Iterator[None]:
    """What goes out from an address arrives later than from others, as by a leg."""
    rule = ["-s", address, "-j", "NFQUEUE", "--queue-num", "0"]
    version = 6 if ":" in address else 4
    tables = ["ip", "netns", "exec", place.name, namespaces.ip_tables(version), "-w", "-t", "mangle"]
    config, log = folder / "forwarder.json", folder / "forwarder.log"
    forwarder.write_config([forwarder.Link(0, LONGER_MS)], config)
    process.run([*tables, "-A", "OUTPUT", *rule])
    running = process.spawn([sys.executable, "-m", "vmacro.lab.forwarder", place.name, config], log)
    try:
        eventually(lambda: "forwarding" in log.read_text(), "the longer way")
        yield
    finally:
        running.end()
        process.run([*tables, "-D", "OUTPUT", *rule])


@pytest.mark.parametrize("way", ["alike", "longer"])
@pytest.mark.parametrize("limit", [1, 2])
def test_it_follows_ten_of_ten_moves(scene: Scene, tmp_path: Path, limit: int, way: str) -> None:
    """Also where the end of a subflow would overtake the word that its address is withdrawn."""
    with longer_way(scene.server, HOME, tmp_path) if way == "longer" else nullcontext():
        follow(scene, tmp_path, limit)


async def guest_at_home(folder: Path) -> Guest:
    card, events, leases = await link.find_link("eth0"), KernelEvents(), cast(Leases, None)
    return Guest(card, mptcp, connections, events, leases, BootClock(), State(lease(HOME)), folder / "state.json")


def follow(scene: Scene, tmp_path: Path, limit: int) -> None:
    scene.client.ip("mptcp", "limits", "set", "subflows", "2", "add_addr_accepted", str(limit))
    near, far = scene.opened(MPTCP)
    plain_near, plain_far = scene.opened(KINDS["tcp, to a server with mptcp"])
    token = next(c.token for c in scene.there() if c.mptcp)

    async def moves() -> list[int]:
        guest = await guest_at_home(tmp_path)
        followed, old = [], HOME
        for number in range(MOVES):
            new = f"10.72.0.{100 + number}"
            await prepare(guest, PrepareArgs(new))
            if await joined(new, token):
                followed.append(number)
            ask(far, near)
            await guest.prefer((new, ""), (old, ""))
            guest.state.lease, guest.state.prepared = lease(new), ("", "")
            left: dict[str, Any] = {a: await retire(guest, a) for a in (HOME, old)}
            assert not left[HOME].retired and (old == HOME or left[old].retired)
            for one, other in ((far, near), (plain_far, plain_near)):
                ask(one, other)
            old = new
        await guest.withdraw_all(old)
        await guest.link.move_out(old)
        return followed

    with scene.server.inside():
        followed = asyncio.run(moves())
    assert followed == list(range(MOVES))


def test_it_follows_in_both_families(scene: Scene, tmp_path: Path) -> None:
    """Of two addresses a move, each takes a slot; both come back, though both would be overtaken."""
    for place in (scene.client, scene.server):
        place.ip("mptcp", "limits", "set", "subflows", "8", "add_addr_accepted", "4")
    near, far = scene.opened(KINDS["mptcp, ipv6"])
    plain_near, plain_far = scene.opened(Kind(HOME6, server=KINDS["mptcp, ipv6"].server))
    token = next(c.token for c in scene.there() if c.mptcp)

    async def moves() -> list[tuple[bool, bool]]:
        guest = await guest_at_home(tmp_path)
        guest._current6, old, found = HOME6, (HOME, HOME6), []
        for number in range(MOVES):
            new = (f"10.72.0.{100 + number}", f"fd72::{100 + number}")
            await prepare(guest, PrepareArgs(*new))
            found.append((await joined(new[0], token), await joined(new[1], token)))
            await guest.prefer((new[0], ""), (old[0], ""))
            # Without the routes of a new site, as all addresses have one here.
            await mptcp.prefer(new[1], True)
            await mptcp.prefer(old[1], False)
            guest.state.lease, guest.state.prepared, guest._current6 = lease(new[0]), ("", ""), new[1]
            left = {a: (await retire(guest, a)).retired for a in dict.fromkeys((HOME6, *old)) if a != HOME}
            assert left == {a: a != HOME6 for a in left}, "only the carried one stays"
            for one, other in ((far, near), (plain_far, plain_near)):
                ask(one, other)
            old = new
        for address in old:
            await guest.withdraw_all(address)
            await guest.link.move_out(address)
        return found

    with longer_way(scene.server, HOME6, tmp_path), scene.server.inside():
        assert asyncio.run(moves()) == [(True, True)] * MOVES


def test_an_address_that_is_withdrawn_takes_along_who_has_no_other(scene: Scene) -> None:
    """Why one that takes new connections is left as it is: who comes between a look and the withdrawal is cut."""
    scene.client.ip("mptcp", "limits", "set", "subflows", "2", "add_addr_accepted", "0")
    scene.opened(MPTCP)
    assert [len(c.subflows) for c in scene.there() if c.mptcp] == [1]
    with scene.server.inside():
        asyncio.run(mptcp.withdraw(0, HOME))
    assert [c for c in scene.there() if c.mptcp] == []
