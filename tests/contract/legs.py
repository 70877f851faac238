"""Legs between the two hosts of a town, and packets that go by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tests.contract import frames
from tests.contract.towns import BRIDGE, GuestPlace, HostPlace, Town, client, guest_address, own, own6
from vmacro.host.legs import LegEnd
from vmacro.model.facts import Leg

MOVE = "web-1"
LIE, TRUTH = b"this-is-a-lie", b"this-is-the-truth"


@dataclass(frozen=True)
class Legs:
    """Both of one guest's: IPv4, IPv6."""

    town: Town
    guest: GuestPlace
    legs: tuple[Leg, Leg]

    @property
    def devices(self) -> tuple[str, str]:
        return device(self.legs[0]), device(self.legs[1])

    def of(self, version: int) -> Leg:
        return self.legs[version == 6]

    def open(self) -> None:
        for leg in self.legs:
            one, two = self.town.side(self.town.one), self.town.side(self.town.two)
            near, far = one.open(leg), two.open(leg)
            one.join(leg, far)
            two.join(leg, near)
            one.point(leg, to_guest=False)

    def close(self) -> None:
        for host in (self.town.one, self.town.two):
            self.town.side(host).close(MOVE)


def device(leg: Leg) -> str:
    return end(leg).device


def end(leg: Leg) -> LegEnd:
    return LegEnd("home", leg.kind, leg.move_id, leg.domain, leg.address, leg.mac, leg.home_bridge, leg.away.address)


def legs_of(town: Town, guest: GuestPlace, kind: str, six: bool = False) -> Legs:
    """From host 1, at home, to host 2; over IPv6 if `six`."""
    addresses = guest_address(town.one, int(guest.mac[-2:], 16)), guest.slaac(1)
    home, away = (replace(h.noun, address=f"fd71:9:{h.number}::2" if six else h.uplink) for h in (town.one, town.two))
    subnets = ("10.71.1.0/24", "fd71:1::/64")
    four, sixth = (
        Leg(MOVE, "web", guest.mac, address, kind, home, away, BRIDGE, BRIDGE, subnet)
        for address, subnet in zip(addresses, subnets, strict=True)
    )
    return Legs(town, guest, (four, sixth))


@contextmanager
def opened(found: Legs) -> Iterator[Legs]:
    found.guest.holds(*(leg.address for leg in found.legs))
    found.open()
    try:
        yield found
    finally:
        found.close()


def reaches(legs: Legs, version: int, data: bytes = TRUTH) -> None:
    """A client reaches the guest by its leg, and is answered from the same address."""
    address = legs.of(version).address
    with legs.guest.udp(address) as server, legs.town.client.udp(client(legs.town, version), 0) as asker:
        asker.sendto(data, (address, 7000))
        found, peer = server.recvfrom(2000)
        assert found == data
        server.sendto(data[::-1], peer)
        assert asker.recv(2000) == data[::-1]


def mine(guest: GuestPlace, version: int) -> str:
    return own(guest) if version == 4 else own6(guest)


def uplink(host: HostPlace, version: int) -> str:
    return host.uplink if version == 4 else f"fd71:9:{host.number}::2"


def gateway(host: HostPlace, version: int) -> str:
    return host.gateway if version == 4 else f"fd71:{host.number}::1"


def inject(host: HostPlace, leg: Leg, to: str, *packets: bytes) -> None:
    """Into a tunnel's end, past all rules, as its host itself can; `to`: the other side."""
    ethertype = frames.IPV6 if ":" in leg.address else frames.IPV4
    with host.raw(device(leg), ethertype) as sock:
        for packet in packets:
            if leg.kind == "vxlan":
                known = end(leg)
                macs = known.hardware_address(to), known.hardware_address("away" if to == "home" else "home")
                packet = frames.ethernet(macs[1], macs[0], ethertype, packet)
            sock.send(packet)
