"""What guests may send on their host's bridge: each card what comes from its own MAC and its own addresses.

Which those are the host knows by itself: the MAC from libvirt, addresses from DHCP (leases and reservations), from the
MAC (SLAAC), and from legs. Nothing of it is learned from what a guest sends. A guest is no DHCP server, no router, and
answers for no address but its own (ARP, neighbour discovery); a frame that the host sends to a card goes to that card
alone. Neighbours talk to each other as before. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from vmacro.host import nft

TABLE = "vmacro-guests"
Pair = tuple[str, str]  # an address, and the MAC that has it
_LINK_LOCAL = IPv6Network("fe80::/64")


@dataclass(frozen=True)
class Bridge:
    """A bridge of guests: its own addresses, each with its length, as `10.1.0.1/24`. A link-local one, too."""

    name: str
    index: int
    addresses: tuple[str, ...]

    @property
    def gateways(self) -> frozenset[str]:
        """What the host itself is there."""
        return frozenset(a.partition("/")[0] for a in self.addresses)

    @property
    def prefixes6(self) -> list[IPv6Network]:
        """Those from which cards make themselves addresses (RFC 4862)."""
        found = [ipaddress.ip_interface(a).network for a in self.addresses if ":" in a]
        return [n for n in found if isinstance(n, IPv6Network) and n.prefixlen == 64 and n != _LINK_LOCAL]


@dataclass(frozen=True)
class Card:
    """A guest's card: the tap that it is at, its MAC, and its addresses of both families."""

    tap: str
    mac: str
    addresses: tuple[str, ...] = field(default=())

    @property
    def link_local(self) -> str:
        """As it makes it of its MAC."""
        return str(slaac(self.mac, _LINK_LOCAL))

    def of(self, version: int) -> list[str]:
        """Its addresses of one family, in order."""
        return sorted(a for a in self.addresses if ipaddress.ip_address(a).version == version)


def card(tap: str, mac: str, bridge: Bridge, known: Iterable[Pair]) -> Card:
    """A card with the addresses that are known to be its own. `known`: from DHCP and from legs."""
    own = {address for address, owner in known if owner == mac}
    own |= {str(slaac(mac, prefix)) for prefix in bridge.prefixes6}
    return Card(tap, mac, tuple(sorted(own - bridge.gateways)))


def slaac(mac: str, prefix: IPv6Network) -> IPv6Address:
    """The address that a card gives itself in a /64 (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return prefix[int.from_bytes(identifier, "big")]


def ruleset(cards: Iterable[Card], others: Iterable[str], gateways: Iterable[str]) -> str:
    """The script for nft. `others`: devices that are named like libvirt's taps and are at no such bridge; `gateways`:
    addresses of the host's own. A tap that is neither passes nothing: it is so new that nobody has looked at it."""
    found = sorted(cards, key=lambda c: c.tap)
    locals_ = {c.link_local for c in found} | {g for g in gateways if ":" in g and IPv6Address(g) in _LINK_LOCAL}
    body = _NEVER + _link_locals(locals_) + "".join(_own(c) for c in found) + _hooks(found, sorted(others))
    return nft.replaced("bridge", TABLE, body)


_NEVER = """\
  chain never {
    ether type { 8021q, 8021ad } drop
    udp sport { 67, 547 } drop
    icmpv6 type { mld-listener-query, nd-router-advert, nd-redirect } drop
    ip protocol igmp @th,0,8 0x11 drop
  }
"""


def _link_locals(taken: Iterable[str]) -> str:
    """Of IPv6, which is link-local as the guest likes, if it is nobody else's."""
    listed = sorted(taken)
    senders = f"    ip6 saddr {{ {', '.join(listed)} }} drop\n" if listed else ""
    targets = f"    @th,64,128 {{ {', '.join(_number(a) for a in listed)} }} drop\n" if listed else ""
    return f"""\
  chain claims_local {{
{targets}    @th,64,16 & 0xffc0 == 0xfe80 return
    drop
  }}
  chain from_local {{
{senders}    ip6 saddr fe80::/10 accept
    drop
  }}
"""


def _own(each: Card) -> str:
    mac, four, six = each.mac, each.of(4), [*each.of(6), each.link_local]
    hardware = "0x" + mac.replace(":", "")
    from4 = f"    ip saddr {{ {', '.join(four)} }} accept\n" if four else ""
    return f"""\
  chain {_claims(each)} {{
    @th,64,128 {{ {", ".join(_number(a) for a in six)} }} return
    goto claims_local
  }}
  chain {_from(each)} {{
    ether saddr != {mac} drop
    jump never
    arp saddr ether != {mac} drop
    arp saddr ip {{ {", ".join(["0.0.0.0", *four])} }} accept
    udp sport 68 udp dport 67 @th,288,48 != {hardware} drop
    ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
{from4}    icmpv6 type nd-neighbor-advert jump {_claims(each)}
    ip6 saddr :: icmpv6 type nd-neighbor-solicit jump {_claims(each)}
    ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, nd-router-solicit }} accept
    ip6 saddr :: icmpv6 type {{ mld-listener-report, mld2-listener-report }} accept
    ip6 saddr {{ {", ".join(six)} }} accept
    ip6 saddr fe80::/10 goto from_local
    drop
  }}
"""


def _hooks(cards: list[Card], others: list[str]) -> str:
    ways = [f'"{c.tap}" : goto {_from(c)}' for c in cards] + [f'"{tap}" : accept' for tap in others]
    taken = f"    iifname vmap {{ {', '.join(ways)} }}\n" if ways else ""
    named = ", ".join(f'"{c.tap}"' for c in cards)
    pairs = ", ".join(f'"{c.tap}" . {c.mac}' for c in cards)
    only = f"    oifname . ether daddr {{ {pairs} }} accept\n    oifname {{ {named} }} drop\n" if cards else ""
    return f"""\
  chain from_guests {{
    type filter hook prerouting priority filter; policy accept;
{taken}    iifname "vnet*" drop
  }}
  chain to_guests {{
    type filter hook postrouting priority filter; policy accept;
    ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 accept
{only}  }}
"""


def _from(each: Card) -> str:
    return f"from_{each.mac.replace(':', '')}"


def _claims(each: Card) -> str:
    return f"claims_{each.mac.replace(':', '')}"


def _number(address: str) -> str:
    return f"0x{int(IPv6Address(address)):032x}"
