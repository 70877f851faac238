"""What the guest does before a move, and when it finds itself at another site (docs/decisions/0005, 0006)."""

from __future__ import annotations

import asyncio
import logging

from guest_agent.claims import present_claim
from guest_agent.crowd import announce
from guest_agent.guest import Guest, log_failure
from guest_agent.ports import STOOD_STILL_S, NoLeaseError
from guest_agent.retirement import retire
from guest_agent.slots import make_room
from vmacro.wire.agent_verbs import CLAIMED, Arrival, Lease, PrepareArgs, PublishArgs
from vmacro.wire.messages import ProtocolError

LOG = logging.getLogger(__name__)
LEASE_TIMEOUT_S = 30.0
# Announces of one move come within 0.8 s; two moves are further apart than this.
DEBOUNCE_S = 2.0
# Clearly longer than a move waits for its clients by default: never do both retire an address in the same second.
ALONE_AFTER_S, ALONE_EVERY_S = 90.0, 10.0
AGAIN_AFTER_S = 5.0
NONE_PREPARED = ("", "")
MOST_PUBLIC = 64


async def prepare(guest: Guest, args: PrepareArgs) -> None:
    """The addresses to come, answered for and announced as backup: tunnels lead them here already.

    Raises ProtocolError: not-ready, in-use, or claimed, where its move's claim has ended meanwhile: then nothing stays.
    """
    if args.address == guest.present_lease().address:
        raise ProtocolError("in-use", f"{args.address} is the guest's present address")
    addresses, claim = [a for a in (args.address, args.address6) if a], guest.state.claim
    try:
        if not set(addresses) & set((await guest.endpoints.endpoints()).values()):
            await make_room(guest)
        for coming in addresses:
            await guest.link.borrow(coming)
            if guest.seen_as(coming) not in (await guest.endpoints.endpoints()).values():
                await announce(guest, coming, backup=True)
    finally:  # also what is half done is taken back: for it, clients had to leave the present address
        guest.state.prepared = (args.address, args.address6)
        guest.save()
    if claim is not None and guest.state.claim is None and guest.clock.now_s() >= claim.until_s:
        # It was over before there was anything to take back.
        for coming in addresses:
            await retire(guest, coming)
        raise ProtocolError(CLAIMED, f"the claim of move {claim.move} ended while {args.address} was prepared")


def publish(guest: Guest, args: PublishArgs) -> None:
    """Remember what clients know an address as; before it is announced. Raises ProtocolError: bad-args."""
    if (":" in args.address) != (":" in args.public):
        raise ProtocolError("bad-args", f"{args.public} is not of {args.address}'s family")
    known = [*guest.state.public.items()][-MOST_PUBLIC:]
    guest.state.public = {a: p for a, p in known if a != args.address and p != args.public}
    if args.public != args.address:
        guest.state.public[args.address] = args.public
    guest.save()


class Arrivals:
    """An arrival runs once, however many report it. `seen_at_s`: when the last one was seen, by the guest's clock."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self.seen_at_s = float("-inf")
        self._signs_since_s = float("inf")
        self._running: asyncio.Task[Arrival] | None = None
        self._arrived_at = self._moved_at = float("-inf")
        self._heard_at = 0.0
        self._by_hand = False
        self._stood_still_s = guest.clock.stood_still_s()

    def orchestrator_acts(self) -> None:
        """Somebody is there to settle the last arrival."""
        self._heard_at = self._guest.clock.now_s()

    @property
    def just_arrived(self) -> bool:
        """Whether a sign of an arrival belongs to the last one."""
        return self._guest.clock.now_s() - self._arrived_at <= DEBOUNCE_S

    async def arrive_from(self, left: str) -> Arrival:
        """As an orchestrator asks. `left` tells an arrival that the announce has already brought about from one
        that is still to come. Raises ProtocolError (not-ready), NoLeaseError."""
        last, lease = self._guest.state.last_arrival, self._guest.state.lease
        if last is not None and lease is not None and (last.old, last.new) == (left, lease.address) != (left, left):
            self._by_hand = False
            return last
        arrival = await asyncio.shield(self.arrive("channel"))
        self._by_hand = False
        return arrival

    def arrive(self, seen_by: str) -> asyncio.Task[Arrival]:
        """The arrival that runs, or the one that has just ended, or a new one."""
        running = self._running
        if running is not None and not running.done():
            return running
        if running is not None and self.just_arrived and running.exception() is None:
            return running
        self._running = asyncio.ensure_future(self._arrive(seen_by))
        self._running.add_done_callback(log_failure)
        self._running.add_done_callback(self._retry_without_a_lease)
        return self._running

    def _retry_without_a_lease(self, task: asyncio.Task[Arrival]) -> None:
        if not task.cancelled() and isinstance(task.exception(), NoLeaseError):
            self._guest.later(self._retry(task))

    async def _retry(self, failed: asyncio.Task[Arrival]) -> None:
        """DHCP may come back when no orchestrator waits for it any more."""
        await self._guest.clock.sleep(AGAIN_AFTER_S)
        if self._running is failed:
            self.arrive("retry")

    async def _arrive(self, seen_by: str) -> Arrival:
        guest, state = self._guest, self._guest.state
        began, old = guest.clock.now_s(), guest.present_lease().address
        self._signs_since_s = min(self._signs_since_s, began)  # DHCP may be silent the first time
        prepared = state.prepared
        old6 = await guest.address6() if prepared[1] else ""
        if prepared[0] and seen_by != "restart":
            # Reached directly from here on: traffic waits neither for DHCP nor for ARP, as all gateways look alike.
            await guest.prefer(prepared, (old, old6))
        elif not prepared[0]:
            await guest.link.forget_neighbours()
            guest.forget_round_trips()
        lease = await guest.leases.acquire(LEASE_TIMEOUT_S)
        leased = guest.clock.now_s()
        if prepared[0] and lease.address == old:
            await guest.prefer((old, old6), prepared)  # no arrival: the guest is still at home
            prepared = NONE_PREPARED
        else:
            state.prepared = NONE_PREPARED
            if prepared[0] and seen_by == "restart":
                await guest.prefer(prepared, (old, old6))
        still_ms = self._still_ms(moved=lease.address != old)
        signs_since_s, self._signs_since_s = self._signs_since_s, float("inf")
        if lease.address != old:
            self.seen_at_s = signs_since_s
        await guest.link.move_in(lease, old)
        await guest.link.forget_neighbours(but=lease.gateway)
        state.lease = lease
        last = state.last_arrival
        if seen_by == "restart" and lease.address == old and last is not None and last.new == old:
            self._arrived_at = guest.clock.now_s()
            return last
        endpoint_id = await self._announced(lease, prepared[0], old)
        self._arrived_at = guest.clock.now_s()
        lease_ms, total_ms = round((leased - began) * 1000), round((self._arrived_at - began) * 1000)
        arrival = Arrival(
            seen_by, old, lease.address, lease.gateway, endpoint_id, lease_ms, total_ms, old6, prepared[1], still_ms
        )
        state.last_arrival = arrival
        guest.save()
        LOG.info("arrived: %s", arrival)
        if lease.address != old:  # else it was a false sign of one
            self._moved_at = self._arrived_at
            self._by_hand = present_claim(guest) is None  # until an orchestrator asks for it
            guest.later(self.finish_alone())
        return arrival

    def _still_ms(self, moved: bool) -> int:
        """For how long the guest was suspended since it last arrived, or was seen to be where it was."""
        grown_s = self._guest.clock.stood_still_s() - self._stood_still_s
        self._stood_still_s += grown_s
        return round(grown_s * 1000) if moved and grown_s > STOOD_STILL_S else 0

    async def _announced(self, lease: Lease, prepared: str, old: str) -> int:
        """The id under which clients know the new address; 0 where nothing had to be announced."""
        guest = self._guest
        if prepared and lease.address == prepared:
            announced = guest.seen_as(prepared)
            return next((i for i, a in (await guest.endpoints.endpoints()).items() if a == announced), 0)
        if lease.address == old:
            return 0
        # Left over where nobody retired it: one address cannot be announced under two ids.
        await guest.withdraw_all(lease.address)
        return await announce(guest, lease.address)

    async def finish_alone(self) -> None:
        """An orchestrator that is silent after an arrival does not take back old addresses. What it would then
        close at the hosts stays for its `resume`. Addresses to come are not old ones: they go as its claim ends.

        Whoever acts after a move by hand (`virsh migrate`) begins another move, or carries what an earlier one has
        left: the arrival stays nobody's, and the guest waits only as long as a move has it."""
        moved_at = self._moved_at
        await self._guest.clock.sleep(ALONE_AFTER_S)
        while moved_at == self._moved_at and (self._by_hand or self._heard_at <= moved_at):
            if not self._by_hand or present_claim(self._guest) is None:
                extra = [a for a in await self._guest.extra_addresses() if a not in self._guest.state.prepared]
                LOG.warning("nobody settles this arrival; withdrawing %s where no connection needs them", extra)
                for address in extra:
                    await retire(self._guest, address)
            await self._guest.clock.sleep(ALONE_EVERY_S)
