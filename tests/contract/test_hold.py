"""What is held on a real bridge for a guest whose card is not up yet, and then given to it: a veth pair stands for the
vif of Xen, which likewise has a carrier only once the guest's end is up."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import libvirt
import pytest

from tests.contract.towns import Place
from tests.support import eventually
from vmacro.host import hold as holding_side
from vmacro.host.hold import MOST_FRAMES, Hold, Holding, has_carrier
from vmacro.lab import namespaces

pytestmark = pytest.mark.lab
HOST, GUEST = "vmt-hold-host", "vmt-hold-guest"
MAC, ADDRESS, OTHER = "52:54:00:00:00:01", "10.73.0.9", "10.73.0.8"


@pytest.fixture
def host() -> Iterator[Place]:
    """A bridge on which the guest is known, and no card of it."""
    namespaces.remove_all([HOST, GUEST])
    for name in (HOST, GUEST):
        namespaces.create(name)
    place = Place(HOST)
    try:
        place.ip("link", "add", "front0", "address", "52:54:00:00:00:fe", "type", "bridge")
        place.ip("link", "set", "front0", "up")
        place.ip("address", "add", "10.73.0.1/24", "dev", "front0")
        for address, mac in ((ADDRESS, MAC), (OTHER, "52:54:00:00:00:02")):  # now that the bridge has its own address
            place.ip("neighbour", "add", address, "lladdr", mac, "dev", "front0", "nud", "permanent")
        yield place
    finally:
        namespaces.remove_all([HOST, GUEST])


def held() -> Hold:
    """Once the kernel has heard of the port, by which the bridge has a carrier."""
    hold = Hold("front0", MAC)
    eventually(lambda: has_carrier("front0"), "a carrier of the bridge")
    return hold


def arrives(host: Place, up: bool = True) -> socket.socket:
    """Its vif comes, and it connects to it, if `up`."""
    host.ip("link", "add", "vif7.0", "type", "veth", "peer", "name", "eth0", "address", MAC, "netns", GUEST)
    host.ip("link", "set", "vif7.0", "master", "front0", "up")
    return connects() if up else socket.socket()


def connects() -> socket.socket:
    guest = Place(GUEST)
    guest.ip("address", "add", f"{ADDRESS}/24", "dev", "eth0")
    guest.ip("link", "set", "eth0", "up")
    heard = guest.udp(ADDRESS)
    heard.settimeout(1.0)
    return heard


def said(sock: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(sock.recv(100))
    except TimeoutError:
        return found


def test_what_was_sent_before_the_card_was_up_reaches_the_guest_in_order(host: Place) -> None:
    with host.inside():
        hold = held()
        sender = host.udp("10.73.0.1", 9000)
        for number in range(5):
            sender.sendto(b"%d" % number, (ADDRESS, 7000))
            sender.sendto(b"not for it", (OTHER, 7000))
        heard = arrives(host)
        assert said(heard) == [], "without a hold it would be lost"
        assert hold.release("vif7.0") == 5
        assert said(heard) == [b"0", b"1", b"2", b"3", b"4"]
        hold.close()
        for sock in (sender, heard):
            sock.close()


def test_the_bridge_has_a_port_for_as_long(host: Place) -> None:
    """And keeps its address: else its neighbours would go."""
    with host.inside():
        ports = [name for _, name in socket.if_nameindex()]
        hold = held()
        assert {name for _, name in socket.if_nameindex()} - {*ports} == {"vmachold0"}
        assert "52:54:00:00:00:fe" in host.ip("link", "show", "front0") and ADDRESS in host.ip("neighbour", "show")
        hold.close()
        assert [name for _, name in socket.if_nameindex()] == ports


def test_without_taps_another_port_must_do(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding_side, "_TUN", "/dev/net/none")
    with host.inside():
        arrives(host).close()
        hold, sender = held(), host.udp("10.73.0.1", 9000)
        sender.sendto(b"0", (ADDRESS, 7000))
        assert "vmachold" not in host.ip("link", "show") and hold.release("vif7.0") > 0
        hold.close()
        sender.close()


def test_a_bridge_that_is_none(host: Place) -> None:
    with host.inside():
        ports = socket.if_nameindex()
        with pytest.raises(OSError, match="No such device"):
            Hold("front7", MAC)
        assert socket.if_nameindex() == ports


def test_no_more_is_held_than_a_queue_would(host: Place) -> None:
    with host.inside():
        hold, sender = held(), host.udp("10.73.0.1", 9000)
        for number in range(MOST_FRAMES + 50):
            sender.sendto(b"%d" % number, (ADDRESS, 7000))
            hold.listen()
        arrives(host).close()
        assert hold.release("vif7.0") == MOST_FRAMES
        hold.close()
        sender.close()


def test_it_waits_for_the_carrier(host: Place) -> None:
    libvirt.virEventRegisterDefaultImpl()
    with host.inside():
        holding, sender, released = Holding(held()), host.udp("10.73.0.1", 9000), list[int]()
        sender.sendto(b"early", (ADDRESS, 7000))
        arrives(host, up=False)
        holding.release("vif7.0", released.append)
        for _ in range(20):
            libvirt.virEventRunDefaultImpl()
        assert not has_carrier("vif7.0") and released == []
        heard = connects()
        deadline_s = time.monotonic() + 5
        while not released:
            assert time.monotonic() < deadline_s
            libvirt.virEventRunDefaultImpl()
        assert released == [1] and said(heard) == [b"early"]
        holding.close()  # again
        for sock in (sender, heard):
            sock.close()
