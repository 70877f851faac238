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
from vmacro.pki.store import Store
from vmacro.provisioning import agent_package, rtt_program, wheels

HOSTS, GUESTS, RESPONDERS, PROBERS = "hypervisors", "guests", "responders", "probers"


@dataclass(frozen=True)
class Parts:
    """What is brought to machines: wheels of the host side; the agent as a package, and alone; the RTT tool."""

    wheels: tuple[Path, ...]
    agent_package: Path
    agent: Path
    rtt: Path


def parts() -> Parts:
    """Built where they are not in the cache. Raises ProvisioningError."""
    return Parts(tuple(wheels.built()), agent_package.built(), agent_package.zipapp(), rtt_program.built())


def derived(settings: Settings, brought: Parts, addresses: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """A static inventory, as Ansible's YAML plugin reads it (JSON is YAML). `addresses`: of guests whose own the
    inventory does not say; those of which neither says anything are left out, also as targets of probers.

    Raises ConfigurationError where there is no authority yet.
    """
    hosts = {h.name: _variables(settings, h) for h in settings.inventory.hosts}
    common = {**_common(settings), "vmacro_wheels": [str(w) for w in brought.wheels], "vmacro_rtt": str(brought.rtt)}
    guests = {}
    for name, guest in settings.read.guests.items():
        user, _, address = guest.ssh.rpartition("@")
        if guest.ssh and (address or name in addresses):
            guests[name] = _guest(settings, name, user, address or addresses[name], brought)
    groups: dict[str, dict[str, dict[str, Any]]] = {
        HOSTS: hosts,
        GUESTS: guests,
        RESPONDERS: {name: {} for name in guests if settings.read.guests[name].probe is not None},
        PROBERS: {n: _prober(settings, n, addresses) for n, p in settings.read.probers.items() if p.ssh},
    }
    return {"all": {"vars": common, "children": {name: {"hosts": members} for name, members in groups.items()}}}


def target_address(guest: Guest, asked: str) -> str:
    """Where a prober finds a guest: by the name that clients use, or where it was `asked` to be; empty: unknown."""
    named = guest.probe.address if guest.probe is not None else ""
    return named or guest.ssh.rpartition("@")[2] or asked


def _prober(settings: Settings, name: str, addresses: Mapping[str, str]) -> dict[str, Any]:
    read = settings.read.probers[name]
    user, _, address = read.ssh.rpartition("@")
    found = {
        guest: (target_address(g, addresses.get(guest, "")), g.probe)
        for guest, g in settings.read.guests.items()
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


def _guest(settings: Settings, name: str, user: str, address: str, brought: Parts) -> dict[str, Any]:
    """Known by its name, whatever address it has today: its key is asked for by that."""
    read = settings.read.guests[name]
    options = [*_ssh_options(settings), f"-o HostKeyAlias={name}"]
    return {
        "ansible_host": address,
        "ansible_user": user,
        "ansible_become": user != "root",
        "ansible_ssh_common_args": " ".join(options),
        "vmacro_interface": read.interface,
        "vmacro_servers": list(read.servers),
        "vmacro_agent": str(brought.agent),
        "vmacro_agent_package": str(brought.agent_package),
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
        "vmacro_authority": Store(settings.named_folder("ca_dir")).ca_pem.decode(),
        "vmacro_operators": list(orchestrator.addresses),
    }
    if orchestrator.ssh_key:
        found["ansible_ssh_private_key_file"] = str(orchestrator.ssh_key)
    return found


def _variables(settings: Settings, host: Host) -> dict[str, Any]:
    """A host's own; what its inventory says under `ansible` comes last."""
    user, _, address = host.ssh.rpartition("@")
    read = settings.read.hosts[host.name]
    others = [h for h in settings.inventory.hosts if h.name != host.name]
    return {
        "ansible_host": address or host.address,
        "ansible_user": user or "root",
        "ansible_become": (user or "root") != "root",
        "vmacro_hypervisor": "xen" if host.uri.startswith("xen") else "kvm",
        "vmacro_emulation": read.emulation,
        "vmacro_address": host.address,
        "vmacro_tls_name": host.tls_name,
        "vmacro_peers": [{"name": h.name, "address": h.address, "tls_name": h.tls_name} for h in others],
        "vmacro_network": _network(settings, host),
        **read.ansible,
    }


def _network(settings: Settings, host: Host) -> dict[str, Any]:
    """Empty where the inventory leaves the site's network alone."""
    network = settings.read.sites[host.site].network
    if network is None:
        return {}
    first, last = network.dhcp_range
    return {
        "name": host.network,
        "bridge": f"{host.network}0",
        "gateway": str(network.gateway),
        "prefix": network.subnet.prefixlen,
        "dhcp_first": str(first),
        "dhcp_last": str(last),
        "lease_minutes": network.lease_minutes,
        "gateway6": str(network.subnet6[1]) if network.subnet6 else "",
    }


def playbooks() -> Path:
    """Beside the package in a checkout, under the prefix where it is installed."""
    beside = Path(__file__).resolve().parents[2] / "playbooks"
    return beside if beside.is_dir() else Path(sys.prefix) / "share/vmacro/playbooks"
