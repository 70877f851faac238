"""A guest whose owner is root and means ill: what of its frames reaches a neighbour, its host, the other site, the WAN.
In the lab, on libvirt's own bridge and taps; tests/contract/test_spoofing.py has all of its lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt
import pytest

from tests.contract import frames
from tests.contract.towns import GATEWAY_MAC, Ear, Place
from tests.support import Vmacro, address_of, eventually, on_host, virsh
from vmacro import inventory
from vmacro.drivers.libvirt.connection import Connections
from vmacro.lab import namespaces
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
EVIL, VICTIM, HOST, OTHER = "mute", "web", "bucharest", "berlin"
LIE, TRUTH = b"this-is-a-lie", b"this-is-the-truth"
SENDER = "import socket;s=socket.socket(17,3);s.bind(('eth0',0));[s.send(bytes.fromhex(x)) for x in open('/frames')]"


@contextmanager
def console(lab: Lab, host: str, guest: str) -> Iterator[libvirt.virStream]:
    """Where a guest without an agent has a shell of root's."""
    known = inventory.load(lab.inventory_file).inventory.host(host)
    assert known is not None
    connections = Connections(lab.folder / "operator")
    with namespaces.inside(lab.namespace("operator")):
        connection = connections.get(known)
        stream = connection.newStream()
        connection.lookupByName(guest).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    try:
        yield stream
        stream.abort()
    finally:
        connections.close()


def typed(stream: libvirt.virStream, command: str) -> bytes:
    """And carried out; returns what the console says meanwhile, its echo first."""
    stream.send(f"{command}; echo over$((6*7))\n".encode())
    said = b""
    while b"over42" not in said:
        said += stream.recv(4096)
    return said


@contextmanager
def reserved(lab: Lab, address: str) -> Iterator[None]:
    """It has an address of its own, as an operator gives one to a guest without DHCP."""
    entry = f"<host mac='{lab.topology.mac(EVIL)}' ip='{address}'/>"
    virsh(lab, HOST, "net-update", "front", "add", "ip-dhcp-host", entry, "--live")
    try:
        eventually(
            lambda: address in on_host(lab, HOST, "nft", "list", "table", "bridge", "vmacro-guests"), "the guard"
        )
        yield
    finally:
        virsh(lab, HOST, "net-update", "front", "delete", "ip-dhcp-host", entry, "--live")


def tap_of(lab: Lab, guest: str) -> str:
    rows = virsh(lab, HOST, "domiflist", guest).splitlines()
    return next(row.split()[0] for row in rows if lab.topology.mac(guest) in row)


def test_it_reaches_nobody_as_somebody_else(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    own, victim, mac = "10.60.1.250", address_of(lab, VICTIM), lab.topology.mac(EVIL)
    here, there, client = lab.host(HOST).address, lab.host(OTHER).address, str(lab.topology.uplink("client").node.ip)
    liars = [victim, here, there, "10.60.1.1", "10.60.1.251", "10.60.2.10", "198.51.100.7"]

    def out(sender: str, receiver: str, data: bytes, card: str = mac, to: str = GATEWAY_MAC) -> bytes:
        return frames.datagram(card, to, sender, receiver, data, (7001, 14790))

    lies = [out(sender, receiver, LIE) for sender in liars for receiver in (client, here, there)]
    lies += [out(own, client, LIE, card=lab.topology.mac(VICTIM))]
    lies += [out(sender, victim, LIE, to=lab.topology.mac(VICTIM)) for sender in liars if sender != victim]
    claims = [frames.arp(mac, mac, taken, frames.BROADCAST, own, 1) for taken in (victim, "10.60.1.1")]
    lies += claims
    lies += [frames.datagram(mac, frames.BROADCAST, own, "255.255.255.255", LIE, (67, 68))]
    truths = [out(own, receiver, TRUTH) for receiver in (client, there)]
    asked = frames.arp(mac, mac, own, frames.BROADCAST, "10.60.1.1", 1)
    truths += [asked]
    truths += [out(own, victim, TRUTH, to=lab.topology.mac(VICTIM))]
    host = Place(lab.namespace(HOST))
    with reserved(lab, own), console(lab, HOST, EVIL) as shell:
        ears = {
            "the WAN": Ear(Place(lab.namespace("client")), "uplink"),
            "the other host": Ear(Place(lab.namespace(OTHER)), "uplink"),
            "its neighbour": Ear(host, tap_of(lab, VICTIM), sent=True),
        }
        bridge = Ear(host, "front0")
        typed(shell, "ip link set eth0 up; : > /frames")
        for frame in (*lies, *truths):
            typed(shell, f"echo {frame.hex()} >> /frames")
        typed(shell, f'python3 -c "{SENDER}"')
        for whom, ear in ears.items():
            assert ear.heard([LIE], TRUTH) == [], whom
        assert bridge.heard([LIE, *(claim[14:] for claim in claims)], asked[14:]) == []
        assert mac not in on_host(lab, HOST, "ip", "neigh", "show", victim)
        lab.wait_for_responder(victim)


def test_it_reaches_no_port_of_its_host(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    """Neither SSH nor libvirt nor a tunnel, by any of the host's addresses, as itself."""
    own, addresses = "10.60.1.250", ("10.60.1.1", lab.host(HOST).address)
    tries = [
        f"s=socket.socket();s.settimeout(2);print('answer',s.connect_ex(('{address}',{port})))"
        for port in (22, 16514, 14790)
        for address in addresses
    ]
    with reserved(lab, own), console(lab, HOST, EVIL) as shell:
        typed(shell, f"ip link set eth0 up; ip addr replace {own}/24 dev eth0; ip route replace default via 10.60.1.1")
        said = typed(shell, f'python3 -c "import socket;{";".join(tries)}"')
        typed(shell, "ip addr flush dev eth0")
    assert said.count(b"answer 11") == len(tries), said
