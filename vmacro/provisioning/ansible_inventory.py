"""Ansible's inventory, derived from ours: the TOML file is the one source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vmacro.inventory import Guest, Settings
from vmacro.model.nouns import Host
from vmacro.pki import store as pki
from vmacro.pki.names import OPERATOR
from vmacro.provisioning import agent_package, rtt_program, wheels

HOSTS, GUESTS, RESPONDERS, PROBERS = "hypervisors", "guests", "responders", "probers"
ORCHESTRATORS = "orchestrators"


@dataclass(frozen=True)
class Parts:
    """What provisioning brings to machines: the wheels of the host side, with the hashes by which hosts know them, the
    agent as a package and alone, the RTT tool."""

    wheels: tuple[Path, ...]
    requirements: str
    agent_package: Path
    agent: Path
    rtt: Path


def parts() -> Parts:
    """All of it, built if it is not in the cache. Raises ProvisioningError."""
    built = tuple(wheels.built())
    return Parts(built, wheels.requirements(built), agent_package.built(), agent_package.zipapp(), rtt_program.built())


def derived(
    settings: Settings, artifacts: Parts, addresses: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """A static inventory, as Ansible's YAML plugin reads it (JSON is YAML). `addresses`: those of guests for which the
    inventory gives none. Guests without any known address are left out, also as targets of probers.

    Raises ConfigurationError if there is no authority yet.
    """
    hosts = {h.name: _variables(settings, h) for h in settings.inventory.hosts}
    common = {
        **_common(settings),
        "vmacro_wheels": [str(w) for w in artifacts.wheels],
        "vmacro_requirements": artifacts.requirements,
        "vmacro_rtt": str(artifacts.rtt),
    }
    guests = {}
    for name, guest in settings.raw_inventory.guests.items():
        user, _, address = guest.ssh.rpartition("@")
        if guest.ssh and (address or name in addresses):
            guests[name] = _guest(settings, name, user, address or addresses[name], artifacts)
    groups: dict[str, dict[str, dict[str, Any]]] = {
        HOSTS: hosts,
        GUESTS: guests,
        RESPONDERS: {name: {} for name in guests if settings.raw_inventory.guests[name].probe is not None},
        PROBERS: {n: _prober(settings, n, addresses) for n, p in settings.raw_inventory.probers.items() if p.ssh},
    }
    return {"all": {"vars": common, "children": {name: {"hosts": members} for name, members in groups.items()}}}


def of_this_machine(settings: Settings, command: str) -> dict[str, Any]:
    """A static inventory of the machine that we are on, as an orchestrator; `command`: vmacro's."""
    told = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "orchestrator_vmacro": command,
        "orchestrator_inventory": str(settings.path.resolve()),
    }
    return {"all": {"children": {ORCHESTRATORS: {"hosts": {"localhost": told}}}}}


def target_address(guest: Guest, asked: str) -> str:
    """Where a prober finds a guest: by the name that clients use, else at the address that the inventory gives, else
    at `asked`, which its host has said; '' where nobody knows."""
    named = guest.probe.address if guest.probe is not None else ""
    return named or guest.ssh.rpartition("@")[2] or asked


def _prober(settings: Settings, name: str, addresses: Mapping[str, str]) -> dict[str, Any]:
    read = settings.raw_inventory.probers[name]
    user, _, address = read.ssh.rpartition("@")
    found = {
        guest: (target_address(g, addresses.get(guest, "")), g.probe)
        for guest, g in settings.raw_inventory.guests.items()
        if g.probe is not None and g.probe.from_ == name
    }
    return {
        "ansible_host": address,
        "ansible_user": user,
        "ansible_become": user != "root",
        "vmacro_targets": {
            guest: {"address": where, "port": p.port, "mptcp": p.mptcp, "interval_ms": p.interval_ms}
            for guest, (where, p) in found.items()
            if where and p is not None
        },
        **read.ansible,
    }


def _guest(settings: Settings, name: str, user: str, address: str, artifacts: Parts) -> dict[str, Any]:
    """SSH looks up the guest's host key by the guest's name, since its address changes as it moves."""
    read = settings.raw_inventory.guests[name]
    options = [*_ssh_options(settings), f"-o HostKeyAlias={name}"]
    return {
        "ansible_host": address,
        "ansible_user": user,
        "ansible_become": user != "root",
        "ansible_ssh_common_args": " ".join(options),
        "vmacro_interface": read.interface,
        "vmacro_servers": list(read.servers),
        "vmacro_agent": str(artifacts.agent),
        "vmacro_agent_package": str(artifacts.agent_package),
        **({"vmacro_probe_port": read.probe.port} if read.probe is not None else {}),
        **read.ansible,
    }


def _ssh_options(settings: Settings) -> list[str]:
    orchestrator = settings.orchestrator
    options = ["-o BatchMode=yes", "-o StrictHostKeyChecking=yes"]
    if orchestrator.ssh_known_hosts:
        options.append(f"-o UserKnownHostsFile={orchestrator.ssh_known_hosts}")
    if orchestrator.ssh_key:
        options.append("-o IdentitiesOnly=yes")
    return options


def _common(settings: Settings) -> dict[str, Any]:
    orchestrator = settings.orchestrator
    found: dict[str, Any] = {
        "ansible_ssh_common_args": " ".join(_ssh_options(settings)),
        "vmacro_command": [sys.executable, "-m", "vmacro.cli.app"],
        "vmacro_inventory": str(settings.path.resolve()),
        "vmacro_authorities": {
            purpose: store.ca_pem.decode() for purpose, store in pki.stores(settings.named_folder("ca_dir")).items()
        },
        "vmacro_operators": list(orchestrator.addresses),
    }
    if orchestrator.ssh_key:
        found["ansible_ssh_private_key_file"] = str(orchestrator.ssh_key)
    return found


def _variables(settings: Settings, host: Host) -> dict[str, Any]:
    """A host's variables. What the inventory says under `ansible` comes last, and wins."""
    user, _, address = host.ssh.rpartition("@")
    read = settings.raw_inventory.hosts[host.name]
    others = [h for h in settings.inventory.hosts if h.name != host.name]
    return {
        "ansible_host": address or host.address,
        "ansible_user": user or "root",
        "ansible_become": (user or "root") != "root",
        "vmacro_hypervisor": "xen" if host.uri.startswith("xen") else "kvm",
        "vmacro_emulation": read.emulation,
        "vmacro_address": host.address,
        "vmacro_tls_name": host.tls_name,
        "vmacro_plain_tunnel": host.plain_tunnel,
        "vmacro_peers": [
            {"name": h.name, "address": h.address, "tls_name": h.tls_name, "plain_tunnel": h.plain_tunnel}
            for h in others
        ],
        "vmacro_clients": [OPERATOR, *(h.name for h in others)],
        "vmacro_network": _network(settings, host),
        **read.ansible,
    }


def _network(settings: Settings, host: Host) -> dict[str, Any]:
    """What the guests' network must be like; {} if the inventory leaves it alone."""
    network = settings.raw_inventory.network_of(host.name)
    if network is None:
        return {}
    first, last = network.dhcp_range
    return {
        "name": host.network,
        "bridge": f"{host.network}0",
        "subnet": str(network.subnet),
        "subnet6": str(network.subnet6 or ""),
        "guard": network.guard,
        "gateway": str(network.gateway),
        "prefix": network.subnet.prefixlen,
        "dhcp_first": str(first),
        "dhcp_last": str(last),
        "lease_minutes": network.lease_minutes,
        "gateway6": str(network.subnet6[1]) if network.subnet6 else "",
    }


def playbooks() -> Path:
    """Their folder: beside the package in a checkout, else under the prefix that vmacro is installed in."""
    beside = Path(__file__).resolve().parents[2] / "playbooks"
    return beside if beside.is_dir() else Path(sys.prefix) / "share/vmacro/playbooks"
