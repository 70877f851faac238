"""How the guest leaves an address that it had: never one that a connection needs."""

from __future__ import annotations

import logging

from guest_agent.guest import Guest
from vmacro.wire.agent_verbs import Retired
from vmacro.wire.messages import ProtocolError

LOG = logging.getLogger(__name__)


async def retire(guest: Guest, address: str, force: bool = False) -> Retired:
    """Take an address that the guest had from connections that use the present one too.

    Where nobody else needs it: REMOVE_ADDR on all connections, then the /32 goes. Where somebody does,
    only the others' subflows on it are cut, and it stays; unless `force` cuts these connections too.
    Raises ProtocolError: not-ready, in-use, or kernel.
    """
    present = await guest.present()
    if address in present:
        raise ProtocolError("in-use", f"{address} is the guest's present address")
    users = [c for c in guest.sockets.connections() if c.reaches(address)]
    free = {c.token for c in users if c.reaches(*present)}  # never plain TCP, which has one address
    stuck = [c for c in users if c.token not in free]
    try:
        if force:
            guest.sockets.cut(address, {c.token for c in stuck})
        elif stuck:
            guest.sockets.cut(address, free)
    except OSError as error:  # INET_DIAG_DESTROY may be missing in the kernel
        if force:
            raise ProtocolError("kernel", f"cannot cut connections: {error}") from None
        LOG.warning("followers keep their old subflows on %s as backup: %s", address, error)
    if stuck and not force:
        return Retired(False, len(stuck))
    await guest.endpoints.withdraw(0, address)
    await guest.withdraw_all(address)
    await guest.link.move_out(address)
    if address in guest.state.prepared:
        guest.state.prepared = ("", "")
        guest.save()
    return Retired(True, 0)
