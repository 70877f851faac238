"""What legs carry and what they do not, packet by packet: in real network namespaces, with the real host side and
wireguard-go.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.contract import frames, towns
from tests.contract.legs import LIE, TRUTH, Legs, gateway, inject, legs_of, mine, opened, reaches, uplink
from tests.contract.towns import PATIENCE_S, Ear, Town, client

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with towns.town("vmt-legs") as found:
        yield found


WAYS = ["wireguard", "wireguard over IPv6", "vxlan"]


@pytest.fixture(scope="module", params=WAYS)
def legs(request: pytest.FixtureRequest, town: Town) -> Iterator[Legs]:
    kind, _, over = request.param.partition(" over ")
    with opened(legs_of(town, town.web, kind, six=bool(over))) as found:
        yield found


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_is_reached_through_its_leg_in_whole_packets(legs: Legs, version: int) -> None:
    reaches(legs, version)
    whole = 1500 - 8 - (20 if version == 4 else 40)
    reaches(legs, version, bytes(i % 251 for i in range(whole)))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["to the guest", "from the guest"])
def test_a_connection_that_sends_much_is_not_held_up(legs: Legs, way: str, version: int) -> None:
    """Kernels hand on what one sends as few large segments, each way."""
    address, much = legs.of(version).address, bytes(1 << 20)
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with legs.guest.inside():
        listener = socket.create_server((address, 7001), family=family)
    with legs.town.client.inside():
        asker = socket.create_connection((address, 7001), PATIENCE_S)
    with listener, asker, listener.accept()[0] as answerer:
        sender, receiver = (asker, answerer) if way == "to the guest" else (answerer, asker)
        receiver.settimeout(PATIENCE_S)
        sending = threading.Thread(target=sender.sendall, args=[much])
        sending.start()
        deadline, missing = time.monotonic() + PATIENCE_S, len(much)
        while missing:
            missing -= len(receiver.recv(1 << 16))
            assert time.monotonic() < deadline, f"{missing} bytes have not come"
        sending.join()


# What leaves the tunnel at home, by a host elsewhere that sends what it likes: (version) -> sender, receiver.
OUT_AT_HOME: dict[str, Callable[[Legs, int], tuple[str, str]]] = {
    "as a guest that is at home": lambda x, v: (mine(x.town.local, v), client(x.town, v)),
    "as the home host": lambda x, v: (uplink(x.town.one, v), client(x.town, v)),
    "as its own host": lambda x, v: (uplink(x.town.two, v), client(x.town, v)),
    "as the guest's address there": lambda x, v: (mine(x.town.web, v), client(x.town, v)),
    "as anybody": lambda x, v: ("198.51.100.7" if v == 4 else "2001:db8::7", client(x.town, v)),
    "as a client to a guest at home": lambda x, v: (client(x.town, v), mine(x.town.local, v)),
    "as its own host to the home host": lambda x, v: (uplink(x.town.two, v), uplink(x.town.one, v)),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("what", OUT_AT_HOME)
def test_at_home_a_leg_passes_its_own_address_alone(legs: Legs, what: str, version: int) -> None:
    sender, receiver = OUT_AT_HOME[what](legs, version)
    town, leg = legs.town, legs.of(version)
    reaches(legs, version)
    out = receiver == client(town, version)
    ear, truth = (Ear(town.client, "uplink"), receiver) if out else (Ear(town.local, "eth0"), mine(town.local, version))
    with town.one.udp(uplink(town.one, version)) as served:
        inject(town.two, leg, "home", frames.udp(sender, receiver, LIE), frames.udp(leg.address, truth, TRUTH))
        assert ear.heard([LIE], TRUTH) == []
        served.setblocking(False)
        with pytest.raises(BlockingIOError):
            served.recv(100)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("to", ["a neighbour", "another address of the guest", "the host", "a client"])
def test_away_a_leg_passes_what_is_for_its_own_address_alone(legs: Legs, to: str, version: int) -> None:
    """By a home host that sends what it likes."""
    town, leg = legs.town, legs.of(version)
    reaches(legs, version)
    receiver = {
        "a neighbour": mine(town.evil, version),
        "another address of the guest": mine(town.web, version),
        "the host": gateway(town.two, version),
        "a client": client(town, version),
    }[to]
    place, name = {"a neighbour": (town.evil, "eth0"), "a client": (town.client, "uplink")}.get(to, (town.web, "eth0"))
    ears = [Ear(place, name), Ear(town.web, "eth0")]
    with town.two.udp(gateway(town.two, version)) as served:
        sender = client(town, version)
        inject(town.one, leg, "away", frames.udp(sender, receiver, LIE), frames.udp(sender, leg.address, TRUTH))
        assert ears[1].heard([LIE], TRUTH) == []
        with town.client.udp(client(town, version), 0) as asker:  # and what would have come there by now
            asker.sendto(b"a-late-one", (mine(town.evil, version), 7000))
        if to == "a neighbour":
            assert ears[0].heard([LIE], b"a-late-one") == []
        served.setblocking(False)
        with pytest.raises(BlockingIOError):
            served.recv(100)


@pytest.mark.parametrize("version", [4, 6])
def test_a_guest_that_is_away_pings_its_home_host_and_no_more(legs: Legs, version: int) -> None:
    town, address = legs.town, legs.of(version).address
    for there in (gateway(town.one, version), uplink(town.one, version)):
        town.web.ping(there, address)
        with town.one.udp(there) as served, town.web.udp(address, 0) as asker:
            asker.sendto(LIE, (there, 7000))
            town.web.ping(there, address)
            served.setblocking(False)
            with pytest.raises(BlockingIOError):
                served.recv(100)


@pytest.mark.parametrize("version", [4, 6])
def test_a_neighbour_cannot_send_by_somebody_elses_leg(legs: Legs, version: int) -> None:
    town, ear = legs.town, Ear(legs.town.client, "uplink")
    with town.evil.raw("eth0") as evil:
        there = client(town, version)
        evil.send(frames.datagram(town.evil.mac, towns.GATEWAY_MAC, legs.of(version).address, there, LIE))
        evil.send(frames.datagram(town.evil.mac, towns.GATEWAY_MAC, mine(town.evil, version), there, TRUTH))
    assert ear.heard([LIE], TRUTH) == []
