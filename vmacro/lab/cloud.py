"""Guests as people have them: a writable disk, cloud-init, an SSH server; and nothing of ours before they are
provisioned."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vmacro.errors import LabError
from vmacro.lab import keys, namespaces, process
from vmacro.lab.machines import Machine
from vmacro.lab.topology import OPERATOR, Guest, Topology

DISKS = Path("/var/lib/libvirt/images")
SEED = "/var/lib/cloud/seed/nocloud"
SSH_PORT = 22
# Several managers are in the image; what a guest shall not have, does not start.
_UNITS = {
    "systemd-networkd": "systemd-networkd.service",
    "NetworkManager": "NetworkManager.service",
    "ifupdown": "networking.service",
}
_RENDERERS = {"systemd-networkd": "netplan", "NetworkManager": "network-manager", "ifupdown": "eni"}


# What every guest's kernel is told. init_on_free: what the guest no longer uses is zeroes, which QEMU does not send.
# Where emulation gets little processor time, a kernel finds its timer broken and panics, and systemd gives up waiting.
KERNEL_WORDS = (
    *("console=ttyS0", "quiet", "panic=-1", "init_on_free=1", "tsc=unstable", "no_timer_check"),
    *("systemd.default_timeout_start_sec=600", "systemd.default_device_timeout_sec=600"),
)


def disk_path(name: str, guest: Guest) -> Path:
    """On its host."""
    return DISKS / f"{name}.{guest.disk}"


def command_line(guest: Guest) -> list[str]:
    """What the guest's kernel is told."""
    masked = [f"systemd.mask={unit}" for manager, unit in _UNITS.items() if manager != guest.manager]
    return [*KERNEL_WORDS, *masked]


def create_disk(topology: Topology, name: str, home: Machine, image: Path, lab: Path) -> None:
    """A copy of the image's root at the guest's home, with what cloud-init shall find there. Idempotent."""
    guest = topology.guests[name]
    path = disk_path(name, guest)
    if process.run(home.inside(["find", path.parent, "-maxdepth", "1", "-name", path.name])):
        return
    work = lab / "disks" / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    process.run(["cp", "--sparse=always", image / "root.ext4", work / "root.raw"])
    _seed(topology, name, work, lab)
    part = path.with_suffix(".part")
    home.put(work / "root.raw", part)
    if guest.disk == "qcow2":
        process.run(home.inside(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", part, path]))
        process.run(home.inside(["rm", part]))
    else:
        process.run(home.inside(["mv", part, path]))
    shutil.rmtree(work)


def _seed(topology: Topology, name: str, work: Path, lab: Path) -> None:
    """NoCloud: its name, its SSH key, and who may log in; who manages its network."""
    private = lab / "ssh" / f"guest-{name}"
    public = keys.ssh_key(private, name)
    known = lab / "ssh/known_hosts"
    others = [line for line in known.read_text().splitlines() if not line.startswith(f"{name} ")]
    known.write_text("\n".join([*others, f"{name} {public.rsplit(' ', 1)[0]}"]) + "\n")
    user_data = {
        "hostname": name,
        "disable_root": False,
        "ssh_keys": {"ed25519_private": private.read_text(), "ed25519_public": public},
        "ssh_authorized_keys": [keys.ssh_key(lab / "ssh/id_ed25519", "vmacro lab")],
    }
    renderer = _RENDERERS[topology.guests[name].manager]
    files = {
        f"{SEED}/user-data": "#cloud-config\n" + json.dumps(user_data),
        f"{SEED}/meta-data": json.dumps({"instance-id": f"{name}-{topology.name}"}),
        "/etc/cloud/cloud.cfg.d/91-manager.cfg": json.dumps({"system_info": {"network": {"renderers": [renderer]}}}),
    }
    if topology.guests[name].manager == "ifupdown":  # what cloud-init makes up by itself asks for DHCPv6 too, and waits
        card = {"type": "physical", "name": "eth0", "mac_address": topology.mac(name), "subnets": [{"type": "dhcp4"}]}
        files[f"{SEED}/network-config"] = json.dumps({"version": 1, "config": [card]})
    commands = []
    for number, (path, text) in enumerate(files.items()):
        (work / str(number)).write_text(text)
        commands.append(f"write {work / str(number)} {path}")
    process.run(["debugfs", "-w", "-f", "-", work / "root.raw"], input="\n".join(commands) + "\n")


def wait_for_ssh(connection: Any, topology: Topology, name: str, timeout_s: float) -> str:
    """Until a guest lets the operator in; returns its address, as leased. Raises LabError."""
    deadline, trouble = process.Deadline(timeout_s), "it has no lease"
    while True:
        leases = connection.networkLookupByName("front").DHCPLeases()
        domain = ElementTree.fromstring(connection.lookupByName(name).XMLDesc())
        mac = domain.findall(".//interface/mac")[0].get("address")
        address = next((str(lease["ipaddr"]) for lease in leases if lease["mac"] == mac), "")
        try:
            if address:
                with namespaces.inside(topology.network_namespace(OPERATOR)):
                    socket.create_connection((address, SSH_PORT), timeout=5).close()
                return address
        except OSError as error:
            trouble = f"{address}: {error}"
        if deadline.over:
            raise LabError(f"guest {name}: no SSH: {trouble}", "look at its console log on the host")
        deadline.nap(0.5)
