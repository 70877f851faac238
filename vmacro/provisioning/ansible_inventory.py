"""Ansible's inventory, derived from ours: the TOML file is the one source."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vmacro.inventory import Settings
from vmacro.model.nouns import Host
from vmacro.pki.store import Store

HOSTS = "hypervisors"


def derived(settings: Settings, wheels: list[Path]) -> dict[str, Any]:
    """A static inventory, as Ansible's YAML plugin reads it (JSON is YAML). `wheels`: what hosts install of us.

    Raises ConfigurationError where there is no authority yet.
    """
    hosts = {h.name: _variables(settings, h) for h in settings.inventory.hosts}
    common = {**_common(settings), "vmacro_wheels": [str(w) for w in wheels]}
    return {"all": {"vars": common, "children": {HOSTS: {"hosts": hosts}}}}


def _common(settings: Settings) -> dict[str, Any]:
    orchestrator = settings.orchestrator
    options = ["-o BatchMode=yes", "-o StrictHostKeyChecking=yes"]
    if orchestrator.ssh_known_hosts:
        options.append(f"-o UserKnownHostsFile={orchestrator.ssh_known_hosts}")
    if orchestrator.ssh_key:
        options.append("-o IdentitiesOnly=yes")
    found: dict[str, Any] = {
        "ansible_ssh_common_args": " ".join(options),
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
