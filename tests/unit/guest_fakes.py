"""A guest in memory, behind the agent's ports: what its kernel and its DHCP server would do, and time that is told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from guest_agent import state
from guest_agent.guest import Guest
from guest_agent.ports import Ends, KernelEvent, NoLeaseError
from guest_agent.state import State
from vmacro.wire.agent_verbs import MOST_ENDPOINTS, Connection, Lease, Subflow

HOME, AWAY, BORROWED = "10.1.0.9", "10.2.0.9", "10.1.0.77"
HOME6, AWAY6 = "fd00:1::9", "fd00:2::9"
Result = TypeVar("Result")


def lease(address: str) -> Lease:
    gateway = address.rpartition(".")[0] + ".1"
    return Lease(address, 24, gateway, gateway, 3600)


class FakeClock:
    """Implements ports.Clock. Time passes only in run() and passes(), from one sleeper to the next."""

    def __init__(self) -> None:
        self._now = 1000.0
        self.still_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        return self._now

    def stood_still_s(self) -> float:
        return self.still_s

    async def sleep(self, seconds: float) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, sleeper))
        await sleeper

    async def passes(self, seconds: float) -> None:
        """So much time, and all that happens in it."""
        end = self._now + seconds
        await _settle()
        while self._pending() and self._pending()[0][0] <= end:
            await self._wake_next()
        self._now = end
        await _settle()

    async def run(self, what: Coroutine[Any, Any, Result]) -> Result:
        """To its end, in as much time as it takes."""
        task = asyncio.ensure_future(what)
        await _settle()
        while not task.done():
            assert self._pending(), "it waits for something that no time brings"
            await self._wake_next()
        return task.result()

    async def _wake_next(self) -> None:
        self._now, sleeper = self._pending()[0]
        sleeper.set_result(None)
        await _settle()

    def _pending(self) -> list[tuple[float, asyncio.Future[None]]]:
        """Who still sleeps, the first to wake up first."""
        self._sleepers = sorted((s for s in self._sleepers if not s[1].done()), key=lambda s: s[0])
        return self._sleepers


async def _settle() -> None:
    """Until nothing can run without time."""
    for _ in range(50):
        await asyncio.sleep(0)


@dataclass
class FakeKernel:
    """Implements ports.Link, Endpoints, Sockets and KernelEvents. `log` has what changed, in order."""

    log: list[str] = field(default_factory=list)
    main: str = ""
    kept: list[str] = field(default_factory=list)
    known6: dict[str, bool] = field(default_factory=dict)
    announced: dict[int, str] = field(default_factory=dict)
    open: list[Connection] = field(default_factory=list)
    closing: set[str] = field(default_factory=set)
    name: str = "eth0"
    mac: str = "52:54:00:00:00:01"
    can_cut: bool = True
    on_announce: Callable[[str], None] = lambda _address: None
    refuses_announce: bool = False
    room: int = MOST_ENDPOINTS
    goodbyes: set[Ends] = field(default_factory=set)
    tells: bool = True
    told: list[KernelEvent] = field(default_factory=list)
    overflowed: bool = False
    muted: set[Ends] = field(default_factory=set)
    can_mute: bool = True
    listeners: dict[int, int] = field(default_factory=dict)
    dropped: int = 0
    cookies_are: str = "1"
    can_do_without: bool = True

    def rp_filter(self) -> int:
        return 2

    def forget_round_trips(self) -> None:
        self.log.append("forget round trips")

    async def bring_up(self) -> None:
        self.log.append("up")

    async def forget_neighbours(self, but: str = "") -> None:
        self.log.append(f"forget neighbours but {but}" if but else "forget neighbours")

    async def move_in(self, lease: Lease, old: str) -> None:
        self.log.append(f"move in {lease.address}")
        self.kept = [a for a in [*self.kept, old] if a and a != lease.address]
        self.main = lease.address

    async def move_in6(self, new: str, old: str) -> None:
        self.log.append(f"move in {new}")
        self.known6 |= {old: False, new: True}

    async def borrow(self, address: str) -> None:
        self.log.append(f"borrow {address}")
        if ":" in address:
            self.known6[address] = False
        else:
            self.kept.append(address)

    async def move_out(self, address: str) -> None:
        self.log.append(f"move out {address}")
        self.kept = [a for a in self.kept if a != address]
        self.known6.pop(address, None)

    async def extra_addresses(self, but: set[str]) -> list[str]:
        return sorted({*self.kept, *self.known6} - but)

    async def addresses6(self) -> dict[str, bool]:
        return dict(self.known6)

    async def raise_limits(self) -> None:
        self.log.append("raise limits")

    async def endpoints(self) -> dict[int, str]:
        return dict(self.announced)

    async def hold(self, address: str, endpoint_id: int, backup: bool = False) -> None:
        self.log.append(f"hold {address}{' as backup' if backup else ''}")
        self.announced[endpoint_id] = address

    async def announce(self, address: str, endpoint_id: int, backup: bool = False) -> None:
        self.log.append(f"announce {address}{' as backup' if backup else ''}")
        if self.refuses_announce:
            raise OSError("no more endpoints")
        if len(self.announced) >= self.room:
            raise OSError(errno.EINVAL, "Invalid argument")  # before Linux 6.14, ERANGE since
        assert address not in self.announced.values(), "one address cannot be announced under two ids"
        self.announced[endpoint_id] = address
        self.on_announce(address)

    async def prefer(self, address: str, preferred: bool) -> None:
        self.log.append(f"{'prefer' if preferred else 'spare'} {address}")

    async def withdraw(self, endpoint_id: int, address: str = "") -> None:
        """As the kernel does it: all subflows on the address end, whoever needs them (docs/decisions/0006)."""
        gone = address or self.announced.pop(endpoint_id, "")
        self.log.append(f"withdraw {gone}" if endpoint_id else f"withdraw initial {gone}")
        self._end(gone, {c.token for c in self.open if c.mptcp})

    def connections(self) -> list[Connection]:
        return list(self.open)

    def has_sockets(self, address: str) -> bool:
        return address in self.closing or any(c.reaches(address) for c in self.open)

    def look(self) -> tuple[list[Connection], set[Ends]]:
        return self.connections(), set(self.goodbyes)

    def listen(self) -> None:
        if not self.tells:
            raise OSError("no mptcp_pm_events here")
        self.log.append("listen")

    def heard(self) -> tuple[list[KernelEvent], bool]:
        heard, self.told = (self.told, self.overflowed), []
        self.overflowed = False
        return heard

    def stop(self) -> None:
        self.log.append("listen no more")

    def cut(self, address: str, tokens: set[int]) -> None:
        if not self.can_cut:
            raise OSError("SOCK_DESTROY: not here")
        self.log.append(f"cut {address} of {', '.join(map(str, sorted(tokens)))}")
        self._end(address, tokens)

    def mute(self, ends: Collection[Ends]) -> None:
        if not self.can_mute:
            raise OSError("no policy routing here")
        self.log.append(f"mute {', '.join(sorted({e[0] for e in ends}))}")
        self.muted |= set(ends)

    def unmute(self, ends: Collection[Ends]) -> None:
        self.log.append(f"unmute {', '.join(sorted({e[0] for e in ends}))}")
        self.muted -= set(ends)

    def unmute_all(self) -> None:
        self.muted.clear()

    def rooms(self) -> dict[int, int]:
        return dict(self.listeners)

    def turned_away(self) -> int:
        return self.dropped

    def cookies(self) -> dict[str, str]:
        return {"cookies": self.cookies_are}

    def have_them_queue(self) -> None:
        if not self.can_do_without:
            raise OSError("read-only file system")
        self.log.append("no cookies")
        self.cookies_are = "0"

    def put_back(self, before: Mapping[str, str]) -> None:
        self.log.append("cookies as before")
        self.cookies_are = before["cookies"]

    def joins(self, address: str, *tokens: int) -> None:
        """Clients of these connections join an address."""
        self.open = [_with(c, address, joined=True) if c.token in tokens else c for c in self.open]

    def _end(self, address: str, tokens: set[int]) -> None:
        left = [
            replace(c, subflows=tuple(s for s in c.subflows if s.local != address)) if c.token in tokens else c
            for c in self.open
        ]
        self.open = [c for c in left if c.subflows]


class FakeLeases:
    """Implements ports.Leases. `offers` are given in turn, the last one for ever; '' is a server that is silent."""

    def __init__(self, clock: FakeClock, log: list[str], *offers: str) -> None:
        self._clock, self._log = clock, log
        self.offers = list(offers)
        self.takes_s = 0.2
        self.reserved = ""  # for its card: all that a second client gets

    async def acquire(self, timeout_s: float) -> Lease:
        self._log.append("dhcp")
        offer = self.offers.pop(0) if len(self.offers) > 1 else self.offers[0]
        await self._clock.sleep(self.takes_s if offer else timeout_s)
        if not offer:
            raise NoLeaseError("no DHCP lease")
        return lease(offer)

    @contextlib.asynccontextmanager
    async def borrowed(self, timeout_s: float, had: Collection[str]) -> AsyncIterator[Lease]:
        if self.reserved in had:
            raise NoLeaseError(f"{self.reserved} is reserved for its card")
        self._log.append("lease borrowed")
        try:
            yield lease(self.reserved or BORROWED)
        finally:
            self._log.append("lease given back")


@dataclass
class World:
    """A guest at HOME, and all that a test may turn."""

    guest: Guest
    kernel: FakeKernel
    leases: FakeLeases
    clock: FakeClock

    @property
    def log(self) -> list[str]:
        return self.kernel.log

    def restarted(self) -> World:
        """Its agent was killed: the next one knows what was kept in its file."""
        return _world(self.kernel, self.clock, self.leases.offers, self.guest.state_file)


def at_home(folder: Path, *offers: str) -> World:
    """`offers`: what DHCP gives from now on."""
    file = folder / "state.json"
    State(lease(HOME)).save(file)
    return _world(FakeKernel(main=HOME), FakeClock(), list(offers or [AWAY]), file)


def _world(kernel: FakeKernel, clock: FakeClock, offers: list[str], file: Path) -> World:
    leases = FakeLeases(clock, kernel.log, *offers)
    guest = Guest(kernel, kernel, kernel, kernel, leases, clock, state.load(file), file)
    return World(guest, kernel, leases, clock)


def connection(token: int, *addresses: str) -> Connection:
    """With a subflow on each address, the first one the initial one; token 0: plain TCP."""
    found = Connection(token, ())
    for address in addresses:
        found = _with(found, address, joined=bool(found.subflows))
    return found


def _with(found: Connection, address: str, joined: bool) -> Connection:
    subflow = Subflow(address, 7000, "10.9.0.14", 40000 + found.token, joined, False, True)
    return replace(found, subflows=(*found.subflows, subflow))
