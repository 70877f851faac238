"""Room at clients for one more announced address.

A client takes as many as its add_addr_accepted says. Each that it has joined takes a slot, which comes back with the
RM_ADDR that closes the subflow, and only then: not if the subflow was cut before, nor with the address it has connected
to (id 0). So whoever follows at a limit of 1 must leave one announced address before it can join the next, and needs
another path meanwhile: an old address that is carried (docs/decisions/0021).
"""

from __future__ import annotations

import logging

from guest_agent.crowd import announce
from guest_agent.guest import Guest
from vmacro.wire.agent_verbs import Connection

LOG = logging.getLogger(__name__)
GOODBYE_S = 1.0
LOOK_EVERY_S = 0.02


async def make_room(guest: Guest) -> None:
    """Before an address is announced: withdraw others, so that each client that holds a slot gets one back. An address
    is withdrawn only if all connections that use it have another path; old ones go first. Plain TCP is not touched.

    Raises ProtocolError (not-ready), OSError.
    """
    present = set(await guest.present())
    announced = sorted(set((await guest.endpoints.endpoints()).values()), key=lambda a: a in present)
    helped: set[int] = set()
    for address in announced:
        found = [c for c in guest.sockets.connections() if c.mptcp]
        full = {c.token for c in found if holds_slot(c, address)} - helped
        if full and all(has_other_path(c, address) for c in found if c.uses(address)):
            LOG.info("withdrawing %s, so that %d clients can join another address", address, len(full))
            await guest.withdraw_all(address)
            await _until_left(guest, address)
            helped |= full


async def announce_again(guest: Guest) -> None:
    """After a move that did not come about: clients had to leave the present address for it."""
    known = set((await guest.endpoints.endpoints()).values())
    for address in filter(None, await guest.present()):
        if address not in known and any(c.mptcp and not c.uses(address) for c in guest.sockets.connections()):
            await announce(guest, address)


def holds_slot(connection: Connection, address: str) -> bool:
    """Whether its client has joined an address that was announced to it."""
    return any(s.local == address and s.joined for s in connection.subflows)


def has_other_path(connection: Connection, address: str) -> bool:
    """Whether it goes on without an address."""
    return any(s.local != address and s.established for s in connection.subflows)


async def _until_left(guest: Guest, address: str) -> None:
    """ADD_ADDR and RM_ADDR share a place in the packet: of two that come too soon one is not sent."""

    def all_have_left() -> bool:
        return not any(c.mptcp and c.uses(address) for c in guest.sockets.connections())

    await guest.until(all_have_left, GOODBYE_S, LOOK_EVERY_S)
