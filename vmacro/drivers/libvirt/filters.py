"""What the network filters (formatnwfilter) of a domain's cards hold them to.

A rule that names $IP or $IPV6 passes what the card's parameter of that name says; without one libvirt learns IP, one
address, from the first packet or from DHCP (CTRL_IP_LEARNING), and keeps to it until the card goes. Filters refer to
others, and may give these parameters.
"""

from __future__ import annotations

import ipaddress
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from vmacro.drivers.libvirt import xml
from vmacro.model.filters import LIVE, STORED, Filter, Filters
from vmacro.wire import fields

# libvirt's own, as its package has them: a question less for each (src/nwfilter/xml).
_STOCK = {
    **dict.fromkeys(("clean-traffic", "clean-traffic-gateway", "no-ip-spoofing"), ("IP",)),
    **dict.fromkeys(("no-arp-spoofing", "no-arp-ip-spoofing"), ("IP",)),
    "no-ipv6-spoofing": ("IPV6",),
    **dict.fromkeys(("no-mac-spoofing", "no-arp-mac-spoofing", "no-mac-broadcast", "no-other-l2-traffic"), ()),
    **dict.fromkeys(("no-other-rarp-traffic", "qemu-announce-self", "qemu-announce-self-rarp"), ()),
    **dict.fromkeys(("no-ip-multicast", "no-ipv6-multicast", "allow-arp", "allow-dhcp", "allow-dhcpv6"), ()),
    **dict.fromkeys(("allow-dhcp-server", "allow-dhcpv6-server", "allow-ipv4", "allow-ipv6"), ()),
    **dict.fromkeys(("allow-incoming-ipv4", "allow-incoming-ipv6"), ()),
}
_VERSIONS = {"IP": 4, "IPV6": 6}
_PINNED = re.compile(r"\$(IP|IPV6)\b")
_SOURCES = ("srcipaddr", "arpsrcipaddr")
_DEEPEST = 16  # filters below each other
_MOST_READ, _MOST_FOLLOWED = 64, 1024  # of a domain: filters, each of which its host is asked for; references to them
_MOST_CHARACTERS = 1 << 16  # of a filter
Parameters = dict[str, tuple[str, ...]]


@dataclass
class _Found:
    """What one card's filters hold it to: by variable, the values given."""

    pinned: dict[str, set[str]] = field(default_factory=dict)
    known: bool = True

    def pin(self, variable: str, given: Parameters) -> None:
        self.pinned.setdefault(variable, set()).update(given.get(variable, ()))


class _Read:
    """The filters of one domain, each of which is asked for once."""

    def __init__(self, described: Callable[[str], str]) -> None:
        self._described = described
        self._found: dict[str, ElementTree.Element | None] = {}
        self._followed = 0

    def __call__(self, name: str) -> ElementTree.Element | None:
        """None where there is none, or no more are followed. Raises ValueError, and what `described` raises."""
        self._followed += 1
        if self._followed > _MOST_FOLLOWED:
            return None
        if name not in self._found and len(self._found) < _MOST_READ:
            text = self._described(name)
            self._found[name] = xml.parse(text) if 0 < len(text) <= _MOST_CHARACTERS else None
        return self._found.get(name)


def of(live: str, stored: str, described: Callable[[str], str]) -> tuple[Filter, ...]:
    """Of a domain's two definitions, the second '' where it has none; what is in both is told once. `described`: a
    filter's XML by name, '' where there is none. Raises ValueError, and what `described` raises."""
    read = _Read(described)
    found = [*_of(live, LIVE, read), *(_of(stored, STORED, read) if stored else ())]
    said = {(f["mac"], f["name"], f["versions"], f["allowed"], f["known"]): f for f in reversed(found)}
    decoded: tuple[Filter, ...] = fields.decode_as(Filters, [*reversed(said.values())], "filters")
    return decoded


def elsewhere(known: Iterable[Filter], described: Callable[[str], str]) -> tuple[Filter, ...]:
    """The same on a host whose filters `described` tells. Raises as of()."""
    read = _Read(described)
    found = [_held(xml.parse(here.reference), here.mac, here.where, read) for here in known]
    decoded: tuple[Filter, ...] = fields.decode_as(Filters, found, "filters")
    return decoded


def _of(text: str, where: str, read: _Read) -> Iterator[dict[str, object]]:
    for card in xml.parse(text).iterfind("./devices/interface"):
        mac = xml.attribute(card, "mac", "address").lower()
        for reference in card.iterfind("filterref"):
            yield _held(reference, mac, where, read)


def _held(reference: ElementTree.Element, mac: str, where: str, read: _Read) -> dict[str, object]:
    held = _Found()
    _follow(reference, {}, held, read, _DEEPEST)
    return {
        "mac": mac,
        "name": reference.get("filter", ""),
        "where": where,
        "versions": tuple(sorted(_VERSIONS[variable] for variable in held.pinned)),
        "allowed": tuple(sorted(a for values in held.pinned.values() for a in values)),
        "known": held.known,
        "reference": xml.in_one_line(reference),
    }


def _follow(reference: ElementTree.Element, given: Parameters, held: _Found, read: _Read, deep: int) -> None:
    """A reference's parameters go before those that are given from above."""
    name, own = reference.get("filter", ""), _parameters(reference)
    given = {**given, **own}
    if name in _STOCK:
        for variable in _STOCK[name]:
            held.pin(variable, given)
        return
    filter_ = read(name) if deep else None
    if filter_ is None:
        held.known = False
        return
    for rule in filter_.iterfind("rule"):
        for variable in {v for e in rule for value in e.attrib.values() for v in _PINNED.findall(value)}:
            held.pin(variable, given)
        if rule.get("direction") != "in" and not all(map(_is_understood, rule)):
            held.known = False
    for below in filter_.iterfind("filterref"):
        _follow(below, given, held, read, deep - 1)


def _is_understood(match: ElementTree.Element) -> bool:
    """Whether a rule's sources are those variables, or the address that no machine has yet: one that is written out, or
    that a parameter of another name gives, may be all that the card is held to."""
    said = [match.get(name, "") for name in _SOURCES]
    return all(not value or _PINNED.match(value) or value in ("0.0.0.0", "::") for value in said)


def _parameters(reference: ElementTree.Element) -> Parameters:
    """A parameter may be there several times. What is no address passes none."""
    found: dict[str, tuple[str, ...]] = {}
    for parameter in reference.iterfind("parameter"):
        name, value = parameter.get("name", ""), parameter.get("value", "")
        if name in _VERSIONS:
            found[name] = (*found.get(name, ()), *_addresses(value))
    return found


def _addresses(value: str) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(value)),)
    except ValueError:
        return ()
