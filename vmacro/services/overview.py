"""All hosts at a glance, and the guests that run there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from vmacro.errors import HostError
from vmacro.model.facts import HostFacts
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.planning import cards
from vmacro.ports import World
from vmacro.services.survey import deadline_s, late_view, where


@dataclass(frozen=True)
class HostState:
    """A host as it is now: its facts, None where `trouble` says why, and the guests that run there."""

    host: Host
    facts: HostFacts | None = None
    guests: tuple[str, ...] = ()
    trouble: str = ""


def overview(inventory: Inventory, world: World) -> list[HostState]:
    """All hosts as they are now."""
    asked = [partial(_state, host, inventory, world) for host in inventory.hosts]
    answers = world.side_by_side(asked, deadline_s(inventory.hosts))
    others = [HostState(host, trouble=late_view(host).trouble) for host in inventory.hosts]
    return [answer or other for answer, other in zip(answers, others, strict=True)]


def _state(host: Host, inventory: Inventory, world: World) -> HostState:
    try:
        hypervisor = world.hypervisor(host)
        facts = hypervisor.facts()
        found = [(guest.name, hypervisor.domain(guest.domain)) for guest in inventory.guests]
        return HostState(host, facts, tuple(name for name, domain in found if domain is not None and domain.running))
    except HostError as error:
        return HostState(host, trouble=error.message)


def leased_address(inventory: Inventory, guest: Guest, world: World) -> str:
    """What the site where the guest runs has leased to it, whoever asked for it there; '' where nothing says so.

    Raises HostError where a host cannot be asked.
    """
    for host in where(inventory.hosts, guest, world):
        domain, network = world.hypervisor(host).domain(guest.domain), world.hypervisor(host).network(host.network)
        if domain is not None and network is not None:
            leased = (network.address_of(card.mac) for card in cards.on_network(domain, network))
            return next((address for address in leased if address), "")
    return ""
