"""Which driver a host's hypervisor has: its own libvirt says what it is."""

from __future__ import annotations

from vmacro.drivers.libvirt.base import LibvirtHypervisor
from vmacro.drivers.libvirt.connection import Connections, understood
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.errors import UnsupportedError
from vmacro.model.nouns import Host
from vmacro.wire.text import printable

# By virConnectGetType.
DRIVERS: dict[str, type[LibvirtHypervisor]] = {"QEMU": QemuHypervisor}


def hypervisor(host: Host, connections: Connections) -> LibvirtHypervisor:
    """Connects to the host. Raises UnreachableError, UntrustedError, UnsupportedError."""
    connection = connections.get(host)
    with understood(host.name, "does not say which hypervisor it runs"):
        kind = printable(str(connection.getType()), 40)
    if kind not in DRIVERS:
        text = f"host {host.name}: runs {kind}: this vmacro drives {', '.join(DRIVERS)} only"
        raise UnsupportedError(text, "take it out of the inventory")
    return DRIVERS[kind](host, connections)
