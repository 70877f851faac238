"""The agent's DHCP client on a card that goes away and comes back, as Xen's does after a move."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from guest_agent.lease import LeaseKeeper
from guest_agent.ports import NoLeaseError
from tests.contract.towns import Place
from vmacro.lab import namespaces
from vmacro.lab.namespaces import create

pytestmark = pytest.mark.lab
GUEST = "vmt-dhcp-guest"
DISCOVER = b"\x35\x01\x01"  # option 53, DHCPDISCOVER (RFC 2132 section 9.6)
IP = 0x0800


@pytest.fixture
def guest() -> Iterator[Place]:
    namespaces.remove_all([GUEST])
    create(GUEST)
    place = Place(GUEST)
    try:
        place.ip("link", "add", "eth0", "type", "veth", "peer", "name", "wire")
        for device in ("eth0", "wire"):
            place.ip("link", "set", device, "up")
        yield place
    finally:
        namespaces.remove_all([GUEST])


def asked_at(sock: socket.socket, until_s: float) -> list[float]:
    """When somebody asked for a lease."""
    found = []
    while time.monotonic() < until_s:
        sock.settimeout(max(until_s - time.monotonic(), 0.001))
        try:
            if DISCOVER in sock.recv(2048):
                found.append(time.monotonic())
        except TimeoutError:
            break
        except OSError:
            continue  # the wire is down with it
    return found


def test_it_asks_again_once_the_card_is_back(guest: Place) -> None:
    ended: list[BaseException] = []

    def ask() -> None:
        with guest.inside():
            try:
                asyncio.run(LeaseKeeper("eth0").acquire(6.0))
            except NoLeaseError as error:
                ended.append(error)

    wire = guest.raw("wire", IP)
    asking = threading.Thread(target=ask)
    with wire:
        asking.start()
        assert asked_at(wire, time.monotonic() + 1.0)
        guest.ip("link", "set", "eth0", "down")
        time.sleep(0.6)
        guest.ip("link", "set", "eth0", "up")
        back_s = time.monotonic()
        later = asked_at(wire, back_s + 3.0)
        asking.join(10.0)
    assert len(later) >= 3 and later[0] - back_s < 1.0, "it goes on as impatiently as it began"
    assert ended, "and nobody has answered"
