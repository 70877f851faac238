"""What the guest does before, at and after a move."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Optional

from guest_agent import __version__, connections, link, mptcp, protocol, state
from guest_agent.detect import Detector
from guest_agent.lease import Lease, LeaseKeeper, NoLeaseError, borrowed
from guest_agent.state import Arrival

LOG = logging.getLogger(__name__)
LEASE_TIMEOUT_S = 30.0
SERVING_NICE = 10
# Announces of one move come within 0.8 s; two moves are further apart than this.
DEBOUNCE_S = 2.0
CONSENT_LEASE_TIMEOUT_S = 4.0
GOODBYE_S = 2.0
# What an orchestrator at work asks for, and nobody who only looks; after an arrival one that does not is gone.
ACTING = frozenset({"claim", "release", "prepare", "arrive", "retire"})
ALONE_AFTER_S, ALONE_EVERY_S = 30.0, 10.0
AGAIN_AFTER_S = 5.0


class Agent:
    """Owns one interface. Verbs are repeatable; an arrival runs once however many report it."""

    def __init__(self, interface: str, client_id: bytes = b"") -> None:
        self._interface = interface
        self._leases = LeaseKeeper(interface, client_id)
        self._link: Optional[link.Link] = None
        self._state = state.load()  # an earlier agent's, where it was killed
        self._heard_at = 0.0
        self._waiting: set[asyncio.Task[None]] = set()
        self._arriving: Optional[asyncio.Task[Arrival]] = None
        self._arrived_at = float("-inf")
        self._willing: set[int] = set()
        self._current6 = ""

    async def start(self) -> None:
        """First lease after boot, or where an earlier agent left off; `status` is answered while this still runs."""
        self._link = await link.find_link(self._interface)
        await mptcp.raise_limits()
        await link.bring_up(self._link)
        if self._state.claim is not None:
            self._later(self._expire(self._state.claim))
        if self._state.lease is not None:
            LOG.info("restarted; the last lease was of %s", self._state.lease.address)
            self._arrive("restart")
        while self._state.lease is None:
            try:
                lease = await self._leases.acquire(LEASE_TIMEOUT_S)
            except NoLeaseError as error:
                LOG.warning("%s; asking again", error)
                continue
            await link.move_in(self._link, lease, old="")
            self._state.lease = lease
            self._state.save()
        # A guest that has just arrived has clients to answer first; this matters with one slow processor.
        os.setpriority(os.PRIO_PROCESS, 0, SERVING_NICE)
        LOG.info("at home on %s, lease from %s", self._state.lease.address, self._state.lease.server)

    async def watch(self, detector: Detector) -> None:
        async for sighting in detector.sightings():
            if self._state.lease is not None and time.monotonic() - self._arrived_at > DEBOUNCE_S:
                LOG.info("%s says that the guest has moved", sighting.detector)
                self._arrive(sighting.detector)

    async def handle(self, request: protocol.Request) -> protocol.Reply:
        verbs: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "claim": self._claim,
            "release": self._release,
            "connections": self._connections,
            "consent": self._consent,
            "prepare": self._prepare,
            "arrive": self._arrive_verb,
            "retire": self._retire,
        }
        if request.verb in ACTING:
            self._heard_at = time.monotonic()
        try:
            return protocol.Reply(request.id, await verbs[request.verb](request.args))
        except protocol.ProtocolError as error:
            return protocol.Reply(request.id, {}, error.code, str(error))
        except NoLeaseError as error:
            return protocol.Reply(request.id, {}, "no-lease", str(error))

    async def _status(self, _args: dict[str, Any]) -> dict[str, Any]:
        return {
            "agent": __version__,
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "kernel": os.uname().release,
            "hostname": os.uname().nodename,
            "uptime_s": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
            "interface": self._interface,
            "mac": self._link.mac if self._link else "",
            "lease": asdict(self._state.lease) if self._state.lease else None,
            "address6": await self._address6(),
            "held": await self._held(),
            "verbs": sorted(protocol.VERBS),
            "claim": self._claimed(),
            "rp_filter": max(_rp_filter("all"), _rp_filter(self._interface)),
        }

    def _claimed(self) -> Optional[dict[str, Any]]:
        claim = self._state.claim
        return claim.as_wire() if claim is not None and not claim.over else None

    async def _claim(self, args: dict[str, Any]) -> dict[str, Any]:
        self._state.claim = state.claimed(self._state.claim, args)
        self._state.save()
        self._later(self._expire(self._state.claim))
        return self._state.claim.as_wire()

    async def _release(self, args: dict[str, Any]) -> dict[str, Any]:
        claim = self._state.claim
        if claim is not None and claim.move == args.get("move"):
            self._state.claim = None
            self._state.save()
        return {}

    async def _expire(self, claim: state.Claim) -> None:
        """Nobody is left to take back what was announced for a move that never came."""
        await asyncio.sleep(max(0.0, claim.until_s - state.now_s()))
        if self._state.claim != claim:
            return  # renewed or released
        LOG.warning("move %s of %s is over its time; its claim ends", claim.move, claim.by)
        self._state.claim = None
        self._state.save()
        for address in self._state.prepared:
            if address:
                await self._retire({"address": address})

    async def _finish_alone(self) -> None:
        """An orchestrator that is silent after an arrival does not take back old addresses. What it would then
        close at the hosts stays for its `resume`."""
        arrived_at = self._arrived_at
        await asyncio.sleep(ALONE_AFTER_S)
        while self._heard_at <= arrived_at == self._arrived_at:
            held = await self._held()
            LOG.warning("nobody settles this arrival; withdrawing %s where no connection needs them", held)
            for address in held:
                await self._retire({"address": address})
            await asyncio.sleep(ALONE_EVERY_S)

    def _later(self, what: Coroutine[Any, Any, None]) -> None:
        """Runs by itself, and is kept until it has ended."""
        task = asyncio.ensure_future(what)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        task.add_done_callback(_log_failure)

    async def _connections(self, _args: dict[str, Any]) -> dict[str, Any]:
        found = connections.connections()
        self._willing |= {c.token for c in found if c.token and c.followed}
        self._willing &= {c.token for c in found}
        listed = found[: protocol.MAX_CONNECTIONS]
        wire = [c.as_wire() | {"willing": c.token in self._willing} for c in listed]
        return {"connections": wire, "total": len(found)}

    async def _consent(self, args: dict[str, Any]) -> dict[str, Any]:
        """Ask every client whose consent is unknown to join a second address of this site.

        An echo of ADD_ADDR is no consent, only a join is. The address is borrowed from DHCP, announced
        as backup, so that no data takes it, and withdrawn at once. A port of the present address would
        not do: its subflows get id 0, and the client never gets its slot back (docs/decisions/0003).
        """
        timeout_ms = args.get("timeout_ms", 1500)
        if not isinstance(timeout_ms, int) or not 0 < timeout_ms <= 10_000:
            raise protocol.ProtocolError("bad-args", "timeout_ms must be 1 to 10000")
        if self._link is None or self._state.lease is None:
            raise protocol.ProtocolError("not-ready", "the guest has no lease yet")
        unknown = await self._undecided()
        if unknown:
            async with borrowed(self._interface, CONSENT_LEASE_TIMEOUT_S) as lease:
                await self._wait_for_joins(self._link, lease, unknown, timeout_ms / 1000)
        return await self._connections({})

    async def _wait_for_joins(self, card: link.Link, lease: Lease, unknown: set[int], timeout_s: float) -> None:
        await link.borrow(card, lease.address)
        endpoint_id = await self._fresh_id()
        try:
            await mptcp.announce(lease.address, endpoint_id, backup=True)
            deadline = time.monotonic() + timeout_s
            while unknown and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                unknown &= await self._undecided()
        finally:
            await mptcp.withdraw(endpoint_id)
            await _until_unused(lease.address)
            await link.move_out(card, lease.address)

    async def _undecided(self) -> set[int]:
        wire = (await self._connections({}))["connections"]
        return {c["token"] for c in wire if c["token"] and not c["willing"]}

    async def _prepare(self, args: dict[str, Any]) -> dict[str, Any]:
        """The addresses to come, answered for and announced as backup: tunnels lead them here already."""
        address = _address(args, "address")
        address6 = _address(args, "address6") if args.get("address6") else ""
        if self._link is None or self._state.lease is None:
            raise protocol.ProtocolError("not-ready", "the guest has no lease yet")
        if address == self._state.lease.address:
            raise protocol.ProtocolError("in-use", f"{address} is the guest's present address")
        for coming in (a for a in (address, address6) if a):
            await link.borrow(self._link, coming)
            if coming not in (await mptcp.endpoints()).values():
                await mptcp.announce(coming, await self._fresh_id(), backup=True)
        self._state.prepared = (address, address6)
        self._state.save()
        return {"prepared": [address, address6]}

    async def _address6(self) -> str:
        """The present IPv6 address, or ''."""
        known = await link.addresses6(self._link) if self._link is not None else {}
        if self._current6 not in known:  # not known yet, or started again since
            self._current6 = next((a for a, preferred in known.items() if preferred), "")
        return self._current6

    async def _held(self) -> list[str]:
        if self._link is None or self._state.lease is None:
            return []
        return await link.held(self._link, {self._state.lease.address, await self._address6()})

    async def _arrive_verb(self, args: dict[str, Any]) -> dict[str, Any]:
        """`left` is the address that the guest had before the move: it tells an arrival that the
        announce has already brought about from one that is still to come.
        """
        left = _address(args, "left")
        last, lease = self._state.last_arrival, self._state.lease
        if last is not None and lease is not None and (last.old, last.new) == (left, lease.address) != (left, left):
            return asdict(last)
        return asdict(await asyncio.shield(self._arrive("channel")))

    def _arrive(self, seen_by: str) -> asyncio.Task[Arrival]:
        """The arrival that runs, or the one that has just ended, or a new one."""
        running = self._arriving
        if running is not None and not running.done():
            return running
        just_ended = time.monotonic() - self._arrived_at <= DEBOUNCE_S
        if running is not None and just_ended and running.exception() is None:
            return running
        self._arriving = asyncio.ensure_future(self._renumber(seen_by))
        self._arriving.add_done_callback(_log_failure)
        self._arriving.add_done_callback(self._again_without_a_lease)
        return self._arriving

    def _again_without_a_lease(self, task: asyncio.Task[Arrival]) -> None:
        """DHCP may come back when no orchestrator waits for it any more."""
        failed_at = time.monotonic()

        def again() -> None:
            if self._arrived_at < failed_at and self._arriving is task:
                self._arrive("retry")

        if not task.cancelled() and isinstance(task.exception(), NoLeaseError):
            asyncio.get_running_loop().call_later(AGAIN_AFTER_S, again)

    async def _renumber(self, seen_by: str) -> Arrival:
        if self._link is None or self._state.lease is None:
            raise protocol.ProtocolError("not-ready", "the guest has no lease yet")
        began = time.monotonic()
        old = self._state.lease.address
        prepared, prepared6 = self._state.prepared
        old6 = await self._address6() if prepared6 else ""
        if prepared and seen_by != "restart":
            # Reached directly from here on: traffic waits neither for DHCP nor for ARP, as all gateways look alike.
            await self._prefer((prepared, prepared6), (old, old6))
        elif not prepared:
            await link.forget_neighbours(self._link)
        lease = await self._leases.acquire(LEASE_TIMEOUT_S)
        leased = time.monotonic()
        if prepared and lease.address == old:
            await self._prefer((old, old6), (prepared, prepared6))  # no arrival: the guest is still at home
            prepared = prepared6 = ""
        else:
            self._state.prepared = ("", "")
            if prepared and seen_by == "restart":
                await self._prefer((prepared, prepared6), (old, old6))
        await link.move_in(self._link, lease, old)
        await link.forget_neighbours(self._link, but=lease.gateway)
        self._state.lease = lease
        last = self._state.last_arrival
        if seen_by == "restart" and lease.address == old and last is not None and last.new == old:
            self._arrived_at = time.monotonic()
            return last
        endpoint_id = 0
        if prepared and lease.address == prepared:
            endpoint_id = next((i for i, a in (await mptcp.endpoints()).items() if a == prepared), 0)
        elif lease.address != old:
            # Left over where nobody retired it: one address cannot be announced under two ids.
            await _withdraw_all(lease.address)
            endpoint_id = await self._fresh_id()
            await mptcp.announce(lease.address, endpoint_id)
        self._arrived_at = time.monotonic()
        self._state.last_arrival = Arrival(
            seen_by,
            old,
            lease.address,
            lease.gateway,
            endpoint_id,
            round((leased - began) * 1000),
            round((self._arrived_at - began) * 1000),
            old6,
            prepared6,
        )
        self._state.save()
        LOG.info("arrived: %s", self._state.last_arrival)
        self._later(self._finish_alone())
        return self._state.last_arrival

    async def _prefer(self, new: tuple[str, str], old: tuple[str, str]) -> None:
        """Connections use the new addresses, and the old ones as backup."""
        await mptcp.prefer(new[0], True)
        await mptcp.prefer(old[0], False)
        if new[1] and old[1] and self._link is not None:
            await mptcp.prefer(new[1], True)
            await mptcp.prefer(old[1], False)
            await link.move_in6(self._link, new[1], old[1])
            self._current6 = new[1]

    async def _retire(self, args: dict[str, Any]) -> dict[str, Any]:
        """Take an address that the guest had from connections that use the present one too.

        Where nobody else needs it: REMOVE_ADDR on all connections, then the /32 goes. Where somebody does,
        only the others' subflows on it are cut, and it stays; unless `force` cuts these connections too.
        """
        address = _address(args, "address")
        if self._link is None or self._state.lease is None:
            raise protocol.ProtocolError("not-ready", "the guest has no lease yet")
        present = (self._state.lease.address, await self._address6())
        if address in present:
            raise protocol.ProtocolError("in-use", f"{address} is the guest's present address")
        users = [c for c in connections.connections() if c.uses(address)]
        free = {c.token for c in users if c.token and c.uses(*present)}
        stuck = [c for c in users if c.token not in free]
        force = args.get("force") is True
        try:
            if force:
                connections.cut(address, {c.token for c in stuck})
            elif stuck:
                connections.cut(address, free)
        except OSError as error:  # INET_DIAG_DESTROY may be missing in the kernel
            if force:
                raise protocol.ProtocolError("kernel", f"cannot cut connections: {error}") from None
            LOG.warning("followers keep their old subflows on %s as backup: %s", address, error)
        if stuck and not force:
            return {"retired": False, "stuck": len(stuck)}
        await mptcp.withdraw(0, address)
        await _withdraw_all(address)
        await link.move_out(self._link, address)
        if address in self._state.prepared:
            self._state.prepared = ("", "")
            self._state.save()
        return {"retired": True, "stuck": 0}

    async def _fresh_id(self) -> int:
        self._state.last_id = mptcp.fresh_id(await mptcp.endpoints(), self._state.last_id)
        return self._state.last_id


async def _withdraw_all(address: str) -> None:
    for endpoint_id, announced in (await mptcp.endpoints()).items():
        if announced == address:
            await mptcp.withdraw(endpoint_id)


async def _until_unused(address: str) -> None:
    """Let subflows say goodbye: what leaves unsaid stays open at the client. A lost one is not waited for."""
    deadline = time.monotonic() + GOODBYE_S
    while time.monotonic() < deadline and connections.has_sockets(address):
        await asyncio.sleep(0.05)


def _rp_filter(interface: str) -> int:
    return int(Path(f"/proc/sys/net/ipv4/conf/{interface}/rp_filter").read_text())


def _address(args: dict[str, Any], key: str) -> str:
    try:
        return str(ipaddress.ip_address(str(args.get(key, ""))))
    except ValueError as error:
        raise protocol.ProtocolError("bad-args", f"{key}: {error}") from None


def _log_failure(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        if task.exception() is not None:
            LOG.error("failed: %s", task.exception())
