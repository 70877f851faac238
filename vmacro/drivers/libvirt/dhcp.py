"""DHCP reservations: entries of a libvirt network's definition, of the one that runs and of the one that is stored.

libvirt compares a new entry with all others, adds it to both definitions or to neither, and does one update after the
other (virNetworkDefUpdateIPDHCPHost, virNetworkObjUpdate): of two that ask for one address, one gets it. It removes an
entry only if all of its attributes are as they were told, the name too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt

from vmacro.drivers.libvirt import xml
from vmacro.drivers.libvirt.connection import understood
from vmacro.errors import TakenError
from vmacro.model.facts import Reservation

_SECTION = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST


def reserve(host: str, network: Any, wanted: Reservation) -> None:
    """See ports.Hypervisor. `network` is a virNetwork."""
    what = f"DHCP reservation of {wanted.told} on network {network.name()}"
    with understood(host, what):
        where = _definitions(network, lambda entries: not any(_same(e, wanted) for e in entries))
        if not where:
            return
        try:
            _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, wanted, where)
        except libvirt.libvirtError:
            found = [entry for entries in _read(network).values() for entry in entries]
            rival = next((entry for entry in found if _excludes(entry, wanted)), None)
            if rival is not None:
                text = f"host {host}: {what}: there is one of {rival.told}"
                raise TakenError(text, f"virsh net-dumpxml {network.name()}") from None
            if _definitions(network, lambda entries: not any(_same(e, wanted) for e in entries)):
                raise  # nobody has made the same meanwhile


def release(host: str, network: Any, made: Reservation) -> None:
    """See ports.Hypervisor. `network` is a virNetwork."""
    with understood(host, f"DHCP reservation of {made.told} on network {network.name()} cannot be removed"):
        where = _definitions(network, lambda entries: made in entries)
        if not where:
            return
        try:
            _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, made, where)
        except libvirt.libvirtError:
            if _definitions(network, lambda entries: made in entries):
                raise  # nobody has removed it meanwhile


def stored(network: Any) -> str:
    """The definition that a network will have at its next start; '' where it has none, and ends with libvirt."""
    return str(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)) if network.isPersistent() else ""


def _read(network: Any) -> dict[int, tuple[Reservation, ...]]:
    """The entries of each definition, by its flag."""
    found = {libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE: xml.reservations(network.XMLDesc(0))}
    if text := stored(network):
        found[libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG] = xml.reservations(text)
    return found


def _definitions(network: Any, chosen: Callable[[tuple[Reservation, ...]], bool]) -> int:
    """The flags of the definitions whose entries are such: they may differ, where somebody has changed one of them."""
    return sum(flag for flag, entries in _read(network).items() if chosen(entries))


def _update(network: Any, command: int, entry: Reservation, where: int) -> None:
    network.update(command, _SECTION, -1, xml.reservation(entry), where)


def _same(one: Reservation, other: Reservation) -> bool:
    return (one.address, one.mac) == (other.address, other.mac)


def _excludes(one: Reservation, other: Reservation) -> bool:
    """libvirt takes no two entries with one address, MAC or name."""
    shared = one.address == other.address or ({one.mac} & {other.mac} - {""}) or ({one.name} & {other.name} - {""})
    return bool(shared) and not _same(one, other)
