"""What moves under way in this process count on at their destinations, so that no two count on the same: memory, and
the address to come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from vmacro.model.batches import Maintenance
from vmacro.model.facts import HostView, NetworkFacts, Survey
from vmacro.model.moves import Plan
from vmacro.planning import closed


class Reservations:
    """Shared by the moves of a process. The memory of a guest that has arrived is counted twice until its move ends:
    a move may be rejected for that, but no host runs out of memory. `maintenance`: hosts that get no guests,
    whoever asks for it."""

    def __init__(self, maintenance: Callable[[], tuple[Maintenance, ...]] = tuple) -> None:
        self._maintenance = maintenance
        self._lock = threading.Lock()
        self._under_way: dict[str, Plan] = {}  # by move

    @contextmanager
    def planned(self, survey: Survey, plan: Callable[[Survey], Plan]) -> Iterator[Plan]:
        """The plan made of a survey that counts what others have reserved; reserves its own for as long as this is
        open. Raises what `plan` raises."""
        with self._lock:
            chosen = plan(replace(survey, views=self._counted(survey.views)))
            self._under_way[chosen.move_id] = chosen
        with self._given_back(chosen):
            yield chosen

    @contextmanager
    def held(self, plan: Plan) -> Iterator[None]:
        """Reserves what a plan of an earlier attempt counts on, for as long as this is open."""
        with self._lock:
            self._under_way[plan.move_id] = plan
        with self._given_back(plan):
            yield

    def counted(self, views: tuple[HostView, ...]) -> tuple[HostView, ...]:
        """What was seen of the hosts, with what moves under way have reserved, and which are in maintenance.
        Idempotent."""
        marked = closed.marked(views, self._maintenance())
        with self._lock:
            return self._counted(marked)

    @contextmanager
    def _given_back(self, plan: Plan) -> Iterator[None]:
        try:
            yield
        finally:
            with self._lock:
                del self._under_way[plan.move_id]

    def _counted(self, views: tuple[HostView, ...]) -> tuple[HostView, ...]:
        return tuple(self._with_addresses(self._with_memory(view)) for view in views)

    def _with_memory(self, view: HostView) -> HostView:
        if view.facts is None:
            return view
        reserved = sum(plan.memory_mib for plan in self._under_way.values() if plan.destination.name == view.host)
        return replace(view, facts=replace(view.facts, reserved_mib=reserved))

    def _with_addresses(self, view: HostView) -> HostView:
        """Addresses of this host's DHCP that moves under way have reserved count as taken, so that the next guest gets
        another one. Who answers for one of them says nothing about that other one."""
        network = view.network
        if network is None:
            return view
        coming = [plan for plan in self._under_way.values() if plan.destination.site == view.site]
        addresses = {plan.new_address: plan.mac for plan in coming if _gives(network, plan.new_address)}
        fresh = tuple(pair for pair in addresses.items() if pair not in network.taken)
        free = max(0, network.dhcp_free - len(fresh)) if network.dhcp_free is not None else None
        links = view.links
        if links is not None and view.probed in addresses:
            links = replace(links, used_by="")
        return replace(view, network=replace(network, taken=(*network.taken, *fresh), dhcp_free=free), links=links)


def _gives(network: NetworkFacts, address: str) -> bool:
    """Whether a network's DHCP could give this address to a new guest."""
    if not address or network.dhcp_range is None:
        return False
    (first, last), found = map(IPv4Address, network.dhcp_range), ip_address(address)
    return isinstance(found, IPv4Address) and first <= found <= last
