"""This host's own libvirt: implements switchover.Domains, and passes on its events."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import libvirt

from vmacro.host.switchover import Tap
from vmacro.wire.host_verbs import GUEST, TUNNEL, MacUser

_TURNS = {libvirt.VIR_DOMAIN_EVENT_SUSPENDED: TUNNEL, libvirt.VIR_DOMAIN_EVENT_RESUMED: GUEST}
_LEFT = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED)
_CARDS = "./devices/interface"


class LibvirtDomains:
    """Opened when first asked. `happened` gets a domain, where to turn its legs, and whether it has left."""

    late = False

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._connection: Any = None
        self.happened: Callable[[str, str, bool], None] = lambda _domain, _to, _left: None

    def listen(self) -> bool:
        """Again where libvirt has ended since. Raises libvirtError."""
        if self._connection is not None and self._connection.isAlive():
            return True
        connection = libvirt.open(self._uri)
        _keep_alive(connection)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None)
        self._connection = connection  # only now: one that passes on no events must not count as heard
        return False

    def taps(self, domain: str) -> list[Tap]:
        """Raises libvirtError where libvirt cannot be asked."""
        try:
            cards = _cards(self._connection.lookupByName(domain))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return []
            raise
        return [card for card in cards if card.device]

    def expect(self, domain: str) -> None:
        """See switchover.Domains: libvirt's events of QEMU tell all."""

    def sees_pauses(self, domain: str) -> bool:
        """See switchover.Domains."""
        return True

    def number(self, domain: str) -> int:
        """What its hypervisor calls it; -1 where it does not run here. Raises libvirtError."""
        try:
            return int(self._connection.lookupByName(domain).ID())
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return -1
            raise

    def with_card(self, mac: str) -> list[MacUser]:
        """Raises libvirtError where libvirt cannot be asked."""
        found = []
        for domain in self._connection.listAllDomains():
            try:
                active = bool(domain.isActive())
                cards = [card for card in _cards(domain) if card.mac == mac]
                later = _cards(domain, libvirt.VIR_DOMAIN_XML_INACTIVE) if domain.isPersistent() else []
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # it ended meanwhile
                    raise
            else:
                device = cards[0].device if cards and active else ""
                if cards or any(card.mac == mac for card in later):
                    found.append(MacUser(domain.name(), device, active))
        return found

    def _on_event(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        if event in _TURNS:
            self.happened(domain.name(), _TURNS[event], (event, detail) == _LEFT)


def _cards(domain: Any, flags: int = 0) -> list[Tap]:
    cards = ElementTree.fromstring(domain.XMLDesc(flags)).iterfind(_CARDS)
    return [Tap(_named(card, "target", "dev"), _named(card, "mac", "address").lower()) for card in cards]


def _named(card: ElementTree.Element, tag: str, attribute: str) -> str:
    found = card.find(tag)
    return found.get(attribute, "") if found is not None else ""


def _keep_alive(connection: Any) -> None:
    """A driver within this process, as libvirt's test driver is, needs none and has none."""
    try:
        connection.setKeepAlive(5, 3)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
