"""The inventory of a lab, as an operator would write it for real sites."""

from __future__ import annotations

import json
from pathlib import Path

from vmacro.lab.guests import NETWORK
from vmacro.lab.topology import OPERATOR, Guest, Topology


def text(topology: Topology, folder: Path, emulation: bool) -> str:
    """TOML. `emulation`: guests run without KVM."""
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
        "# Four fifths of the WAN, so that clients keep their share of it during the copy.",
        f"bandwidth_mib_s = {max(1, round(topology.wan.bandwidth_mbit * 0.8 * 1e6 / 8 / (1 << 20)))}",
    ]
    for name in topology.sites:
        lines += ["", *_site(topology, name), *_host(topology, name, emulation)]
    for name, client in topology.clients.items():
        by_ssh, here = f'ssh = "root@{topology.uplink(name).node.ip}"', topology.network_namespace(name)
        lines += ["", f"[probers.{name}]", by_ssh if client.machine else f'network_namespace = "{here}"']
    for name, guest in topology.guests.items():
        lines += ["", f"[guests.{name}]", *_guest(guest)]
        # Guests of the cloud image answer no probes before they are provisioned, and then those of a machine.
        probers = [n for n, client in topology.clients.items() if client.machine or not guest.own_disk]
        lines += [f'probe = {{ from = "{prober}" }}' for prober in probers[:1]]
    return "\n".join(lines) + "\n"


def _guest(guest: Guest) -> list[str]:
    if not guest.own_disk:
        return []
    found = ['ssh = "root@"', f"servers = {json.dumps(guest.servers)}"]
    return [*found, "ansible = { guest_restart_servers = true }"]


def _site(topology: Topology, name: str) -> list[str]:
    site = topology.sites[name]
    first = site.subnet[2] if site.subnet.num_addresses < 64 else site.subnet[10]
    lines = [f"[sites.{name}]", *(["anti_spoofing = true"] if topology.wan.anti_spoofing else [])]
    lines += [f"[sites.{name}.network]", f'subnet = "{site.subnet}"']
    lines += [f'dhcp_first = "{first}"', f'dhcp_last = "{first + site.dhcp_addresses - 1}"']
    return lines + ([f'subnet6 = "{site.subnet6}"'] if site.subnet6 is not None else [])


def _host(topology: Topology, name: str, emulation: bool) -> list[str]:
    address = topology.uplink(name).node.ip
    return [
        f"[hosts.{name}]",
        f'site = "{name}"',
        f'ssh = "root@{address}"',
        f'uri = "qemu+tls://{address}/system"',
        f'peer_uri = "qemu+tls://{name}/system"',
        f'address = "{address}"',
        f'network = "{NETWORK}"',
        f"memory_reserve_mib = {topology.sites[name].memory_reserve_mib}",
        f"emulation = {'true' if emulation else 'false'}",
    ]
