"""The guest as its agent knows it: its ports, and what must be remembered of it. Decisions are made elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from guest_agent.endpoint_ids import fresh_id
from guest_agent.ports import Clock, Endpoints, KernelEvents, Leases, Link, Sockets
from guest_agent.state import FILE, State
from vmacro.wire.agent_verbs import Lease
from vmacro.wire.counting import REST
from vmacro.wire.messages import ProtocolError

LOG = logging.getLogger(__name__)


@dataclass
class Guest:
    """Shared by all that decides about the guest. `stuck`: tokens of MPTCP connections that needed an old address when
    it was last to be retired, though the present one had been announced to them."""

    link: Link
    endpoints: Endpoints
    sockets: Sockets
    events: KernelEvents
    leases: Leases
    clock: Clock
    state: State = field(default_factory=State)
    state_file: Path = FILE
    stuck: set[int] = field(default_factory=set)
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
        """Announce an address to all peers, as they know it, under a fresh endpoint id, which is returned."""
        public = self.seen_as(address)
        if public != address and address not in (await self.endpoints.endpoints()).values():
            await self.endpoints.hold(address, await self._fresh_id(), backup)
        await self.endpoints.announce(public, await self._fresh_id(), backup)
        return self.state.last_id

    async def _fresh_id(self) -> int:
        self.state.last_id = fresh_id(await self.endpoints.endpoints(), self.state.last_id)
        return self.state.last_id

    def seen_as(self, address: str) -> str:
        """What clients know an address as."""
        return self.state.public.get(address, address)

    async def withdraw_all(self, address: str) -> None:
        """Withdraw an address, whatever endpoint ids it was announced under, and as whatever: its subflows have the id
        under which it is held."""
        for wanted in dict.fromkeys((self.seen_as(address), address)):
            for endpoint_id, announced in (await self.endpoints.endpoints()).items():
                if announced == wanted:
                    await self.endpoints.withdraw(endpoint_id)

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
