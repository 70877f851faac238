"""The host side of one host, in memory: its ends of legs, and what it does by its libvirt's events."""

from __future__ import annotations

import ipaddress
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from vmacro.drivers.fake.state import Effect, FakeHost
from vmacro.errors import HostError
from vmacro.model.facts import (
    Flows,
    FoundLegEnd,
    Heard,
    Leaving,
    Leg,
    LinkFacts,
    MacUser,
    Offer,
    Reach,
    Tracked,
    Turn,
    WideWay,
)
from vmacro.wire.names import way_token
from vmacro.wire.taken_verbs import Port, Taken, Taking

if TYPE_CHECKING:
    from vmacro.drivers.fake.world import FakeWorld

LEAST = 64  # bytes of the smallest packets that are sent
_PUBLIC_KEY = "A" * 43 + "="


class FakeHostNetwork:
    """Implements ports.HostNetwork."""

    def __init__(self, world: FakeWorld, name: str) -> None:
        self._world, self._name = world, name

    def facts(self, bridge: str, peer: str, probe: str, mac: str = "", devices: tuple[str, ...] = ()) -> LinkFacts:
        with self._host("facts") as host:
            self._needs_bridge(host, bridge)
            for address in (a for a in (peer, probe) if a):
                self._needs_address(address)
            path_mtu = host.links.path_mtu if peer else 0
            used_by = host.used.get(probe, "") or self._world.user_of(probe, host)
            found = replace(host.links, path_mtu=path_mtu, used_by=used_by, legs=tuple(host.legs.values()))
            there = {network.bridge for network in host.networks.values()} | host.devices
            wide = tuple(WideWay(peer, way_token(move)) for move, peer in host.wide.items())
            found = replace(found, wide=wide, devices=tuple(d for d in devices if d in there))
            return replace(found, mac_users=_users(host, mac))

    def taken(self, wanted: Taking) -> Taken:
        with self._host("taken") as host:
            ports = tuple(p for p in wanted.ports if any(_meets(p, other) for other in host.taken.ports))
            return Taken(ports, tuple(cid for cid in wanted.cids if cid in host.taken.cids))

    def open(self, leg: Leg) -> Offer:
        side = "home" if leg.home.name == self._name else "away"
        bridge, peer = (leg.home_bridge, leg.away) if side == "home" else (leg.away_bridge, leg.home)
        with self._host("open", leg.domain) as host:
            self._needs_bridge(host, bridge)
            self._needs_address(leg.address)
            if leg.kind not in ("vxlan", "wireguard"):
                raise self._refused(f"kind {leg.kind!r}: not known")
            self._needs_a_guests(host, leg, bridge, at_home=side == "home")
            key = (leg.move_id, leg.address)
            if side == "away" or key not in host.legs:  # at home the route stays as it is
                host.legs[key] = FoundLegEnd(
                    side, leg.kind, leg.move_id, leg.domain, leg.address, leg.mac, bridge, peer.address, "guest"
                )
        return Offer(_PUBLIC_KEY, 14790) if leg.kind == "wireguard" else Offer()

    def join(self, leg: Leg, far: Offer) -> None:
        with self._host("join", leg.domain) as host:
            self._needs_leg(host, leg)

    def arm(self, domain: str) -> None:
        with self._host("arm", domain) as host:
            host.paused.discard(domain)
            host.armed[domain] = [key for key, end in host.legs.items() if end.domain == domain]

    def widen(self, move_id: str, peer: str) -> None:
        with self._host("widen") as host:
            self._needs_address(peer)
            own = self._world.inventory.host(self._name)
            if own is not None and peer == own.address:
                raise self._refused(f"{peer} is not another host's address")
            host.wide[move_id] = peer

    def narrow(self, move_id: str) -> None:
        with self._host("narrow") as host:
            host.wide.pop(move_id, None)

    def turned(self, domain: str) -> tuple[Turn, ...]:
        with self._host("turned", domain) as host:
            return tuple(host.turned.pop(domain, []))

    def turn(self, domain: str, to_guest: bool) -> None:
        with self._host("turn", domain) as host:
            host.turn(domain, "guest" if to_guest else "tunnel")
            if to_guest:
                host.fenced.discard(domain)

    def leaving(self, domain: str) -> Leaving:
        with self._host("leaving", domain) as host:
            if domain in host.fenced:
                return Leaving.FENCED
            heard = domain in host.armed and domain not in host.paused
            return Leaving.STAYED if heard else Leaving.UNKNOWN

    def point(self, leg: Leg, to_guest: bool) -> None:
        with self._host("point", leg.domain) as host:
            self._needs_leg(host, leg)
            host.point((leg.move_id, leg.address), "guest" if to_guest else "tunnel")

    def close(self, move_id: str, address: str = "") -> None:
        with self._host("close") as host:
            host.legs = {k: e for k, e in host.legs.items() if k[0] != move_id or address not in ("", k[1])}

    def flows(self, addresses: tuple[str, ...]) -> Tracked:
        with self._host("flows") as host:
            for address in addresses:
                self._needs_address(address)
            found = tuple(self._world.flows.get(address, Flows(address)) for address in addresses)
            return Tracked(True, found) if host.tracking else Tracked(False)

    def reach(self, asked: Reach) -> tuple[Heard, ...]:
        with self._host("reach") as host:
            if asked.bridge:
                self._needs_bridge(host, asked.bridge)
            for address in asked.addresses:
                self._needs_address(address)
            return tuple(self._heard(host, asked, address) for address in asked.addresses)

    def _heard(self, host: FakeHost, asked: Reach, address: str) -> Heard:
        """At once, which the real one cannot."""
        card = host.used.get(address, "") or self._world.user_of(address, host) if asked.bridge else ""
        tried = max(LEAST, host.links.path_mtu if asked.whole else 0)
        passes = host.narrow if address in self._world.addresses else self._world.answers(address) * LEAST
        return Heard(address, (card,) if card else (), min(tried, passes), tried)

    def _host(self, effect: str, guest: str = "") -> AbstractContextManager[FakeHost]:
        return self._world.reached(Effect(f"link.{effect} {self._name}", self._name, guest), "no SSH")

    def _needs_bridge(self, host: FakeHost, bridge: str) -> None:
        if bridge not in {network.bridge for network in host.networks.values()}:
            raise self._refused(f"no interface {bridge!r}")

    def _needs_a_guests(self, host: FakeHost, leg: Leg, bridge: str, at_home: bool) -> None:
        """As vmacro/host/guard.py has it."""
        found = ipaddress.ip_address(leg.address)
        users = {end.domain for end in host.legs.values() if end.address == leg.address}
        users |= {user.domain for user in _users(host, leg.mac) if user.domain and user.active}
        networks = [n for n in host.networks.values() if n.bridge == bridge]
        mine = _subnets(*(s for n in networks for s in (n.subnet, n.subnet6)))
        home = _subnets(leg.subnet)
        hosts = {leg.home.address, leg.away.address, *(n.gateway for n in networks)}
        nobodys = {a for s in (*mine, *home) for a in (s.network_address, s.broadcast_address)}
        if users - {leg.domain}:
            raise self._refused(f"{leg.address}: domain {min(users - {leg.domain})!r} has that here")
        if found.is_multicast or found.is_loopback or found.is_link_local or found in nobodys or leg.address in hosts:
            raise self._refused(f"a leg of {leg.address}, which is no guest's")
        elsewhere = any(m.version == s.version and m.overlaps(s) for m in mine for s in home)
        if any(found in s for s in mine) != at_home or (elsewhere and not at_home):
            raise self._refused(f"a leg of {leg.address}, which is elsewhere at home")
        if home and not any(found in s for s in home):
            raise self._refused(f"a leg of {leg.address}, which is not of its home's subnet {leg.subnet}")

    def _needs_leg(self, host: FakeHost, leg: Leg) -> None:
        if (leg.move_id, leg.address) not in host.legs:
            raise self._refused(f"move {leg.move_id!r} has no leg for {leg.address!r} on this host")

    def _needs_address(self, text: str) -> None:
        try:
            ipaddress.ip_address(text)
        except ValueError as error:
            raise self._refused(str(error)) from None

    def _refused(self, text: str) -> HostError:
        return HostError(f"host {self._name}: its host side refused: {text}")


def _meets(port: Port, other: Port) -> bool:
    return (port.protocol, port.number) == (other.protocol, other.number) and (
        port.address == other.address or "" in (port.address, other.address)
    )


def _users(host: FakeHost, mac: str) -> tuple[MacUser, ...]:
    found = []
    for each in host.domains.values():
        active = each.state in ("running", "paused")
        taps = [card.tap if active else "" for card in each.cards if mac and card.mac == mac]
        found += [MacUser(each.name, taps[0], active)] if taps else []
    heard = host.heard.get(mac, "")
    return (*found, *([MacUser("", heard, active=True)] if heard else []))


def _subnets(*texts: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(text) for text in texts if text]
