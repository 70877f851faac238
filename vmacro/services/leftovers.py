"""What ended moves have left at hosts and in guests, found by the names that moves put on everything they make.

What belongs to a move that can still be resumed or aborted stays; so does what belongs to carried addresses, and to
moves of other journals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from vmacro.errors import VmacroError
from vmacro.model.moves import Carriage, Ending
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.ports import World
from vmacro.services.archive import Record, UnreadableCarriage
from vmacro.services.seamless import PLACEHOLDER_MAC_PREFIX, placeholder_mac
from vmacro.services.survey import HOST_DEADLINE_S, LATE

Kind = Literal["leg", "reservation", "domain", "address", "claim", "trouble"]


@dataclass(frozen=True)
class Leftover:
    """One thing that was left. `ours`: this journal has its move, and that move has ended."""

    kind: Kind
    host: str
    guest: str
    move_id: str
    what: str
    ours: bool
    address: str = ""
    mac: str = ""


class _Journalled:
    """What the journal knows about moves, addresses and network cards."""

    def __init__(self, moves: Iterable[Record], carried: Iterable[Carriage | UnreadableCarriage]) -> None:
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
            for_placeholder = mac == placeholder_mac(address) and address in {h.address for h in plan.addresses}
            if for_guest or for_placeholder:
                return plan.move_id
        return ""

    def addressed_by(self, guest: Guest, address: str) -> str:
        """The last move in which a guest had this address before or after, or ''."""
        for record in self.moves.values():
            plan = record.plan
            known = {plan.new_address, plan.new_address6, plan.address, *(h.address for h in plan.addresses)}
            if plan.guest.name == guest.name and address in known:
                return plan.move_id
        return ""


def find(
    inventory: Inventory, moves: list[Record], carried: Sequence[Carriage | UnreadableCarriage], world: World
) -> list[Leftover]:
    """Everything that was left. `moves`: newest first. A host or guest that cannot be asked is listed as `trouble`."""
    known = _Journalled(moves, carried)
    questions = [partial(_told, host, "", partial(_at, host, known, world)) for host in inventory.hosts]
    answers = world.side_by_side(questions, HOST_DEADLINE_S)
    found: list[Leftover] = []
    for host, answer in zip(inventory.hosts, answers, strict=True):
        found += answer if answer is not None else [_trouble(host, "", f"host {host.name}: {LATE}")]
    for guest in inventory.guests:
        found += _of_guest(inventory, guest, known, world)
    return found


def remove(inventory: Inventory, left: Leftover, world: World) -> None:
    """Remove a leftover. Raises VmacroError if it cannot be removed."""
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
        if address in known.carried_addresses or not (move or mac.startswith(PLACEHOLDER_MAC_PREFIX)):
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
    states = world.side_by_side([partial(_state, host, guest, world) for host in inventory.hosts], HOST_DEADLINE_S)
    running = [host for host, state in zip(inventory.hosts, states, strict=True) if state == "running"]
    paused = [host for host, state in zip(inventory.hosts, states, strict=True) if state == "paused"]
    if len(running) != 1:
        return []  # which one is right is for an operator to find out
    return _told(running[0], guest.name, lambda: _in_guest(running[0], paused, guest, known, world))


def _state(host: Host, guest: Guest, world: World) -> str:
    try:
        domain = world.hypervisor(host).domain(guest.domain)
    except VmacroError:
        return ""  # _at() tells of hosts that cannot be asked
    return domain.state if domain is not None else ""


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
    for address in facts.extra_addresses:
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
        return [_trouble(host, guest, error.message)]


def _trouble(host: Host, guest: str, what: str) -> Leftover:
    return Leftover("trouble", host.name, guest, "", what, ours=False)


def _goes_on(record: Record) -> bool:
    return record.outcome is None or record.outcome.ending == Ending.UNCERTAIN
