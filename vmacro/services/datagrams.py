"""Flows of datagrams, which no connection of the guest's tells of: its addresses' homes know them, by conntrack."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from vmacro.errors import HostError, UnknownVerbError
from vmacro.model.facts import Flows, HomedAddress, Tracked
from vmacro.model.nouns import Host
from vmacro.ports import World
from vmacro.wire.host_verbs import MOST_ASKED


def at(host: Host, addresses: Iterable[str], world: World) -> Tracked:
    """What a host's kernel tracks; nothing where its host side is of an older vmacro. Raises HostError, also where the
    kernel could not tell: then they may be in use."""
    try:
        return world.host_network(host).flows(tuple(addresses)[:MOST_ASKED])
    except UnknownVerbError:
        return Tracked(False)


def in_use(address: str, home: Host, world: World) -> bool:
    """Whether datagrams still come for an address, or go from it; not, where nobody tracks them. Raises HostError."""
    return any(found.any for found in at(home, [address], world).flows)


def known(homed: Iterable[HomedAddress], world: World) -> tuple[Flows, ...]:
    """Those of addresses that have some, as far as their homes answer: for people, and nothing depends on it."""
    found: list[Flows] = []
    for home, group in groupby(sorted(homed, key=lambda h: h.home.name), lambda h: h.home):
        try:
            found += at(home, [h.address for h in group], world).flows
        except HostError:
            continue
    return tuple(flows for flows in found if flows.any)
