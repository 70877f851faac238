"""All hosts and guests looked at, whether or not anything is to move. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from vmacro.errors import HostError
from vmacro.model.facts import HostView, Past
from vmacro.model.moves import Finding
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.planning import checks, doctor
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import World
from vmacro.services.survey import look_at, survey


def examine(
    inventory: Inventory, world: World, tell: Callable[[str], None], past: Callable[[Guest], Past]
) -> list[Finding]:
    """Everything that stands against moving anybody anywhere, each once; `tell` what is looked at; `past`: what the
    journal knows of a guest."""
    return doctor.merged([*_hosts(inventory, world, tell), *_guests(inventory, world, tell, past)])


def _hosts(inventory: Inventory, world: World, tell: Callable[[str], None]) -> list[Finding]:
    tell(f"hosts {', '.join(host.name for host in inventory.hosts)}")
    seen = look_at(inventory.hosts, None, world)
    views = [_with_its_side(host, inventory, found, world) for host, found in zip(inventory.hosts, seen, strict=True)]
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


def _guests(
    inventory: Inventory, world: World, tell: Callable[[str], None], past: Callable[[Guest], Past]
) -> Iterator[Finding]:
    for guest in inventory.guests:
        tell(f"guest {guest.name}")
        seen = survey(
            inventory,
            guest,
            world,
            ask_clients=False,
            ask_host_sides=True,
            past=past(guest),
            ask_names=True,
            compare=True,
        )
        for host in inventory.hosts:
            site = inventory.site(host.site)
            assert site is not None
            yield from checks.check(Request(guest, site, SEAMLESS, inventory.policy, host=host.name), seen)
