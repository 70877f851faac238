"""The inventory of a lab, as an operator would write it for real sites."""

from __future__ import annotations

import json
from pathlib import Path

from vmacro.lab.guests import NETWORK
from vmacro.lab.topology import OPERATOR, Guest, Topology


def text(topology: Topology, folder: Path, emulation: bool, xen: bool = False) -> str:
    """TOML. `emulation`: guests run without KVM. `xen`: hosts run Xen."""
    lines = [
        f"# Made by `vmacro lab up` for the lab {topology.name}.",
        "[orchestrator]",
        f'addresses = ["{topology.uplink(OPERATOR).node.ip}"]',
        f'ca_dir = "{folder / "pki"}"',
        f'pki_dir = "{folder / "operator"}"',
        f'state_dir = "{folder}"',
        f'ssh_key = "{folder / "ssh/id_ed25519"}"',
        f'ssh_known_hosts = "{folder / "ssh/known_hosts"}"',
        f'network_namespace = "{topology.network_namespace(OPERATOR)}"',
        "",
        "[policy]",
        "# Nobody in a lab keeps a name; its visitors may know no other address.",
        f"linger_s = {topology.linger_s:g}",
        "# Four fifths of the WAN, so that clients keep their share of it during the copy.",
        f"bandwidth_mib_s = {max(1, round(topology.wan.bandwidth_mbit * 0.8 * 1e6 / 8 / (1 << 20)))}",
        *(["# Under emulation a copy takes minutes.", "copy_timeout_s = 3000"] if xen else []),
    ]
    for site in topology.sites:
        hosts = topology.hosts_of(site)
        lines += ["", f"[sites.{site}]", *(["anti_spoofing = true"] if topology.wan.anti_spoofing else [])]
        owner = f"sites.{site}.network" if len(hosts) == 1 else ""
        lines += _network(topology, hosts[0], owner, xen) if owner else []
        for host in hosts:
            lines += _host(topology, host, emulation, xen)
            lines += [] if owner else _network(topology, host, f"hosts.{host}.guest_network", xen)
    for name, client in topology.clients.items():
        by_ssh, here = f'ssh = "root@{topology.uplink(name).node.ip}"', topology.network_namespace(name)
        lines += ["", f"[probers.{name}]", by_ssh if client.machine else f'network_namespace = "{here}"']
    for name, guest in topology.guests.items():
        lines += ["", f"[guests.{name}]", *_guest(guest)]
        # Guests of the cloud image answer no probes before they are provisioned, and then those of a machine.
        probers = [n for n, client in topology.clients.items() if client.machine or not guest.own_disk]
        lines += [_probe(prober, topology.clients[prober].visit_every_ms) for prober in probers[:1]]
    return "\n".join(lines) + "\n"


def _probe(prober: str, visit_every_ms: float) -> str:
    visits = f", visit_every_ms = {visit_every_ms:g}" if visit_every_ms else ""
    return f'probe = {{ from = "{prober}"{visits} }}'


def _guest(guest: Guest) -> list[str]:
    if not guest.own_disk:
        return []
    found = ['ssh = "root@"', f"servers = {json.dumps(guest.servers)}"]
    return [*found, "ansible = { guest_restart_servers = true }"]


def _network(topology: Topology, host: str, key: str, xen: bool) -> list[str]:
    """What a host routes, as `key`. The guard does not know the cards of Xen's guests."""
    shape = topology.hosts[host]
    first = shape.subnet[2] if shape.subnet.num_addresses < 64 else shape.subnet[10]
    last = first + topology.sites[shape.site].dhcp_addresses - 1
    lines = [f"[{key}]", f'subnet = "{shape.subnet}"', f'dhcp_first = "{first}"', f'dhcp_last = "{last}"']
    lines += [] if topology.sites[shape.site].guard and not xen else ["guard = false"]
    return lines + ([f'subnet6 = "{shape.subnet6}"'] if shape.subnet6 is not None else [])


def _host(topology: Topology, name: str, emulation: bool, xen: bool) -> list[str]:
    address, site = topology.uplink(name).node.ip, topology.hosts[name].site
    driver = "xen" if xen else "qemu"
    return [
        f"[hosts.{name}]",
        f'site = "{site}"',
        f'ssh = "root@{address}"',
        f'uri = "{driver}+tls://{address}/system"',
        f'peer_uri = "{driver}+tls://{name}/system"',
        f'address = "{address}"',
        f'network = "{NETWORK}"',
        f"memory_reserve_mib = {topology.sites[site].memory_reserve_mib}",
        f"emulation = {'true' if emulation else 'false'}",
        *(["plain_tunnel = true"] if topology.sites[site].plain_tunnel else []),
    ]
