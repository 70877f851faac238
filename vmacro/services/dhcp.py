"""What a move has DHCP keep: the address that its guest gets, for its card; those that it carries, for nobody's.

Each entry bears the mark of the move that made it (model/marks.py), and what bears none is never touched. The entry of
the new address is its own move's alone. An old address goes over from move to move, and its entry with it.
"""

from __future__ import annotations

from vmacro.errors import HostError
from vmacro.model import marks
from vmacro.model.facts import NetworkFacts, Reservation
from vmacro.model.moves import Plan
from vmacro.model.nouns import Host
from vmacro.ports import World
from vmacro.services.troubles import Troubles


def reserve(plan: Plan, world: World) -> None:
    """The new address, if nobody has reserved it for the guest yet. Idempotent. Raises HostError; TakenError if
    somebody else has it."""
    if plan.reserve and not _is_kept_by_dhcp(plan.new_address):  # as the journal's row has it
        raise HostError(f"host {plan.destination.name}: DHCP keeps no address {plan.new_address!r}: it is not IPv4")
    if plan.reserve:
        world.hypervisor(plan.destination).reserve(plan.destination.network, _new(plan))


def release(plan: Plan, world: World) -> None:
    """What reserve() of this move has made. Idempotent. Raises HostError."""
    if plan.reserve and _is_kept_by_dhcp(plan.new_address):
        world.hypervisor(plan.destination).release(plan.destination.network, _new(plan))


def keep(move_id: str, address: str, home: Host, world: World, card: str) -> None:
    """Let DHCP give a carried address to no other guest. What an operator has reserved is kept already; what it has
    given to another card, as a resume came late, is that card's. `card`: the guest's, for which a move may have left an
    entry. SLAAC (IPv6) needs none. Idempotent. Raises HostError."""
    if not _is_kept_by_dhcp(address):
        return
    network = world.hypervisor(home).network(home.network)
    there = _of(address, network)
    users = {m for a, m in network.taken if a == address} if network is not None else set()
    others = users - {card, *(entry.mac for entry in there)}
    ours = [e for e in there if marks.is_marked(e) and e.mac == card]
    for entry in ours:
        world.hypervisor(home).release(home.network, entry)
    if len(there) == len(ours) and not others:
        world.hypervisor(home).reserve(home.network, marks.placeholder(move_id, address))


def give_back(address: str, home: Host, world: World, card: str = "") -> None:
    """What moves have reserved of an address that is carried no longer: for nobody's card, or for the guest's. The
    guest has it, so that whichever move it was has ended. Idempotent. Raises HostError."""
    troubles = Troubles()
    for entry in _entries(address, home, world):
        if marks.is_marked(entry) and entry.mac in (marks.placeholder_mac(address), card):
            with troubles.of(HostError):
                world.hypervisor(home).release(home.network, entry)
    troubles.raise_first()


def is_kept(address: str, home: Host, world: World) -> bool:
    """Whether an address is reserved for nobody's card, by whichever move. Raises HostError."""
    return any(entry.mac == marks.placeholder_mac(address) for entry in _entries(address, home, world))


def _is_kept_by_dhcp(address: str) -> bool:
    """Whether it is IPv4: of IPv6 guests give themselves theirs."""
    return address != "" and ":" not in address


def _new(plan: Plan) -> Reservation:
    return marks.reservation(plan.move_id, plan.new_address, plan.mac)


def _entries(address: str, home: Host, world: World) -> list[Reservation]:
    network = world.hypervisor(home).network(home.network) if _is_kept_by_dhcp(address) else None
    return _of(address, network)


def _of(address: str, network: NetworkFacts | None) -> list[Reservation]:
    return [entry for entry in network.reserved if entry.address == address] if network is not None else []
