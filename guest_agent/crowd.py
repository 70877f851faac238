"""A crowd of clients that may join an address all at once, as soon as it is announced: they queue for a while, so that
none of them is lost (guest_agent/listeners.py)."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Optional

from guest_agent.guest import Guest

LOG = logging.getLogger(__name__)
# TCP tries again after 1, 3, 7 and 15 s, newer Linux after each of the first five: longer rests matter to few.
CALM_S = 10.0
MOST_S = 60.0


async def announce(guest: Guest, address: str, backup: bool = False) -> int:
    """As Guest.announce(), for however many clients. Raises ProtocolError (full), OSError."""
    if _may_be_too_many(guest):
        _have_them_queue(guest)
    return await guest.announce(address, backup)


def no_more(guest: Guest) -> None:
    """Everything is as before the crowd. Idempotent."""
    if guest.state.queueing:
        guest.sockets.put_back(guest.state.queueing)
        guest.state.queueing = {}
        guest.save()


def _may_be_too_many(guest: Guest) -> bool:
    """Whether half of a listener's queue is too short for all MPTCP clients of its port: others come anew."""
    try:
        rooms = guest.sockets.rooms()
        clients = Counter(c.subflows[0].local_port for c in guest.sockets.connections() if c.mptcp)
    except OSError as error:
        LOG.warning("it is not known how many clients may join: %s", error)
        return False
    return any(2 * count > rooms[port] for port, count in clients.items() if port in rooms)


def _have_them_queue(guest: Guest) -> None:
    guest.crowds += 1
    try:
        if not guest.state.queueing:
            guest.state.queueing = guest.sockets.cookies()
            guest.save()  # first: the next agent puts back what this one leaves
            guest.sockets.have_them_queue()
            LOG.info("more clients may join than listeners have room for: no SYN cookies meanwhile")
    except OSError as error:
        LOG.warning("some clients may not be let in, as they cannot be made to queue: %s", error)
        no_more(guest)
    else:
        guest.later(_until_calm(guest, guest.crowds))


async def _until_calm(guest: Guest, crowd: int) -> None:
    """Until nobody has found a queue full for a while. Of several crowds the last one ends it."""
    until_s, seen = guest.clock.now_s() + MOST_S, -1
    try:
        while guest.clock.now_s() < until_s and guest.crowds == crowd:
            came = _turned_away(guest)
            if came == seen:
                break
            seen = came if came is not None else seen
            await guest.clock.sleep(CALM_S)
    except Exception:
        no_more(guest)
        raise
    if guest.crowds == crowd:
        no_more(guest)


def _turned_away(guest: Guest) -> Optional[int]:
    """How many so far; None where that cannot be known."""
    try:
        return guest.sockets.turned_away()
    except OSError as error:
        LOG.warning("it is not known how many clients wait: %s", error)
        return None
