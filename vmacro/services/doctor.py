"""All hosts and guests looked at, whether or not anything is to move. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from vmacro.errors import HostError
from vmacro.model.facts import HostView
from vmacro.model.moves import Finding
from vmacro.model.nouns import Host, Inventory
from vmacro.planning import checks, doctor
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import World
from vmacro.services.survey import survey, view


def examine(inventory: Inventory, world: World, tell: Callable[[str], None]) -> list[Finding]:
    """Everything that stands against moving anybody anywhere, each once; `tell` what is looked at."""
    return doctor.merged([*_hosts(inventory, world, tell), *_guests(inventory, world, tell)])


def _hosts(inventory: Inventory, world: World, tell: Callable[[str], None]) -> list[Finding]:
    views = []
    for host in inventory.hosts:
        tell(f"host {host.name}")
        views.append(_with_its_side(host, inventory, view(host, None, world), world))
    return doctor.examine(inventory, views)


def _with_its_side(host: Host, inventory: Inventory, seen: HostView, world: World) -> HostView:
    """What the host's own side says, seen from a host of another site."""
    bridge = seen.network.bridge if seen.network is not None else ""
    peer = next((h.address for h in inventory.hosts if h.site != host.site), "")
    if seen.trouble or not bridge:
        return seen
    try:
        return replace(seen, links=world.host_network(host).facts(bridge, peer, ""))
    except HostError as error:
        return replace(seen, links_trouble=error.message, links_hint=error.hint)


def _guests(inventory: Inventory, world: World, tell: Callable[[str], None]) -> Iterator[Finding]:
    for guest in inventory.guests:
        tell(f"guest {guest.name}")
        seen = survey(inventory, guest, world, ask_clients=False, ask_host_sides=True)
        for site in inventory.sites:
            yield from checks.check(Request(guest, site, SEAMLESS, inventory.policy), seen)
