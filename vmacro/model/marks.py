"""The marks that tell vmacro's DHCP reservations from all others: a name, made from a move and an address.

    vmacro-web-20261123-024501-3f9a-0a320161      10.50.1.97, kept by move web-20261123-024501-3f9a

A mark is a host name of one label (RFC 1123), as dnsmasq wants it, and another one for each address, since libvirt
takes a name once per network. It ends in the address, so that neither an operator's `vmacro-something` nor an entry of
ours that somebody has changed is taken for ours.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re

from vmacro.model.facts import Reservation

PLACEHOLDER_MAC_PREFIX = "02:76:03:"  # locally administered (IEEE 802)
_MOST = 47  # of a move's part: a label has 63 characters at most
_MARK = re.compile(rf"vmacro-([A-Za-z0-9-]{{1,{_MOST}}})-([0-9a-f]{{8}})")


def mark(move_id: str, address: str) -> str:
    """The name of a move's reservation of an IPv4 address."""
    return f"vmacro-{_label(move_id)}-{_digits(address)}"


def reservation(move_id: str, address: str, mac: str) -> Reservation:
    """A move's, of an address for a card."""
    return Reservation(address, mac, mark(move_id, address))


def placeholder(move_id: str, address: str) -> Reservation:
    """A move's, of an address that its guest still uses although it has a newer one: for nobody's card."""
    return reservation(move_id, address, placeholder_mac(address))


def placeholder_mac(address: str) -> str:
    """The MAC that a carried address is reserved for; no card has it."""
    return PLACEHOLDER_MAC_PREFIX + hashlib.sha256(address.encode()).digest()[:3].hex(":")


def is_marked(found: Reservation) -> bool:
    """Whether some move has made it. What is not marked is nobody's of ours to change or remove."""
    parts = _MARK.fullmatch(found.name)
    return parts is not None and parts[2] == _digits(found.address)


def move_in(found: Reservation) -> str:
    """What a mark says of its move: its id, or how that begins where it is long or no host name. '' without a mark."""
    parts = _MARK.fullmatch(found.name)
    return parts[1] if parts is not None and is_marked(found) else ""


def _label(move_id: str) -> str:
    label = re.sub("[^A-Za-z0-9]+", "-", move_id).strip("-")
    if label == move_id and len(label) <= _MOST:
        return label
    return f"{label[: _MOST - 9]}-{hashlib.sha256(move_id.encode()).hexdigest()[:8]}"


def _digits(address: str) -> str:
    return ipaddress.IPv4Address(address).packed.hex()
