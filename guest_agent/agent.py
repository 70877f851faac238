"""The agent of one guest: its verbs, its first lease, and the signs of a move that it sees by itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from guest_agent import __version__, claims, crowd
from guest_agent.arrival import LEASE_TIMEOUT_S, Arrivals, prepare, publish
from guest_agent.consent import Consent, reply
from guest_agent.detect import Detector
from guest_agent.guest import Guest
from guest_agent.memory import ITS_OWN, Memory
from guest_agent.pages import Pages
from guest_agent.ports import NoLeaseError
from guest_agent.retirement import retire
from guest_agent.watch import Watch
from vmacro.wire import agent_verbs, fields
from vmacro.wire.agent_verbs import (
    MAX_ADDRESSES,
    VERBS,
    ArriveArgs,
    ClaimArgs,
    ConsentArgs,
    CountArgs,
    PageArgs,
    PrepareArgs,
    PublishArgs,
    ReleaseArgs,
    RetireArgs,
    Status,
)
from vmacro.wire.messages import Args, Nothing, ProtocolError, Reply, Request, Result, Verb

LOG = logging.getLogger(__name__)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Only an orchestrator that moves the guest asks for these. If none comes after an arrival, it is taken to be gone.
ACTING = frozenset({"claim", "release", "watch", "endings", "count", "prepare", "arrive", "retire", "publish", "drop"})
Handler = Callable[[Request], Awaitable[dict[str, Any]]]


def _handler(verb: Verb[Args, Result], carry_out: Callable[[Args], Awaitable[Result]]) -> tuple[str, Handler]:
    """By the verb's name; `carry_out` gets arguments that the verb has typed and bounded."""

    async def handle(request: Request) -> dict[str, Any]:
        return fields.encode(await carry_out(verb.decode_args(request)))

    return verb.name, handle


class Agent:
    """Answers verbs, which are repeatable; watches for arrivals that nobody tells it of."""

    def __init__(self, guest: Guest, memory: Memory = ITS_OWN) -> None:
        self._guest, self._memory = guest, memory
        self._arrivals = Arrivals(guest)
        self._consent = Consent(guest)
        self._watch = Watch(guest, lambda: self._arrivals.seen_at_s)
        self._pages = Pages(guest, self._consent.all)
        self._handlers = dict(
            [
                _handler(agent_verbs.STATUS, self._status),
                _handler(agent_verbs.CLAIM, self._claim),
                _handler(agent_verbs.RELEASE, self._release),
                _handler(agent_verbs.CONNECTIONS, self._connections),
                _handler(agent_verbs.PAGE, self._page),
                _handler(agent_verbs.CONSENT, self._ask_consent),
                _handler(agent_verbs.WATCH, self._begin_watch),
                _handler(agent_verbs.ENDINGS, self._endings),
                _handler(agent_verbs.COUNT, self._count),
                _handler(agent_verbs.PREPARE, self._prepare),
                _handler(agent_verbs.ARRIVE, self._arrive),
                _handler(agent_verbs.RETIRE, self._retire),
                _handler(agent_verbs.PUBLISH, self._publish),
                _handler(agent_verbs.DROP, self._drop),
            ]
        )

    async def start(self) -> None:
        """First lease after boot, or where an earlier agent left off; `status` is answered while this still runs."""
        guest, state = self._guest, self._guest.state
        self.put_right()
        await guest.endpoints.raise_limits()
        await guest.link.bring_up()
        if state.claim is not None:
            guest.later(claims.expire(guest, state.claim))
        if state.lease is not None:
            LOG.info("restarted; the last lease was of %s", state.lease.address)
            self._arrivals.arrive("restart")
        while state.lease is None:
            try:
                lease = await guest.leases.acquire(LEASE_TIMEOUT_S)
            except NoLeaseError as error:
                LOG.warning("%s; asking again", error)
                continue
            await guest.link.move_in(lease, old="")
            state.lease = lease
            guest.save()
        LOG.info("at home on %s, lease from %s", state.lease.address, state.lease.server)

    def put_right(self) -> None:
        """What holds for a moment only, and outlasts the agent that has made it. Idempotent."""
        self._guest.sockets.unmute_all()
        crowd.no_more(self._guest)

    async def watch(self, detector: Detector) -> None:
        """Arrive whenever the guest is seen to have moved."""
        async for sighting in detector.sightings():
            if self._guest.state.lease is not None and not self._arrivals.just_arrived:
                LOG.info("%s: the guest has moved; it stood still %.3f s", sighting.detector, sighting.stood_still_s)
                self._arrivals.arrive(sighting.detector)

    async def handle(self, request: Request) -> Reply:
        """The reply to any request, whatever is in it."""
        handler = self._handlers.get(request.verb)
        if handler is None:
            return Reply(request.id, {}, "bad-verb", f"{request.verb!r} is not one of {', '.join(sorted(VERBS))}")
        if request.verb in ACTING:
            self._arrivals.orchestrator_acts()
        try:
            return Reply(request.id, await handler(request))
        except ProtocolError as error:
            return Reply(request.id, {}, error.code, str(error))
        except NoLeaseError as error:
            return Reply(request.id, {}, agent_verbs.NO_LEASE, str(error))

    async def _status(self, _args: Nothing) -> Status:
        guest = self._guest
        return Status(
            agent=__version__,
            boot_id=BOOT_ID.read_text().strip(),
            kernel=os.uname().release,
            hostname=os.uname().nodename,
            uptime_s=round(guest.clock.now_s(), 3),
            interface=guest.link.name,
            mac=guest.link.mac,
            lease=guest.state.lease,
            address6=await guest.address6(),
            extra_addresses=tuple((await guest.extra_addresses())[:MAX_ADDRESSES]),
            verbs=tuple(sorted(VERBS)),
            claim=claims.present_claim(guest),
            rp_filter=guest.link.rp_filter(),
            endpoints=await guest.endpoint_addresses(),
        )

    async def _claim(self, args: ClaimArgs) -> agent_verbs.Claim:
        return claims.claim_guest(self._guest, args)

    async def _release(self, args: ReleaseArgs) -> Nothing:
        claims.release_guest(self._guest, args.move)
        return Nothing()

    async def _connections(self, _args: Nothing) -> agent_verbs.Connections:
        return self._consent.connections(self._watch.began.first)

    async def _page(self, args: PageArgs) -> agent_verbs.Page:
        return self._pages.page(args)

    async def _ask_consent(self, args: ConsentArgs) -> agent_verbs.Connections:
        return await self._consent.ask(args.timeout_ms / 1000)

    async def _begin_watch(self, _args: Nothing) -> agent_verbs.Connections:
        found = self._consent.judged(self._watch.begin())
        self._watch.answered(found)
        return replace(reply(found), watch=self._watch.name)

    async def _endings(self, _args: Nothing) -> agent_verbs.Endings:
        return self._watch.endings()

    async def _count(self, args: CountArgs) -> agent_verbs.Counts:
        return self._watch.count(args)

    async def _prepare(self, args: PrepareArgs) -> Nothing:
        await prepare(self._guest, args)
        return Nothing()

    async def _arrive(self, args: ArriveArgs) -> agent_verbs.Arrival:
        return await self._arrivals.arrive_from(args.left)

    async def _retire(self, args: RetireArgs) -> agent_verbs.Retired:
        return await retire(self._guest, args.address, args.force)

    async def _publish(self, args: PublishArgs) -> Nothing:
        publish(self._guest, args)
        return Nothing()

    async def _drop(self, _args: Nothing) -> agent_verbs.Dropped:
        return await self._memory.drop_page_cache()
