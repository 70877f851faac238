"""What a host does with a guest's legs as the guest pauses and resumes. Decisions only: all effects are behind ports.

A domain is armed before its migration begins; from then on its legs turn by this host's own libvirt's events.
Nothing is looked up when an event comes: what arrives between the pause and the turn must be rescued.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import libvirt
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host.errors import RefusedError
from vmacro.host.legs import LegEnd
from vmacro.wire.host_verbs import FENCED, GUEST, MOST_TURNS, STAYED, TUNNEL, UNKNOWN, MacUser, Turn, Turned
from vmacro.wire.messages import printable

_STAYS_FENCED = "libvirt resumed the guest here; it stays fenced until both hosts were asked"


class Tap(NamedTuple):
    """The host's device of one of a domain's cards, and that card's MAC in lower case; '' where libvirt names none."""

    device: str
    mac: str


class Overheard(Protocol):
    """The packets that went to a guest through its tap in the last moments; see rescue.Overheard."""

    def send_on(self, legs: list[LegEnd]) -> int:
        """Send them into the legs' tunnels. Returns how many packets were sent."""

    def close(self) -> None:
        """Stop overhearing."""


class Holding(Protocol):
    """What is held for a guest that has no card yet; see hold.Holding."""

    def release(self, device: str, told: Callable[[int], None]) -> None:
        """To the guest's device, once that is up; `told` how many packets."""

    def close(self) -> None:
        """Hold no more. Idempotent."""


class Network(Protocol):
    """The kernel's part. Every method may raise NetlinkError, OSError or RefusedError."""

    def ends(self, domain: str) -> list[LegEnd]:
        """All ends of the domain's legs on this host."""

    def point(self, end: LegEnd, to: str) -> None:
        """Point one end to GUEST or TUNNEL."""

    def overhear(self, tap: str) -> Overheard:
        """Overhear a tap from now on, until the result is closed."""

    def hold(self, bridge: str, mac: str) -> Holding:
        """Hold what is sent to a MAC by a bridge, until the result is closed or released."""

    def put_up_fence(self, tap: str) -> None:
        """Cut a tap off from the network."""

    def take_down_fence(self, tap: str) -> None:
        """Lift a fence. Idempotent."""

    def fence_stands(self, tap: str) -> bool:
        """Whether a tap is fenced."""


class Domains(Protocol):
    """libvirt's part. Every method raises libvirtError."""

    def listen(self) -> bool:
        """Make sure that events come. False: they did not come before, so that earlier ones were missed."""

    @property
    def late(self) -> bool:
        """Whether a guest that arrives has no queue yet for packets."""

    def expect(self, domain: str) -> None:
        """See that its pauses are told, if it runs here. May raise OSError, too."""

    def sees_pauses(self, domain: str) -> bool:
        """Whether a pause since it was expected would have been told."""

    def taps(self, domain: str) -> list[Tap]:
        """The devices of all of the domain's cards on this host; none where it does not exist here."""

    def with_card(self, mac: str) -> list[MacUser]:
        """All domains on this host that have a card of this MAC, running or not, or will have it once started anew."""


@dataclass
class _Armed:
    """A domain as it was when it was armed. `taps`: the devices of all its cards; `paused`: it has paused since."""

    legs: list[LegEnd]
    taps: list[str]
    paused: bool = False


@dataclass
class _Told:
    """Turns that no orchestrator has asked for yet, at most MOST_TURNS of them."""

    turns: deque[Turn] = field(default_factory=lambda: deque(maxlen=MOST_TURNS - 1))
    dropped: int = 0

    def add(self, turn: Turn) -> None:
        self.dropped += len(self.turns) == self.turns.maxlen
        self.turns.append(turn)

    def told(self) -> tuple[Turn, ...]:
        if not self.dropped:
            return tuple(self.turns)
        oldest = self.turns[0]
        note = Turn(oldest.to, oldest.wall_ns, 0, trouble=f"{self.dropped} earlier turns were dropped: nobody asked")
        return (note, *self.turns)


@contextmanager
def _noting(troubles: list[str]) -> Iterator[None]:
    """What the kernel or libvirt refuses is noted, and the rest is done all the same: one leg that cannot be turned
    keeps neither another from it, nor the fence down."""
    try:
        yield
    except (NetlinkError, OSError, RefusedError, libvirt.libvirtError) as error:
        troubles.append(f"{type(error).__name__}: {error}")


class Switchover:
    """Remembers what was armed, fenced and turned since this program began. Fences are on the taps, and outlive it."""

    def __init__(self, network: Network, domains: Domains) -> None:
        self._network, self._domains = network, domains
        self._armed: dict[str, _Armed] = {}
        self._overheard: dict[str, tuple[str, Overheard]] = {}  # by domain, with the tap
        self._held: dict[str, Holding] = {}
        self._fenced: set[str] = set()
        self._told: dict[str, _Told] = {}

    def arm(self, domain: str) -> None:
        """From now on events of the domain turn its legs, as they are now. Idempotent."""
        taps, legs = self._taps(domain), self._network.ends(domain)
        self._armed.pop(domain, None)
        self._overhear(domain, next((tap.device for tap in taps if tap.mac in {leg.mac for leg in legs}), ""))
        self._armed[domain] = _Armed(legs, [tap.device for tap in taps])
        self._domains.expect(domain)
        if self._domains.late:
            self._hold(domain, [] if taps else legs)

    def turn(self, domain: str, to: str) -> None:
        """All ends of the domain's legs, as its event would have done; to the guest, its fence goes too. Idempotent."""
        for end in self._network.ends(domain):
            self._network.point(end, to)
        if to == GUEST:
            self._release(domain)
            for tap in self._taps(domain):
                self._network.take_down_fence(tap.device)
            self._fenced.discard(domain)

    def departure(self, domain: str) -> str:
        """Of a domain that was to leave: fenced since its pause; stayed, as its events say; or nobody listened."""
        taps = self._taps(domain)
        if taps and all(self._network.fence_stands(tap.device) for tap in taps):
            return FENCED
        armed = self._armed.get(domain)
        seen = armed is not None and not armed.paused and self._domains.sees_pauses(domain)
        return STAYED if seen else UNKNOWN

    def with_card(self, mac: str) -> list[MacUser]:
        """See Domains."""
        self._listen()
        return self._domains.with_card(mac)

    def turned(self, domain: str) -> Turned:
        """What events of the domain did since the last question."""
        return Turned(self._told.pop(domain, _Told()).told())

    def happened(self, domain: str, to: str, left: bool) -> None:
        """An event: the domain paused (TUNNEL) or runs (GUEST). `left`: it paused because it was migrated away.

        One that has left, and that libvirt resumes here, gets nothing back by itself.
        """
        armed = self._armed.get(domain)
        if armed is None:
            return
        armed.paused |= to == TUNNEL
        if to == GUEST and domain in self._fenced:
            self._tell(domain, Turn(to, time.time_ns(), 0, trouble=_STAYS_FENCED))
            return
        began_ns, troubles = time.monotonic_ns(), list[str]()
        turned = [end for end in armed.legs if self._pointed(end, to, troubles)]
        at_ns = 0 if troubles else time.time_ns()
        took_us = 0 if troubles else (time.monotonic_ns() - began_ns) // 1000
        rescued = 0
        with _noting(troubles):
            if to == TUNNEL:
                rescued = self._rescue(domain, turned)
            else:
                self._release(domain)
        if left:
            self._fence(domain, armed.taps, troubles)
        self._tell(domain, Turn(to, at_ns, took_us, rescued, printable("; ".join(troubles))))

    def _pointed(self, end: LegEnd, to: str, troubles: list[str]) -> bool:
        with _noting(troubles):
            self._network.point(end, to)
            return True
        return False

    def _taps(self, domain: str) -> list[Tap]:
        self._listen()
        return self._domains.taps(domain)

    def _listen(self) -> None:
        if not self._domains.listen():
            self._armed.clear()  # what happened meanwhile went unheard

    def _overhear(self, domain: str, tap: str) -> None:
        """Where the domain runs here, and so may leave: what goes to the tap of the card that its legs are of."""
        before, overheard = self._overheard.get(domain, ("", None))
        if overheard is not None and before != tap:
            del self._overheard[domain]
            overheard.close()
        if tap and domain not in self._overheard:
            self._overheard[domain] = (tap, self._network.overhear(tap))

    def _rescue(self, domain: str, legs: list[LegEnd]) -> int:
        """Send on what came too late, and overhear no more: the tap is about to go. Returns how many packets."""
        _, overheard = self._overheard.pop(domain, ("", None))
        if overheard is None:
            return 0
        try:
            return overheard.send_on(legs)
        finally:
            overheard.close()

    def _hold(self, domain: str, legs: list[LegEnd]) -> None:
        """Of a domain that may come: what goes to its card."""
        before = self._held.pop(domain, None)
        if before is not None:
            before.close()
        if legs:
            self._held[domain] = self._network.hold(legs[0].bridge, legs[0].mac)

    def _release(self, domain: str) -> None:
        """It runs here now: to the card that its legs are of, as soon as that is up."""
        held = self._held.pop(domain, None)
        if held is None:
            return
        try:
            macs = {leg.mac for leg in self._network.ends(domain)}
            card = next((tap.device for tap in self._domains.taps(domain) if tap.mac in macs), "")
        except Exception:
            held.close()  # nobody else knows of it any more
            raise
        if not card:
            held.close()
            return
        held.release(card, lambda count: self._tell(domain, Turn(GUEST, time.time_ns(), 0, count)))

    def _fence(self, domain: str, taps: Iterable[str], troubles: list[str]) -> None:
        """All of them: a copy that libvirt resumes here must reach nobody, by whatever card."""
        for tap in taps:
            with _noting(troubles):
                self._network.put_up_fence(tap)
                self._fenced.add(domain)

    def _tell(self, domain: str, turn: Turn) -> None:
        self._told.setdefault(domain, _Told()).add(turn)
