"""How the guest leaves an address that it had: never one that a connection needs."""

from __future__ import annotations

from guest_agent.guest import Guest
from guest_agent.slots import announce_again
from vmacro.wire.agent_verbs import Retired
from vmacro.wire.messages import ProtocolError


async def retire(guest: Guest, address: str, force: bool = False) -> Retired:
    """Take an address that the guest had from connections that use the present one too.

    Where nobody else needs it: REMOVE_ADDR on all connections, then the /32 goes. Where somebody does it stays, as
    backup of all that use it, which some clients need to be able to follow further (guest_agent/slots.py); unless
    `force` cuts those that need it. Raises ProtocolError: not-ready, in-use, or kernel.
    """
    stuck = await _left(guest, address, force)
    if stuck:
        return Retired(False, stuck)
    await guest.link.move_out(address)
    guest.forget_public(address)
    guest.forget_round_trips()  # an address that comes back has other paths by then
    if address in guest.state.prepared:
        guest.state.prepared = ("", "")
        guest.save()
        await announce_again(guest)
    return Retired(True, 0)


async def _left(guest: Guest, address: str, force: bool) -> int:
    """Withdraw it, unless connections need it; returns how many do, none of them with `force`."""
    present = await guest.present()
    if address in present:
        raise ProtocolError("in-use", f"{address} is the guest's present address")
    users = [c for c in guest.sockets.connections() if c.uses(address)]
    free = {c.token for c in users if c.reaches(*present)}  # never plain TCP, which has one address
    stuck = [c for c in users if c.token not in free]
    guest.stuck = guest.stuck - free | {c.token for c in stuck if c.mptcp}
    if stuck and not force:
        return len(stuck)
    try:
        if stuck:  # never followers, whose clients would get no slot back for a subflow that was cut
            guest.cut |= {c.key for c in stuck if not c.mptcp}
            guest.sockets.cut(address, {c.token for c in stuck})
    except OSError as error:  # INET_DIAG_DESTROY may be missing in the kernel
        raise ProtocolError("kernel", f"cannot cut connections: {error}") from None
    await guest.endpoints.withdraw(0, address)
    await guest.withdraw_all(address)
    return 0
