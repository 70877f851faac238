"""Which driver a host's hypervisor has: its own libvirt says what it is."""

from __future__ import annotations

from collections.abc import Callable

from vmacro.drivers.libvirt.base import LibvirtHypervisor
from vmacro.drivers.libvirt.connection import Connections, understood
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.drivers.libvirt.xen import XenHypervisor, XenSide
from vmacro.errors import UnsupportedError
from vmacro.model.nouns import Host
from vmacro.wire.text import printable

# By virConnectGetType.
QEMU, XEN = "QEMU", "Xen"
DRIVEN = (QEMU, XEN)


def hypervisor(
    host: Host, connections: Connections, side: Callable[[Host], XenSide] | None = None
) -> LibvirtHypervisor:
    """Connects to the host; `side` gives the host side of a host of Xen. Raises UnreachableError, UntrustedError,
    UnsupportedError."""
    kind = kind_of(host, connections)
    if kind == XEN:
        return XenHypervisor(host, connections, side)
    if kind == QEMU:
        return QemuHypervisor(host, connections)
    text = f"host {host.name}: runs {kind}: this vmacro drives {', '.join(DRIVEN)} only"
    raise UnsupportedError(text, "take it out of the inventory")


def kind_of(host: Host, connections: Connections) -> str:
    """What libvirt calls the host's hypervisor. Raises UnreachableError, UntrustedError."""
    connection = connections.get(host)
    with understood(host.name, "does not say which hypervisor it runs"):
        return printable(str(connection.getType()), 40)
