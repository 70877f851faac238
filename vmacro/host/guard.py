"""The guard: holds each guest of this host to its own MAC and addresses (guests.py says what that is).

`vmacro-guard BRIDGE...` runs for ever: it looks again whenever a device of the host or a file of libvirt's changes.
The host side calls refresh(), so that an address may be used as soon as its leg is open. If the guard ends, what it
said last stays in force. What it knows it reads anew each time:

    /run/libvirt/*/*.xml                  which card of which guest is at which tap: libvirt's status of its domains
    /var/lib/libvirt/dnsmasq/*.status     DHCP leases of a bridge
    /var/lib/libvirt/dnsmasq/*.hostsfile  DHCP reservations
    permanent neighbours on the bridge    addresses that came with legs (grants.py)

One thing it remembers: who had which lease first. DHCP knows a client by an identifier that anybody may send, so that a
guest can have its neighbour's lease given up, or put in its own card's name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2.iproute.linux import IPRoute

from vmacro.host import answers, grants, guests, leg_rules, nft, tunnels
from vmacro.host.guests import Bridge, Card, Pair
from vmacro.wire.names import DHCP_BORROWER

STATUS = Path("/run/libvirt")
DHCP = Path("/var/lib/libvirt/dnsmasq")
GUARDED = nft.RUN / "guarded"  # the bridges, while a guard looks after them
SAID = nft.RUN / "guests.nft"  # the rules that are in force, by the guard or the host side
HELD = nft.RUN / "leases.json"  # who had which lease first
# Whom vmacro reserves an address for that a guest still uses although it has a newer one: nobody's card.
PLACEHOLDER_MAC_PREFIX = "02:76:03:"


@dataclass(frozen=True)
class Known:
    """Whose an address is, as DHCP says; and those that it keeps for nobody's card. `held` and `reserved` are what
    `pairs` come from."""

    pairs: tuple[Pair, ...]
    kept: frozenset[str]
    held: tuple[Lease, ...] = ()
    reserved: frozenset[Pair] = frozenset()


class Lease(NamedTuple):
    """What DHCP has leased to a card, until when (s since 1970). `borrowed`: an agent will give it back at once."""

    address: str
    mac: str
    until: float
    borrowed: bool = False


def guarded() -> list[str]:
    """The bridges whose guests are held to their addresses, by name."""
    try:
        return GUARDED.read_text().split()
    except OSError:
        return []


def holds(bridge: str) -> bool:
    """Whether guests of this bridge are held to their addresses now: also while the guard does not run."""
    return bridge in guarded() and nft.stands("bridge", guests.TABLE)


def begin(bridges: Iterable[str]) -> None:
    """From now on the host side, too, sees to the guests of these bridges."""
    nft.RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    GUARDED.write_text(" ".join(bridges))


def refresh(ip: IPRoute) -> None:
    """Look again, now. Raises OSError, RefusedError, NetlinkError."""
    bridges = guarded()
    if bridges:
        look(ip, bridges)
    else:
        answers.say(ip)


def folders() -> list[Path]:
    """Where something changes when a guest comes or goes, or gets an address."""
    return [DHCP, *(folder for name in ("qemu", "libxl", "lxc") if (folder := STATUS / name).is_dir())]


def look(ip: IPRoute, bridges: Iterable[str]) -> None:
    """Read everything, and say what guests may send, unless that is in force already."""
    with nft.alone():
        taps, masters, found = dict(_taps()), _masters(ip), []
        known = [bridge for name in bridges if (bridge := _bridge(ip, name)) is not None]
        dhcp = _dhcp(taps.values())
        for bridge in known:
            found += _cards(ip, bridge, {t: mac for t, mac in taps.items() if masters.get(t) == bridge.index}, dhcp)
        _remember(dhcp.held)
        ours = {bridge.index for bridge in known}
        # One that is at no bridge yet is about to be put at one of ours.
        others = {name for name, master in masters.items() if name.startswith("vnet") and master not in {0, *ours}}
        rules = guests.ruleset(found, others, {g for bridge in known for g in bridge.gateways})
        if rules != _said() or not nft.stands("bridge", guests.TABLE):
            nft.apply(rules)
            SAID.write_text(rules)
    if tunnels.ends(ip) and not nft.stands("inet", leg_rules.TABLE):
        tunnels.filter_legs(ip)  # somebody has flushed all rules
    answers.say(ip)


def _said() -> str:
    try:
        return SAID.read_text()
    except OSError:
        return ""


def still_needed(ip: IPRoute, bridge: str, address: str, mac: str) -> bool:
    """Whether a guest that is here keeps an address that no leg brings any more, and that nothing else makes its own:
    it is back at the address's home, and connections still use it."""
    found = _bridge(ip, bridge) if bridge in guarded() else None
    masters = _masters(ip)
    here = [m for tap, m in _taps() if found is not None and masters.get(tap) == found.index]
    return found is not None and _kept(found, here, _dhcp(), address, mac)


def _kept(bridge: Bridge, here: Iterable[str], known: Known, address: str, mac: str) -> bool:
    """IPv4 is reserved as long as it is needed, IPv6 until the guest leaves."""
    if mac not in here:
        return False
    if ":" not in address:
        return address in known.kept
    at_home = any(ipaddress.ip_address(address) in prefix for prefix in bridge.prefixes6)
    return at_home and address not in guests.card("", mac, bridge, ()).addresses


def holders(address: str) -> set[str]:
    """The cards that have an IPv4 address by DHCP here, by MAC; of IPv6 it knows clients by other names (RFC 8415)."""
    if ":" in address:
        return set()
    known, now_s = _dhcp([mac for _, mac in _taps()]), time.time()
    leased = {(lease.address, lease.mac) for lease in known.held if lease.until > now_s}
    pairs = leased | {(a, mac) for a, mac in known.reserved if a not in known.kept}
    return {mac for a, mac in pairs if a == address}


def _cards(ip: IPRoute, bridge: Bridge, taps: dict[str, str], known: Known) -> list[Card]:
    granted = set(grants.granted(ip, bridge.index))
    legs = {(end.address, end.mac) for end in tunnels.ends(ip)}
    for address, mac in granted - legs:
        if not _kept(bridge, taps.values(), known, address, mac):
            grants.revoke(ip, bridge.index, address)
            granted.discard((address, mac))
    of_legs = dict(granted)  # a guest that is away keeps its address, whatever DHCP gives to whom meanwhile
    pairs = [(address, mac) for address, mac in known.pairs if of_legs.get(address, mac) == mac]
    return [guests.card(tap, mac, bridge, [*pairs, *granted]) for tap, mac in taps.items()]


def _bridge(ip: IPRoute, name: str) -> Bridge | None:
    for index in ip.link_lookup(ifname=name):
        found = ip.get_addr(index=index)
        return Bridge(name, index, tuple(f"{a.get('IFA_ADDRESS')}/{a['prefixlen']}" for a in found))
    return None


def _masters(ip: IPRoute) -> dict[str, int]:
    """Of each device by name: the index of its bridge, 0 for none."""
    return {str(x.get("IFLA_IFNAME")): int(x.get("IFLA_MASTER") or 0) for x in ip.get_links()}


def _taps() -> Iterator[tuple[str, str]]:
    """(tap, MAC) of each card of each domain that libvirt has here."""
    for file in sorted(STATUS.glob("*/*.xml")):
        try:
            root = ElementTree.fromstring(file.read_text())
        except (OSError, ElementTree.ParseError):
            continue  # gone meanwhile, or about to be written anew: we are told
        for interface in root.iterfind(".//devices/interface"):
            target, mac = interface.find("target"), interface.find("mac")
            if target is not None and mac is not None and target.get("dev"):
                yield str(target.get("dev")), str(mac.get("address")).lower()


def _dhcp(here: Collection[str] = ()) -> Known:
    """`here`: the cards that there are, by MAC."""
    leases = [lease for file in DHCP.glob("*.status") for lease in _leases(file) if _is_address(lease.address)]
    reserved = {pair for file in DHCP.glob("*.hostsfile") for pair in _reservations(file) if _is_address(pair[0])}
    kept = frozenset(a for a, m in reserved if m.startswith(PLACEHOLDER_MAC_PREFIX))
    others, now_s = {a for a, _ in reserved} - kept, time.time()
    held = first(leases, [lease for lease in _remembered() if lease.address not in others], here, now_s)
    in_use = {lease.address: lease.mac for lease in held if lease.mac in here and lease.until > now_s}
    # As dnsmasq does: an address is reserved in vain while another card has it.
    pairs = {(lease.address, lease.mac) for lease in held} | {(a, m) for a, m in reserved if in_use.get(a, m) == m}
    return Known(tuple(sorted(pairs)), kept, held, frozenset(reserved))


def first(leases: Iterable[Lease], before: Iterable[Lease], here: Collection[str], now_s: float) -> tuple[Lease, ...]:
    """Of each address the lease that counts: of who had it first, while that one's time runs and its card is here."""
    held = {old.address: old for old in before if old.mac in here and old.until > now_s and not old.borrowed}
    for lease in leases:
        if held.get(lease.address, lease).mac == lease.mac:
            held[lease.address] = lease
    return tuple(sorted(held.values()))


def _remembered() -> list[Lease]:
    try:
        return [
            Lease(str(a), str(mac), float(until), bool(borrowed))
            for a, mac, until, borrowed in json.loads(HELD.read_text())
        ]
    except (OSError, ValueError, TypeError):
        return []


def _remember(held: tuple[Lease, ...]) -> None:
    if [*held] != _remembered():
        HELD.write_text(json.dumps(held))


def _leases(file: Path) -> Iterator[Lease]:
    """As libvirt's leaseshelper writes them: among them, byte by byte, what a guest says that its name is."""
    with contextlib.suppress(OSError, ValueError):
        entries: Any = json.loads(file.read_text(errors="replace") or "[]")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                until = entry.get("expiry-time")
                ends = float(until) if isinstance(until, int) and 0 < until < 1 << 53 else math.inf
                borrowed = DHCP_BORROWER.hex(":") in str(entry.get("client-id"))
                yield Lease(str(entry.get("ip-address")), str(entry.get("mac-address")).lower(), ends, borrowed)


def _reservations(file: Path) -> Iterator[Pair]:
    """dnsmasq(8), --dhcp-hostsfile: MAC,ADDRESS[,NAME]."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            words = line.split(",")
            if len(words) > 1:
                yield words[1].strip("[]"), _mac(words[0])


def _mac(text: str) -> str:
    """libvirt writes an entry's MAC as it was given: in any case, with one digit or two for a byte."""
    return ":".join(byte.zfill(2) for byte in text.lower().split(":")) if text.count(":") == 5 else text.lower()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
