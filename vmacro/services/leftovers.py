"""What ended moves have left at hosts and in guests, found by the names that moves put on everything they make.

What belongs to a move that can still be resumed or aborted stays; so does what belongs to carried addresses, and to
moves of other journals. A reservation whose move no journal of ours has may be of one that was being planned when its
orchestrator died: it is ours if our event log tells of that move. One without a mark is told, and removed only on
request: an older vmacro made some, and operators do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from vmacro.errors import VmacroError
from vmacro.model import marks
from vmacro.model.facts import DomainFacts, Reservation
from vmacro.model.moves import Carriage, Ending, Plan
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.ports import World
from vmacro.services.archive import Record, UnreadableCarriage
from vmacro.services.survey import deadline_s, late
from vmacro.wire.names import way_token

Kind = Literal["leg", "way", "reservation", "domain", "address", "claim", "trouble"]


@dataclass(frozen=True)
class Leftover:
    """One thing that was left. `ours`: this journal has its move, and that move has ended; or, if `planned`, the
    journal does not have it, since it was only planned here. `name`: a reservation's. `perhaps`: it may be an
    operator's own. `uuid`: a domain's."""

    kind: Kind
    host: str
    guest: str
    move_id: str
    what: str
    ours: bool
    address: str = ""
    mac: str = ""
    name: str = ""
    planned: bool = False
    perhaps: bool = False
    uuid: str = ""


class _Journalled:
    """What the journal knows about moves, addresses and network cards. `planned`: whether a move was planned here."""

    def __init__(
        self,
        moves: Iterable[Record],
        carried: Iterable[Carriage | UnreadableCarriage],
        planned: Callable[[str], bool],
    ) -> None:
        self.planned = planned
        self.moves = {r.plan.move_id: r for r in moves}
        self.marks = {marks.mark(m, a): m for m, r in self.moves.items() for a in _addresses4(r.plan)}
        self.carried = {(c.move_id, c.address) for c in carried}
        self.carried_addresses = {c.address for c in carried}
        self._busy = {r.plan.guest.name for r in self.moves.values() if _goes_on(r)}

    def over(self, move_id: str) -> bool:
        record = self.moves.get(move_id)
        return record is not None and not _goes_on(record) and record.plan.guest.name not in self._busy

    def reserved_unmarked(self, entry: Reservation) -> str:
        """The last move that may have made an entry without a mark, by a vmacro that made none; or ''."""
        for record in self.moves.values():
            plan = record.plan
            for_guest = plan.reserve and (plan.new_address, plan.mac) == (entry.address, entry.mac)
            for_nobody = entry.mac == marks.placeholder_mac(entry.address) and entry.address in _addresses4(plan)
            if not plan.marked and (for_guest or for_nobody):
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
    inventory: Inventory,
    moves: list[Record],
    carried: Sequence[Carriage | UnreadableCarriage],
    world: World,
    planned: Callable[[str], bool] = lambda _move_id: False,
) -> list[Leftover]:
    """Everything that was left. `moves`: newest first; `planned`: whether the event log tells of a move. A host or
    guest that cannot be asked is listed as `trouble`."""
    known = _Journalled(moves, carried, planned)
    questions = [partial(_told, host, "", partial(_at, host, known, world)) for host in inventory.hosts]
    answers = world.side_by_side(questions, deadline_s(inventory.hosts))
    found: list[Leftover] = []
    for host, answer in zip(inventory.hosts, answers, strict=True):
        found += answer if answer is not None else [_trouble(host, "", f"host {host.name}: {late(host)}")]
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
    elif left.kind == "way":
        world.host_network(host).narrow(left.move_id)
    elif left.kind == "reservation":
        world.hypervisor(host).release(host.network, Reservation(left.address, left.mac, left.name))
    elif left.kind == "domain" and guest is not None:
        world.hypervisor(host).discard(guest.domain, uuid=left.uuid)
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
    for entry in network.reserved:
        if entry.address in known.carried_addresses:
            continue  # needed
        if marks.is_marked(entry):
            yield _marked(host, entry, known, world.inventory)
        elif (move := known.reserved_unmarked(entry)) or entry.mac == marks.placeholder_mac(entry.address):
            yield _unmarked(host, entry, known, move)
    if not host.ssh and not known.moves:
        return
    links = world.host_network(host).facts(network.bridge, "", "")
    tokens = {way_token(move): move for move in known.moves}
    for way in links.wide:
        move = tokens.get(way.token, "")
        guest = known.moves[move].plan.guest.name if move else ""
        what = f"a wide way to {way.address}, for copies"
        yield Leftover("way", host.name, guest, move, what, known.over(move), way.address)
    for end in links.legs:
        if (end.move, end.address) in known.carried:
            continue
        record = known.moves.get(end.move)
        guest = record.plan.guest.name if record is not None else ""
        what = f"{end.kind} leg of {end.address}, {end.side} end"
        yield Leftover("leg", host.name, guest, end.move, what, known.over(end.move), end.address)


def _marked(host: Host, entry: Reservation, known: _Journalled, inventory: Inventory) -> Leftover:
    move = known.marks.get(entry.name, "")
    if move:
        plan = known.moves[move].plan
        cards = (plan.mac, marks.placeholder_mac(entry.address))  # another's: somebody has changed it
        guest, ours = plan.guest.name, known.over(move) and entry.mac in cards
    else:
        move = marks.move_in(entry)
        guest = next((g.name for g in inventory.guests if g.name[:40] == move.rsplit("-", 3)[0]), "")
        ours = guest != "" and known.planned(move)
    what, planned = f"DHCP reservation of {entry.told}", move not in known.moves
    return Leftover(
        "reservation", host.name, guest, move, what, ours, entry.address, entry.mac, entry.name, planned=planned
    )


def _unmarked(host: Host, entry: Reservation, known: _Journalled, move: str) -> Leftover:
    guest = known.moves[move].plan.guest.name if move else ""
    perhaps = entry.mac != marks.placeholder_mac(entry.address)
    whose = "an older vmacro's, or an operator's own" if perhaps else "an older vmacro's"
    what = f"DHCP reservation of {entry.told} without a mark: {whose}"
    return Leftover(
        "reservation", host.name, guest, move, what, False, entry.address, entry.mac, entry.name, perhaps=perhaps
    )


def _of_guest(inventory: Inventory, guest: Guest, known: _Journalled, world: World) -> list[Leftover]:
    asked = [partial(_domain, host, guest, world) for host in inventory.hosts]
    seen = world.side_by_side(asked, deadline_s(inventory.hosts))
    there = [(host, domain) for host, domain in zip(inventory.hosts, seen, strict=True) if domain is not None]
    running = [(host, domain) for host, domain in there if domain.state == "running"]
    if len(running) != 1:
        return []  # which one is right is for an operator to find out
    ((at, itself),) = running
    # What has its name and another UUID is another guest.
    paused = [(host, domain) for host, domain in there if domain.state == "paused" and domain.uuid == itself.uuid]
    return _told(at, guest.name, lambda: _in_guest(at, paused, guest, known, world))


def _domain(host: Host, guest: Guest, world: World) -> DomainFacts | None:
    try:
        domain = world.hypervisor(host).domain(guest.domain)
    except VmacroError:
        return None  # _at() tells of hosts that cannot be asked
    return domain if domain is not None and not domain.job else None  # what is at work there ends by itself


_Paused = Sequence[tuple[Host, DomainFacts]]


def _in_guest(host: Host, paused: _Paused, guest: Guest, known: _Journalled, world: World) -> Iterator[Leftover]:
    mine = [r.plan for r in known.moves.values() if r.plan.guest.name == guest.name]
    if not mine:
        return
    with world.agent(host, guest.domain) as agent:
        facts = agent.status()
    alive = facts.boot_id in {plan.boot_id for plan in mine}
    # One of another journal, or of this one and under way, uses what it finds: also addresses of earlier moves.
    is_moved = facts.claim is not None and not known.over(facts.claim.move)
    for place, domain in paused:
        move = next((p.move_id for p in mine if p.source.name == place.name), "")
        what = f"paused remains of domain {guest.domain}, which runs at {host.name}"
        ours = alive and known.over(move) and not is_moved
        yield Leftover("domain", place.name, guest.name, move, what, ours, uuid=domain.uuid)
    for address in facts.extra_addresses:
        move = known.addressed_by(guest, address)
        if move and address not in known.carried_addresses:
            what = f"address {address}, held and announced"
            yield Leftover("address", host.name, guest.name, move, what, known.over(move) and not is_moved, address)
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


def _addresses4(plan: Plan) -> set[str]:
    """IPv4 addresses that a move may have had DHCP keep."""
    old = (*(homed.address for homed in plan.addresses), *(leg.address for leg in plan.earlier_legs))
    return {address for address in (plan.new_address, *old) if address and ":" not in address}


def _goes_on(record: Record) -> bool:
    return record.outcome is None or record.outcome.ending == Ending.UNCERTAIN
