"""A stretched subnet, and libvirt's migration on its own: what vmacro is compared with."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Network

import libvirt

from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.libvirt.channel import VirtioChannels
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.hypervisors import hypervisor
from vmacro.lab import guests, namespaces
from vmacro.lab.lab import Lab
from vmacro.lab.topology import WAN
from vmacro.model.copies import CopyStatistics
from vmacro.model.events import DomainChanged, Event, Side
from vmacro.model.nouns import Host, Policy

NETWORK, SUBNET, MAC = "stretch", IPv4Network("10.80.9.0/24"), "52:54:00:80:09:01"
_ROUTED = f"""\
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>{NETWORK}</name><forward mode='open'/>
<bridge name='{NETWORK}0' stp='off' delay='0'/><mac address='{MAC}'/>
<ip address='{SUBNET[1]}' prefix='24'><dhcp><range start='{SUBNET[10]}' end='{SUBNET[50]}'/></dhcp></ip>
<dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options></network>"""
_BRIDGED = f"<network><name>{NETWORK}</name><forward mode='bridge'/><bridge name='{NETWORK}0'/></network>"


def prepare(lab: Lab, guest: str) -> None:
    """Guest `stretched`, else like another, at the first site, whose subnet reaches the second by VXLAN. Idempotent."""
    home, far = lab.topology.sites
    connections, hosts = _connected(lab)
    try:
        at_home, at_far = connections.get(hosts[home]), connections.get(hosts[far])
        if guests.find({home: at_home, far: at_far}, "stretched") is not None:
            return
        _on_host(lab, far, "ip", "link", "add", f"{NETWORK}0", "type", "bridge")
        _on_host(lab, far, "ip", "link", "set", f"{NETWORK}0", "up")
        for connection, xml in ((at_home, _ROUTED), (at_far, _BRIDGED)):
            connection.networkDefineXML(xml).create()
        for here, there in ((home, far), (far, home)):
            remote = str(lab.topology.uplink(there).node.ip)
            vxlan = ["type", "vxlan", "id", "99", "remote", remote, "dstport", "4789"]
            _on_host(lab, here, "ip", "link", "add", "stretch-vx", "mtu", "1500", *vxlan)
            _on_host(lab, here, "ip", "link", "set", "stretch-vx", "master", f"{NETWORK}0", "up")
        router = ["ip", "-n", lab.namespace(WAN), "route", "replace", str(SUBNET)]
        subprocess.run([*router, "via", str(lab.topology.uplink(home).node.ip)], check=True)
        xml = guests.domain_xml(lab.topology, guest, (lab.folder / "accelerator").read_text())
        for old, new in (
            (f"<name>{guest}<", "<name>stretched<"),
            (f"network='{guests.NETWORK}'", f"network='{NETWORK}'"),
            (f"{guest}-console", "stretched-console"),
        ):
            xml = xml.replace(old, new)
        card, own = xml.split("<mac address='")[1].split("'")[0], xml.split("<uuid>")[1].split("<")[0]
        xml = xml.replace(card, MAC[:-2] + "02").replace(own, str(uuid.uuid4()))
        at_home.defineXML(xml).create()
        guests.wait_until_ready(ChannelAgents(VirtioChannels(connections)), hosts[home], "stretched", 180)
    finally:
        connections.close()


def place(lab: Lab, guest: str) -> str:
    """The site at which the guest runs."""
    connections, hosts = _connected(lab)
    try:
        found = guests.find({n: connections.get(h) for n, h in hosts.items()}, guest)
    finally:
        connections.close()
    assert found is not None, f"{guest} runs nowhere"
    return found


def address(lab: Lab, guest: str) -> str:
    """Once its responder can be reached there."""
    connections, hosts = _connected(lab)
    try:
        here = hosts[place(lab, guest)]
        facts = guests.wait_until_ready(ChannelAgents(VirtioChannels(connections)), here, guest, 180).agent
    finally:
        connections.close()
    lab.wait_for_responder(facts.address)
    return facts.address


def stop_agent(lab: Lab, guest: str) -> None:
    """By its console, where root is logged in: from now on nobody renumbers it."""
    connections, hosts = _connected(lab)
    try:
        connection = connections.get(hosts[place(lab, guest)])
        stream = connection.newStream()
        connection.lookupByName(guest).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        stream.send(b"\nsystemctl stop vmacro-agent; echo over$((6*7))\n")
        said = b""
        while b"over42" not in said:
            said += stream.recv(4096)
        stream.abort()
    finally:
        connections.close()


def go(lab: Lab, guest: str, to: str) -> tuple[list[Event], int]:
    """libvirt's live migration alone, bounded as vmacro's are; its events and the downtime in ms."""
    connections, hosts = _connected(lab)
    events: list[Event] = []
    try:
        source, destination = hosts[place(lab, guest)], hosts[to]
        with ExitStack() as watching:
            sides: tuple[tuple[Side, Host], ...] = (("source", source), ("destination", destination))
            for side, host in sides:
                watching.enter_context(hypervisor(host, connections).watch(guest, _noting(events, side, host)))
            policy = Policy(bandwidth_mib_s=19)
            hypervisor(source, connections).copy(guest, destination, policy, lambda _progress: None, lambda: False)
            time.sleep(0.3)
        found = hypervisor(destination, connections).statistics(guest)
    finally:
        connections.close()
    assert found is not None
    return events, found.downtime_ms


def counted(lab: Lab, guest: str, at: str) -> CopyStatistics:
    """Of the migration that brought the guest to this host."""
    connections, hosts = _connected(lab)
    try:
        found = hypervisor(hosts[at], connections).statistics(guest)
    finally:
        connections.close()
    assert found is not None, f"{guest}: {at} has no figures of its migration"
    return found


def _noting(events: list[Event], side: Side, host: Host) -> Callable[[str, str], None]:
    def see(event: str, detail: str) -> None:
        events.append(Event("", time.time_ns(), DomainChanged(side, host.name, event, detail)))

    return see


def _connected(lab: Lab) -> tuple[Connections, dict[str, Host]]:
    """Opened from the operator's namespace, where sockets then stay."""
    from vmacro import inventory

    hosts = {h.name: h for h in inventory.load(lab.inventory_file).inventory.hosts}
    connections = Connections(lab.folder / "operator")
    with namespaces.inside(lab.namespace("operator")):
        for host in hosts.values():
            connections.get(host)
    return connections, hosts


def _on_host(lab: Lab, host: str, *command: str) -> None:
    subprocess.run(lab.host(host).inside(command), check=True)
