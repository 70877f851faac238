"""A guest that sends whatever it likes, in real network namespaces: what of it reaches a neighbour, its host, the other
site, and the WAN. Each lie is followed by a truth of the same guest, which must arrive: order is kept on the way.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.contract import frames, towns
from tests.contract.legs import device, legs_of
from tests.contract.towns import BRIDGE, GATEWAY_MAC, Ear, GuestPlace, Town, client, own, own6
from tests.support import eventually
from vmacro.wire.host_verbs import MacUser

pytestmark = pytest.mark.lab
LIE, TRUTH = b"this-is-a-lie", b"this-is-the-truth"
ALL4 = "255.255.255.255"
STRANGER = "52:54:00:00:00:99"


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with towns.town("vmt-spoof") as found:
        yield found


@pytest.fixture
def evil(town: Town) -> Iterator[socket.socket]:
    with town.evil.raw("eth0") as sock:
        yield sock


def out(guest: GuestPlace, sender: str, receiver: str, data: bytes, mac: str = "") -> bytes:
    """A datagram that its host is to forward."""
    return frames.datagram(mac or guest.mac, GATEWAY_MAC, sender, receiver, data)


# By whose address, at which host's uplink or guest it would pass for somebody else.
FOREIGN: dict[str, Callable[[Town], tuple[str, str]]] = {
    "of its neighbour": lambda t: (own(t.web), own6(t.web)),
    "of the gateway": lambda t: (t.two.gateway, "fd71:2::1"),
    "of its host": lambda t: (t.two.uplink, "fd71:9:2::2"),
    "of the other host": lambda t: (t.one.uplink, "fd71:9:1::2"),
    "of a guest elsewhere": lambda t: (own(t.local), own6(t.local)),
    "of nobody in its subnet": lambda t: ("10.71.2.199", "fd71:2::199"),
    "of the operator": lambda t: ("10.71.9.13", "fd71:9:3::1"),
    "of anybody": lambda t: ("198.51.100.7", "2001:db8::7"),
    "of a link": lambda t: ("169.254.1.1", "fe80::5054:ff:fe76:6d61"),
    "of itself, as IPv4 in IPv6": lambda t: ("127.0.0.1", f"::ffff:{own(t.evil)}"),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("whose", FOREIGN)
@pytest.mark.parametrize("where", ["the WAN", "the other host", "a neighbour", "its host"])
def test_an_address_that_is_not_its_own(town: Town, evil: socket.socket, whose: str, version: int, where: str) -> None:
    sender, mine = FOREIGN[whose](town)[version == 6], (own, own6)[version == 6](town.evil)
    there = {
        "the WAN": (client(town, version), Ear(town.client, "uplink")),
        "the other host": ((town.one.uplink, "fd71:9:1::2")[version == 6], Ear(town.one, "uplink")),
        "a neighbour": ((own, own6)[version == 6](town.web), Ear(town.web, "eth0")),
        "its host": ((town.two.gateway, "fd71:2::1")[version == 6], Ear(town.two, BRIDGE)),
    }
    receiver, ear = there[where]
    card = town.web.mac if where == "a neighbour" else GATEWAY_MAC
    evil.send(frames.datagram(town.evil.mac, card, sender, receiver, LIE))
    evil.send(frames.datagram(town.evil.mac, card, mine, receiver, TRUTH))
    assert ear.heard([LIE], TRUTH) == []


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mac", ["52:54:00:00:00:01", GATEWAY_MAC, STRANGER, "fe:54:00:00:00:02", "06:54:00:00:00:02"])
def test_a_mac_that_is_not_its_own(town: Town, evil: socket.socket, mac: str, version: int) -> None:
    """Also with an address of its own; and the bridge goes on knowing where its neighbour is."""
    mine, ear = (own, own6)[version == 6](town.evil), Ear(town.client, "uplink")
    evil.send(out(town.evil, mine, client(town, version), LIE, mac))
    evil.send(out(town.evil, mine, client(town, version), TRUTH))
    assert ear.heard([LIE], TRUTH) == []
    reaches(town, town.web)


def reaches(town: Town, guest: GuestPlace) -> None:
    """From the WAN, there and back, by both families."""
    for version, address in ((4, own(guest)), (6, own6(guest))):
        with guest.udp(address) as server, town.client.udp(client(town, version), 0) as asker:
            asker.sendto(b"anybody?", (address, 7000))
            data, peer = server.recvfrom(100)
            server.sendto(data, peer)
            assert asker.recv(100) == b"anybody?"


def arp(town: Town, sender_mac: str, sender: str, vlan: bool = False) -> bytes:
    return frames.arp(town.evil.mac, sender_mac, sender, frames.BROADCAST, town.two.gateway, 1, vlan)


CLAIMS: dict[str, Callable[[Town], bytes]] = {
    "ARP for its neighbour": lambda t: arp(t, t.evil.mac, own(t.web)),
    "ARP for the gateway": lambda t: arp(t, t.evil.mac, t.two.gateway),
    "ARP for nobody": lambda t: arp(t, t.evil.mac, "10.71.2.199"),
    "ARP that its address is another's": lambda t: arp(t, t.web.mac, own(t.evil)),
    "ARP in a VLAN": lambda t: arp(t, t.evil.mac, own(t.web), vlan=True),
    "its own ARP in a VLAN": lambda t: arp(t, t.evil.mac, own(t.evil), vlan=True),
    "NA for its neighbour": lambda t: advertisement(t, own6(t.evil), own6(t.web)),
    "NA for the gateway": lambda t: advertisement(t, own6(t.evil), "fd71:2::1"),
    "NA for the gateway's link-local": lambda t: advertisement(t, own6(t.evil), "fe80::5054:ff:fe76:6d61"),
    "NA for its neighbour's link-local": lambda t: advertisement(t, own6(t.evil), "fe80::5054:ff:fe00:1"),
    "NA by its neighbour": lambda t: advertisement(t, own6(t.web), own6(t.evil)),
    "NA by nobody": lambda t: advertisement(t, "::", own6(t.evil)),
    "NS that its neighbour's address is a duplicate": lambda t: frames.neighbour(
        t.evil.mac, "33:33:ff:00:00:01", "::", "ff02::1:ff00:1", 135, own6(t.web)
    ),
    "NS by the gateway's link-local": lambda t: frames.neighbour(
        t.evil.mac, "33:33:ff:00:00:01", "fe80::5054:ff:fe76:6d61", "ff02::1:ff00:1", 135, own6(t.web), t.evil.mac
    ),
    "RA": lambda t: frames.router_advertisement(t.evil.mac, "fe80::5054:ff:fe00:2", LIE),
    "DHCP offer": lambda t: frames.datagram(t.evil.mac, frames.BROADCAST, own(t.evil), ALL4, LIE, (67, 68)),
    "DHCPv6 offer": lambda t: frames.datagram(t.evil.mac, t.web.mac, own6(t.evil), own6(t.web), LIE, (547, 546)),
    "DHCP for another card": lambda t: frames.dhcp(t.evil.mac, t.web.mac, 7, LIE),
    "IGMP query": lambda t: frames.ethernet(
        t.evil.mac,
        "01:00:5e:00:00:01",
        frames.IPV4,
        frames.ip(own(t.evil), "224.0.0.1", 2, b"\x11\0\xee\xff" + bytes(4), 1),
    ),
    "spanning tree": lambda t: (
        frames.mac("01:80:c2:00:00:00") + frames.mac(t.evil.mac) + b"\0\x26\x42\x42\x03" + bytes(35)
    ),
    "another protocol": lambda t: frames.ethernet(t.evil.mac, frames.BROADCAST, 0x88CC, LIE),
}


def advertisement(town: Town, sender: str, about: str) -> bytes:
    return frames.neighbour(town.evil.mac, "33:33:00:00:00:01", sender, "ff02::1", 136, about, town.evil.mac)


@pytest.mark.parametrize("what", CLAIMS)
def test_a_claim_that_reaches_neither_its_host_nor_a_neighbour(town: Town, evil: socket.socket, what: str) -> None:
    claim, ears = CLAIMS[what](town), (Ear(town.two, BRIDGE), Ear(town.web, "eth0"))
    evil.send(claim)
    evil.send(frames.datagram(town.evil.mac, frames.BROADCAST, own(town.evil), "10.71.2.255", TRUTH))
    for ear in ears:
        assert ear.heard([claim[14:]], TRUTH) == []
    reaches(town, town.web)


HONEST: dict[str, Callable[[Town], bytes]] = {
    "ARP for itself": lambda t: arp(t, t.evil.mac, own(t.evil)),
    "ARP probe": lambda t: arp(t, t.evil.mac, "0.0.0.0"),
    "NA for itself": lambda t: advertisement(t, own6(t.evil), own6(t.evil)),
    "NA for its link-local": lambda t: advertisement(t, "fe80::5054:ff:fe00:2", "fe80::5054:ff:fe00:2"),
    "NA for a link-local that it made up": lambda t: advertisement(t, "fe80::1234", "fe80::1234"),
    "NS by itself": lambda t: frames.neighbour(
        t.evil.mac, "33:33:ff:00:00:01", own6(t.evil), "ff02::1:ff00:1", 135, "fd71:2::1", t.evil.mac
    ),
    "NS for its own duplicate": lambda t: frames.neighbour(
        t.evil.mac, "33:33:ff:00:00:02", "::", "ff02::1:ff00:2", 135, own6(t.evil)
    ),
    "DHCP for itself": lambda t: frames.dhcp(t.evil.mac, t.evil.mac, 1, LIE),
}


@pytest.mark.parametrize("what", HONEST)
def test_what_a_guest_needs_arrives(town: Town, evil: socket.socket, what: str) -> None:
    frame, ear = HONEST[what](town), Ear(town.two, BRIDGE)
    evil.send(frame)
    assert ear.heard([], frame[14:60]) == []


@pytest.mark.parametrize("version", [4, 6])
def test_its_host_answers_pings_and_nothing_else(town: Town, version: int) -> None:
    """By any of the host's addresses."""
    addresses = {4: (town.two.gateway, town.two.uplink), 6: ("fd71:2::1", "fd71:9:2::2")}[version]
    for address in addresses:
        town.evil.ping(address)
        with town.two.udp(address) as served, town.evil.udp((own, own6)[version == 6](town.evil), 0) as asker:
            asker.sendto(LIE, (address, 7000))
            town.evil.ping(address)
            served.setblocking(False)
            with pytest.raises(BlockingIOError):
                served.recv(100)
        with town.two.inside():
            listener = socket.create_server((address, 22), family=socket.AF_INET6 if version == 6 else socket.AF_INET)
        with listener, town.evil.inside():
            asker = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET)
            asker.settimeout(0.3)
            with asker, pytest.raises(TimeoutError):
                asker.connect((address, 22))


def test_what_the_host_sends_to_a_guest_its_neighbours_do_not_see(town: Town) -> None:
    """Also where the bridge has forgotten at which port it is, and floods."""
    ear, ports = Ear(town.evil, "eth0"), (town.web.tap, town.evil.tap)
    for tap in ports:
        town.two.ip("link", "set", "dev", tap, "type", "bridge_slave", "fdb_flush")
    with town.client.udp(client(town, 4), 0) as asker, town.web.udp(own(town.web)) as server:
        asker.sendto(LIE, (own(town.web), 7000))
        assert server.recv(100) == LIE
        asker.sendto(TRUTH, (own(town.evil), 7000))
    assert ear.heard([LIE], TRUTH) == []


def test_neighbours_reach_each_other_as_themselves(town: Town) -> None:
    for ours, theirs in ((own(town.evil), own(town.web)), (own6(town.evil), own6(town.web))):
        with town.evil.udp(ours, 0) as asker, town.web.udp(theirs) as server:
            asker.sendto(TRUTH, (theirs, 7000))
            assert server.recv(100) == TRUTH


def test_a_lease_is_heeded_at_once_and_forgotten_with_its_end(town: Town, evil: socket.socket) -> None:
    """One that is given up before its time has run out is remembered till then (test_guard): who could have another's
    given up would have its address."""
    fresh, ear = "10.71.2.77", Ear(town.two, BRIDGE)
    town.two.leases[fresh] = town.evil.mac
    town.two.over.add(fresh)
    town.two.write_files()
    eventually(lambda: fresh in town.two.rules("bridge", "vmacro-guests"), "the guard to see the lease")
    evil.send(out(town.evil, fresh, client(town, 4), TRUTH))
    assert ear.heard([], TRUTH) == []
    del town.two.leases[fresh]
    town.two.write_files()
    eventually(lambda: fresh not in town.two.rules("bridge", "vmacro-guests"), "the guard to see its end")
    evil.send(out(town.evil, fresh, client(town, 4), LIE))
    evil.send(out(town.evil, own(town.evil), client(town, 4), TRUTH))
    assert ear.heard([LIE], TRUTH) == []


def test_a_card_that_nobody_knows_passes_nothing_and_one_of_another_bridge_all(town: Town) -> None:
    """A tap that libvirt has made and not told of yet."""
    host = town.two
    host.ip("link", "add", "other0", "type", "bridge")
    host.ip("link", "add", "vnet77", "type", "veth", "peer", "name", "far77")
    host.ip("link", "set", "dev", "far77", "up")
    host.ip("link", "set", "dev", "vnet77", "master", BRIDGE, "up")
    ear = Ear(host, BRIDGE)
    with host.raw("far77") as card, town.evil.raw("eth0") as neighbour:
        card.send(frames.datagram(STRANGER, GATEWAY_MAC, "10.71.2.199", client(town, 4), LIE))
        neighbour.send(out(town.evil, own(town.evil), client(town, 4), TRUTH))
        assert ear.heard([LIE], TRUTH) == []
        host.ip("link", "set", "dev", "other0", "up")
        host.ip("link", "set", "dev", "vnet77", "master", "other0")
        eventually(lambda: "vnet77" in host.rules("bridge", "vmacro-guests"), "the guard to see the card")
        ear = Ear(host, "other0")
        card.send(frames.datagram(STRANGER, frames.BROADCAST, "10.99.2.199", ALL4, TRUTH))
        assert ear.heard([], TRUTH) == []
    host.ip("link", "del", "vnet77")
    host.ip("link", "del", "other0")


def test_rules_that_somebody_has_flushed_are_said_again(town: Town) -> None:
    """As `systemctl reload nftables` does, whose file begins so. What legs carry, too."""
    leg = legs_of(town, town.web, "vxlan").legs[0]
    for host in (town.one, town.two):
        town.side(host).open(leg)
    town.two.flush()
    eventually(lambda: device(leg) in town.two.rules("inet", "vmacro-legs"), "the guard to say what legs carry")
    for host in (town.one, town.two):
        town.side(host).close(leg.move_id)
    eventually(lambda: town.evil.mac in town.two.rules("bridge", "vmacro-guests"), "the guard to say it again")
    reaches(town, town.web)


def test_a_mac_that_the_bridge_has_heard_is_told_with_its_port(town: Town) -> None:
    """Of no domain's card that libvirt knows here; and the other site has not heard it."""
    town.evil.ping(town.two.gateway)
    heard = town.side(town.two).facts(BRIDGE, "", "", town.evil.mac).mac_users
    assert heard == (MacUser("", town.evil.tap, active=True),)
    assert town.side(town.one).facts(BRIDGE, "", "", town.evil.mac).mac_users == ()
    own = town.side(town.two).facts(BRIDGE, "", "", GATEWAY_MAC).mac_users
    assert own == (MacUser("", BRIDGE, active=True),), "the host's own"
