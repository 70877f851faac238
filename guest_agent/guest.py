"""The guest as its agent knows it: its ports, and what must be remembered of it. Decisions are made elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from guest_agent.endpoint_ids import fresh_id
from guest_agent.ports import Clock, Endpoints, Ends, KernelEvents, Leases, Link, Sockets
from guest_agent.state import FILE, State
from vmacro.wire.agent_verbs import FULL, MAX_ADDRESSES, MOST_ENDPOINTS, Lease
from vmacro.wire.counting import REST
from vmacro.wire.messages import ProtocolError

LOG = logging.getLogger(__name__)
# More than any way on Earth, even by a leg, is longer than another.
WORD_SPREADS_S = 0.5


@dataclass
class Guest:
    """Shared by all that decides about the guest. `stuck`: tokens of MPTCP connections that needed an old address when
    it was last to be retired, though the present one had been announced to them. `cut`: keys of plain connections that
    were cut since the last watch began. `crowds`: how often many clients at once were to be expected."""

    link: Link
    endpoints: Endpoints
    sockets: Sockets
    events: KernelEvents
    leases: Leases
    clock: Clock
    state: State = field(default_factory=State)
    state_file: Path = FILE
    stuck: set[int] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    crowds: int = 0
    _current6: str = ""
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    def present_lease(self) -> Lease:
        """Raises ProtocolError (not-ready) while there is none."""
        if self.state.lease is None:
            raise ProtocolError("not-ready", "the guest has no lease yet")
        return self.state.lease

    def save(self) -> None:
        """Keep the state for when the agent is started again during this boot."""
        self.state.save(self.state_file)

    async def address6(self) -> str:
        """The present IPv6 address, or ''."""
        known = await self.link.addresses6()
        if self._current6 not in known:  # not known yet, or started again since
            self._current6 = next((a for a, preferred in known.items() if preferred), "")
        return self._current6

    async def present(self) -> tuple[str, str]:
        """The present addresses, of IPv4 and IPv6. Raises ProtocolError (not-ready)."""
        return self.present_lease().address, await self.address6()

    async def extra_addresses(self) -> list[str]:
        """Those kept besides the present ones; none while there is no lease."""
        if self.state.lease is None:
            return []
        return await self.link.extra_addresses(set(await self.present()))

    async def prefer(self, new: tuple[str, str], old: tuple[str, str]) -> None:
        """Connections use the new addresses, of either family, and the old ones as backup."""
        await self.endpoints.prefer(new[0], True)
        await self.endpoints.prefer(old[0], False)
        self.forget_round_trips()
        if new[1] and old[1]:
            await self.endpoints.prefer(new[1], True)
            await self.endpoints.prefer(old[1], False)
            await self.link.move_in6(new[1], old[1])
            self._current6 = new[1]

    async def announce(self, address: str, backup: bool = False) -> int:
        """Announce an address to all peers, as they know it, under a fresh endpoint id, which is returned; under the
        kernel's own, where that has an implicit endpoint for it.

        Raises ProtocolError (full) where the kernel has no room for it, OSError where it refuses for another reason.
        """
        public = self.seen_as(address)
        try:
            if public != address and address not in (await self.endpoints.endpoints()).values():
                await self.endpoints.hold(address, await self._fresh_id(), backup)
            await self.endpoints.announce(public, await self._fresh_id(), backup)
        except OSError as error:
            known = (await self.endpoints.endpoints()).values()
            if len(known) < MOST_ENDPOINTS and error.errno != errno.ERANGE:  # before Linux 6.14 it is EINVAL
                raise
            text = (
                f"no room for {address}: the kernel has {len(known)} addresses for MPTCP already ({', '.join(known)})"
            )
            raise ProtocolError(FULL, text) from None
        return await self._id_of(public)

    async def endpoint_addresses(self) -> tuple[str, ...]:
        """Those of which the kernel makes use for MPTCP, each once."""
        return tuple(sorted(set((await self.endpoints.endpoints()).values()))[:MAX_ADDRESSES])

    async def _id_of(self, announced: str) -> int:
        """The last one that was given, but where the kernel has kept another one."""
        known = await self.endpoints.endpoints()
        given = self.state.last_id
        return given if known.get(given) == announced else next((i for i, a in known.items() if a == announced), given)

    async def _fresh_id(self) -> int:
        self.state.last_id = fresh_id(await self.endpoints.endpoints(), self.state.last_id)
        return self.state.last_id

    def seen_as(self, address: str) -> str:
        """What clients know an address as."""
        return self.state.public.get(address, address)

    async def withdraw_all(self, address: str) -> None:
        """Withdraw an address, whatever endpoint ids it was announced under, and as whatever: its subflows have the id
        under which it is held.

        RM_ADDR goes by the first subflow of each connection, which may take the longer way. A client whose subflow on
        this address has ended before it gets no slot back, so its end waits (docs/decisions/0021).
        """
        found = await self.endpoints.endpoints()
        wanted = dict.fromkeys((self.seen_as(address), address))
        ids = [endpoint_id for each in wanted for endpoint_id, announced in found.items() if announced == each]
        if not ids:
            return
        async with self._muted(await self._would_overtake(address)):
            for endpoint_id in ids:
                await self.endpoints.withdraw(endpoint_id)

    async def _would_overtake(self, address: str) -> list[Ends]:
        """The joined subflows on an address, of connections whose first one is on an old address, elsewhere. Where the
        first is gone, the kernel sends RM_ADDR by the oldest that is left, which may be the very one on the address."""
        near = {address, *await self.present()}
        try:
            found = self.sockets.connections()
        except OSError as error:
            LOG.warning("clients may not get their slots back, as connections cannot be seen: %s", error)
            return []
        return [
            (s.local, s.local_port, s.remote, s.remote_port)
            for c in found
            if any(not s.joined and s.established and s.local not in near for s in c.subflows)
            for s in c.subflows
            if s.joined and s.local == address
        ]

    @contextlib.asynccontextmanager
    async def _muted(self, ends: list[Ends]) -> AsyncIterator[None]:
        """What is done meanwhile is heard of at the clients before the last words of these."""
        try:
            if ends and self._has_muted(ends):
                yield
                await self.clock.sleep(WORD_SPREADS_S)
            else:
                yield
        finally:
            if ends:
                self.sockets.unmute(ends)

    def _has_muted(self, ends: list[Ends]) -> bool:
        try:
            self.sockets.mute(ends)
        except OSError as error:
            LOG.warning("clients may not get their slots back, as the kernel mutes nobody: %s", error)
            return False
        return True

    def forget_round_trips(self) -> None:
        """Those of before a move say nothing of after it: the paths are others, and the guest may have stood still."""
        try:
            self.sockets.forget_round_trips()
        except OSError as error:
            LOG.warning("new connections begin with round trips of before the move: %s", error)

    def forget_public(self, address: str) -> None:
        """The guest has the address no more."""
        if self.state.public.pop(address, None) is not None:
            self.save()

    async def until(self, holds: Callable[[], bool], within_s: float, every_s: float) -> None:
        """Look until it holds, or for so long. To look at thousands of connections takes long: a tenth of the time goes
        into that at most."""
        deadline_s = self.clock.now_s() + within_s
        while True:
            began_s = self.clock.now_s()
            if holds() or began_s >= deadline_s:
                return
            ended_s = self.clock.now_s()
            rest_s = min(max(every_s, REST * (ended_s - began_s)), deadline_s - ended_s)
            await self.clock.sleep(max(rest_s, 0.0))

    def later(self, what: Coroutine[Any, Any, None]) -> None:
        """Runs by itself, and is kept until it has ended."""
        task = asyncio.ensure_future(what)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(log_failure)


def log_failure(task: asyncio.Task[Any]) -> None:
    """For tasks that nobody may be waiting for."""
    with contextlib.suppress(asyncio.CancelledError):
        if task.exception() is not None:
            LOG.error("failed: %s", task.exception())
