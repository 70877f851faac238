"""Which clients follow the guest to another address (docs/decisions/0003)."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable

from guest_agent.claims import present_claim
from guest_agent.crowd import announce
from guest_agent.guest import Guest
from vmacro.wire.agent_verbs import CLAIMED, MAX_CONNECTIONS, MAX_SUBFLOWS, Connection, Connections, Lease
from vmacro.wire.messages import ProtocolError

CONSENT_LEASE_TIMEOUT_S = 4.0
GOODBYE_S = 2.0
LOOK_EVERY_S = 0.05


def reply(found: list[Connection]) -> Connections:
    """As far as they fit."""
    return Connections(tuple(found[:MAX_CONNECTIONS]), len(found))


class Consent:
    """Who has joined once is remembered by token, and not asked again while no announced address takes a slot of its
    client's: one that holds a slot may have none left. Who was asked in vain, or needed an old address after a move, is
    not willing, until it joins."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._willing: set[int] = set()
        self._declined: set[int] = set()

    def connections(self, first: Callable[[list[Connection]], list[Connection]] = lambda found: found) -> Connections:
        """All of the guest's, as far as they fit a reply; `first` orders them."""
        return reply(self.judged(first(self._guest.sockets.connections())))

    def all(self) -> list[Connection]:
        """All of the guest's, with who is willing."""
        return self.judged(self._guest.sockets.connections())

    def judged(self, found: list[Connection]) -> list[Connection]:
        """These, which are all that there are now, with who is willing."""
        self._remember(found)
        willing = self._willing - self._declined - self._guest.stuck
        return [replace(c, subflows=c.subflows[:MAX_SUBFLOWS], willing=c.token in willing) for c in found]

    async def ask(self, timeout_s: float) -> Connections:
        """Ask every client whose consent is unknown to join a second address of this site.

        An echo of ADD_ADDR is no consent, only a join is. The address is borrowed from DHCP, announced
        as backup, so that no data takes it, and withdrawn at once. A port of the present address would
        not do: its subflows get id 0, and the client never gets its slot back.
        Raises NoLeaseError, ProtocolError: not-ready, full, or claimed, as long as a move has the guest. A move asks
        before it claims; in its midst an address of the old site would be announced, and take clients' slots.
        """
        present = self._guest.present_lease().address
        unknown = self._undecided()
        if unknown:
            claim = present_claim(self._guest)
            if claim is not None:
                raise ProtocolError(CLAIMED, f"move {claim.move} of {claim.by} has it: its clients are not asked now")
            had = {present, *await self._guest.extra_addresses()}
            async with self._guest.leases.borrowed(CONSENT_LEASE_TIMEOUT_S, had) as lease:
                self._declined = await self._who_declines(lease, unknown, timeout_s)
        return self.connections()

    async def _who_declines(self, lease: Lease, unknown: set[int], timeout_s: float) -> set[int]:
        guest, declined = self._guest, set(unknown)

        def all_have_joined() -> bool:
            there = self._look()
            declined.intersection_update({c.token for c in there if not c.reaches(lease.address)})
            return not declined

        await guest.link.borrow(lease.address)
        try:
            await announce(guest, lease.address, backup=True)
            await guest.until(all_have_joined, timeout_s, LOOK_EVERY_S)
        finally:
            await guest.withdraw_all(lease.address)
            # Subflows close in good order while the address is still there: one that does not stays open at the client.
            # A subflow whose path is lost is not waited for.
            await guest.until(lambda: not guest.sockets.has_sockets(lease.address), GOODBYE_S, LOOK_EVERY_S)
            await guest.link.move_out(lease.address)
        return declined

    def _look(self) -> list[Connection]:
        found = self._guest.sockets.connections()
        self._remember(found)
        return found

    def _remember(self, found: list[Connection]) -> None:
        self._willing |= {c.token for c in found if any(s.joined for s in c.subflows)}
        self._willing &= {c.token for c in found}
        self._declined &= {c.token for c in found}

    def _undecided(self) -> set[int]:
        """Tokens of those that a reply shows, and of which it is not known whether their clients would join now."""
        found = [c for c in self._look()[:MAX_CONNECTIONS] if c.mptcp]
        return {c.token for c in found if c.token not in self._willing or any(s.joined for s in c.subflows)}
