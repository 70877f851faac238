"""What ended moves have left at hosts and in guests, found by the names that they put on everything.

A move that can still be resumed or aborted keeps what it has; so do carried addresses, and moves of other journals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from vmacro.errors import VmacroError
from vmacro.model.moves import Carriage, Ending
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.ports import World
from vmacro.services.archive import Record
from vmacro.services.seamless import NOBODY, nobody

Kind = Literal["leg", "reservation", "domain", "address", "claim", "trouble"]


@dataclass(frozen=True)
class Leftover:
    """`ours`: this journal has the move, and the move has ended."""

    kind: Kind
    host: str
    guest: str
    move_id: str
    what: str
    ours: bool
    address: str = ""
    mac: str = ""


class _Journalled:
    """What the journal says of names, addresses and cards."""

    def __init__(self, moves: Iterable[Record], carried: Iterable[Carriage]) -> None:
        self.moves = {r.plan.move_id: r for r in moves}
        self.carried = {(c.move_id, c.address) for c in carried}
        self.carried_addresses = {c.address for c in carried}
        self._busy = {r.plan.guest.name for r in self.moves.values() if _goes_on(r)}

    def over(self, move_id: str) -> bool:
        record = self.moves.get(move_id)
        return record is not None and not _goes_on(record) and record.plan.guest.name not in self._busy

    def reserved_by(self, address: str, mac: str) -> str:
        """The last move that reserved an address for a card, or ''."""
        for record in self.moves.values():
            plan = record.plan
            for_guest = plan.reserve and (plan.new_address, plan.mac.lower()) == (address, mac.lower())
            for_nobody = mac == nobody(address) and address in {h.address for h in plan.held}
            if for_guest or for_nobody:
                return plan.move_id
        return ""

    def addressed_by(self, guest: Guest, address: str) -> str:
        """The last move that had to do with an address of a guest, or ''."""
        for record in self.moves.values():
            plan = record.plan
            known = {plan.new_address, plan.new_address6, plan.address, *(h.address for h in plan.held)}
            if plan.guest.name == guest.name and address in known:
                return plan.move_id
        return ""


def find(inventory: Inventory, moves: list[Record], carried: list[Carriage], world: World) -> list[Leftover]:
    """Newest moves first in `moves`. A host or a guest that cannot be asked is told of as trouble."""
    known = _Journalled(moves, carried)
    found = [left for host in inventory.hosts for left in _told(host, "", lambda h=host: _at(h, known, world))]  # type: ignore[misc]
    for guest in inventory.guests:
        found += _of_guest(inventory, guest, known, world)
    return found


def remove(inventory: Inventory, left: Leftover, world: World) -> None:
    """Raises VmacroError where it cannot go."""
    host = inventory.host(left.host)
    guest = inventory.guest(left.guest)
    assert host is not None
    if left.kind == "leg":
        world.host_network(host).close(left.move_id, left.address)
    elif left.kind == "reservation":
        world.hypervisor(host).release(host.network, left.mac, left.address)
    elif left.kind == "domain" and guest is not None:
        world.hypervisor(host).discard(guest.domain)
    elif left.kind in ("address", "claim") and guest is not None:
        with world.agent(host, guest.domain) as agent:
            if left.kind == "claim":
                agent.release(left.move_id)
            elif not agent.retire(left.address):
                raise VmacroError(f"{left.address}: connections still use it")


def _at(host: Host, known: _Journalled, world: World) -> Iterator[Leftover]:
    network = world.hypervisor(host).network(host.network)
    if network is None:
        return
    for address, mac in network.reserved:
        move = known.reserved_by(address, mac)
        if address in known.carried_addresses or not (move or mac.startswith(NOBODY)):
            continue  # needed, or the operator's own
        guest = known.moves[move].plan.guest.name if move else ""
        what = f"DHCP reservation of {address} for {mac}"
        yield Leftover("reservation", host.name, guest, move, what, known.over(move), address, mac)
    if not host.ssh and not known.moves:
        return
    for end in world.host_network(host).facts(network.bridge, "", "").legs:
        if (end.move, end.address) in known.carried:
            continue
        record = known.moves.get(end.move)
        guest = record.plan.guest.name if record is not None else ""
        what = f"{end.kind} leg of {end.address}, {end.side} end"
        yield Leftover("leg", host.name, guest, end.move, what, known.over(end.move), end.address)


def _of_guest(inventory: Inventory, guest: Guest, known: _Journalled, world: World) -> list[Leftover]:
    running: list[Host] = []
    paused: list[Host] = []

    def look(host: Host) -> Iterator[Leftover]:
        domain = world.hypervisor(host).domain(guest.domain)
        if domain is not None and domain.state in ("running", "paused"):
            (running if domain.running else paused).append(host)
        yield from ()

    for host in inventory.hosts:
        _told(host, guest.name, lambda h=host: look(h))  # type: ignore[misc]
    if len(running) != 1:
        return []  # not for us to judge
    return _told(running[0], guest.name, lambda: _in_guest(running[0], paused, guest, known, world))


def _in_guest(host: Host, paused: list[Host], guest: Guest, known: _Journalled, world: World) -> Iterator[Leftover]:
    mine = [r.plan for r in known.moves.values() if r.plan.guest.name == guest.name]
    if not mine:
        return
    with world.agent(host, guest.domain) as agent:
        facts = agent.status()
    alive = facts.boot_id in {plan.boot_id for plan in mine}
    for place in paused:
        move = next((p.move_id for p in mine if p.source.name == place.name), "")
        what = f"paused remains of domain {guest.domain}, which runs at {host.name}"
        yield Leftover("domain", place.name, guest.name, move, what, alive and known.over(move))
    for address in facts.held:
        move = known.addressed_by(guest, address)
        if move and address not in known.carried_addresses:
            what = f"address {address}, held and announced"
            yield Leftover("address", host.name, guest.name, move, what, known.over(move), address)
    if facts.claim is not None:
        move = facts.claim.move
        what = f"the guest's claim by {facts.claim.by}"
        yield Leftover("claim", host.name, guest.name, move, what, known.over(move))


def _told(host: Host, guest: str, look: Callable[[], Iterable[Leftover]]) -> list[Leftover]:
    try:
        return [*look()]
    except VmacroError as error:
        return [Leftover("trouble", host.name, guest, "", error.message, ours=False)]


def _goes_on(record: Record) -> bool:
    return record.outcome is None or record.outcome.ending == Ending.UNCERTAIN
