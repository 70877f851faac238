"""A guest's agent, in memory."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

from vmacro.drivers.fake.state import Effect, FakeGuest
from vmacro.errors import AgentError
from vmacro.model.facts import AgentFacts, Arrival, Claim, Connection, Counts, Endings, Watched
from vmacro.wire.agent_verbs import CLAIMED, CUT, LONGEST_CLAIM_S, MAX_CONNECTIONS, NO_LEASE, CountArgs
from vmacro.wire.counting import began_with, counted
from vmacro.wire.messages import is_identifier

if TYPE_CHECKING:
    from vmacro.drivers.fake.world import FakeWorld

LONGEST_CONSENT_MS = 10_000
SILENCE_S = 5.0


class FakeAgent:
    """Implements ports.Agent."""

    def __init__(self, world: FakeWorld, place: str, guest: FakeGuest) -> None:
        self._world, self._place, self._known = world, place, guest

    def status(self) -> AgentFacts:
        guest = self._guest("status")
        return AgentFacts(
            "0.1.0",
            guest.boot_id,
            "6.12",
            guest.name,
            60.0,
            guest.mac,
            guest.address,
            _gateway(guest.address),
            guest.address6,
            tuple(sorted(guest.kept)),
            guest.verbs,
            guest.rp_filter,
            guest.claim,
            "eth0",
            guest.endpoints,
        )

    def claim(self, move_id: str, by: str, seconds: float) -> None:
        guest = self._guest("claim")
        if not is_identifier(move_id) or not 0 < round(seconds) <= LONGEST_CLAIM_S:
            raise self._refused("bad-args", f"claim of {move_id!r} for {seconds:g} s")
        with self._world.lock:
            if guest.claim is not None and guest.claim.move != move_id:
                raise self._refused(CLAIMED, f"move {guest.claim.move} has it")
            guest.claim, guest.until_s = Claim(move_id, by, 0.0), self._world.now_s + seconds

    def release(self, move_id: str) -> None:
        guest = self._guest("release")
        if guest.claim is not None and guest.claim.move == move_id:
            guest.claim = None
            guest.restart_agent()  # who does not move it asks for no endings

    def connections(self) -> tuple[Connection, ...]:
        guest = self._guest("connections")
        return tuple(guest.began.first(guest.connections)[:MAX_CONNECTIONS])

    def all_connections(self) -> tuple[Connection, ...]:
        return tuple(self._guest("page").connections)

    def consent(self, timeout_ms: int) -> tuple[Connection, ...]:
        guest = self._ready("consent")
        if not 0 < timeout_ms <= LONGEST_CONSENT_MS:
            raise self._refused("bad-args", f"timeout_ms must be 1 to {LONGEST_CONSENT_MS}")
        network, had = self._world.hosts[self._place].networks.get("front"), (guest.address, *guest.kept)
        own = [r.address for r in (network.reserved if network else ()) if r.mac == guest.mac and r.address in had]
        unknown = any(c.mptcp and not c.willing for c in guest.connections)
        if unknown and guest.claim is not None:
            raise self._refused(CLAIMED, f"move {guest.claim.move} has it: its clients are not asked now")
        if own and unknown:
            raise self._refused(NO_LEASE, f"DHCP on eth0 has {own[0]} reserved for its card, and no other")
        return tuple(guest.connections[:MAX_CONNECTIONS])

    def watch(self) -> Watched:
        guest = self._guest("watch")
        if not guest.watch:
            guest.watches += 1
            guest.restart_agent()
            guest.watch, guest.arrived = f"watch-{guest.watches}", False
        guest.watched |= {c.key for c in guest.connections}
        guest.began = began_with(guest.connections)
        return Watched(guest.watch, tuple(guest.connections[:MAX_CONNECTIONS]))

    def endings(self) -> Endings:
        guest = self._guest("endings")
        ended = sorted(guest.ended.values(), key=lambda e: (not e.lost, e.key not in guest.began.shown))
        return Endings(guest.watch, guest.missed, tuple(ended[:MAX_CONNECTIONS]), len(ended))

    def count(self, args: CountArgs) -> Counts:
        guest = self._guest("count")
        for text in (*args.addresses, *args.carried, *args.known):
            self._see_that_it_is_one(text)
        told = bool(guest.watch) and not guest.missed
        return replace(counted(args, guest.began, guest.connections, guest.ended, told), watch=guest.watch)

    def prepare(self, address: str, address6: str = "") -> None:
        guest = self._ready("prepare", address, *([address6] if address6 else []))
        if address == guest.address:
            raise self._refused("in-use", f"{address} is the guest's present address")
        guest.prepared = (address, address6)
        for coming in (a for a in (address, address6) if a and a not in guest.kept):
            guest.kept.append(coming)
            guest.connections = [_joined(c, coming) if c.willing else c for c in guest.connections]

    def arrive(self, left: str) -> Arrival:
        guest = self._ready("arrive", left)
        last, new, old = guest.last, self._world.leased(self._place, self._known), guest.address
        if last is not None and (last.old, last.new) == (left, old) != (left, left):
            return last
        guest.arrived = new != old
        if new == old:
            guest.last = Arrival("channel", old, old, _gateway(old), 0, 300, 400)
            return guest.last
        new6 = guest.prepared[1]
        old6 = guest.address6 if new6 else ""
        guest.last = Arrival("channel", old, new, _gateway(new), 2, 300, 400, old6, new6)
        guest.kept = [a for a in (*guest.kept, old6, old) if a and a not in (new, new6)]
        guest.address, guest.address6, guest.prepared = new, new6 or guest.address6, ("", "")
        guest.connections = [_joined(c, new) if c.willing and not c.reaches(new) else c for c in guest.connections]
        return guest.last

    def retire(self, address: str, force: bool = False) -> bool:
        guest = self._ready("retire", address)
        if address in guest.present:
            raise self._refused("in-use", f"{address} is the guest's present address")
        return _retired(guest, address, force)

    def publish(self, address: str, public: str) -> None:
        guest = self._guest("publish")
        for text in (address, public):
            self._see_that_it_is_one(text)
        if (":" in address) != (":" in public):
            raise self._refused("bad-args", f"{public} is not of {address}'s family")
        guest.public[address] = public

    def drop_page_cache(self) -> int:
        guest = self._guest("drop")
        dropped, guest.cached_mib = guest.cached_mib, 0
        return dropped

    def _ready(self, verb: str, *addresses: str) -> FakeGuest:
        """Where the verb needs a lease, and addresses that are some."""
        guest = self._guest(verb)
        for text in addresses:
            self._see_that_it_is_one(text)
        if not guest.address:
            raise self._refused("not-ready", "the guest has no lease yet")
        return guest

    def _see_that_it_is_one(self, address: str) -> None:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise self._refused("bad-args", str(error)) from None

    def _guest(self, verb: str) -> FakeGuest:
        guest = self._known
        self._world.before(Effect(f"agent.{verb}", self._place, guest.name))
        here = self._world.hosts[self._place]
        runs_here = guest.name in here.domains and here.domains[guest.name].running
        awake = guest.answers and self._world.now_s >= guest.up_s
        if not awake or not here.reachable or not runs_here:
            self._world.clock.sleep(SILENCE_S)
            raise AgentError(f"guest {guest.name}: its agent does not answer ({verb!r}, {SILENCE_S:g} s)")
        if guest.claim is not None and self._world.now_s >= guest.until_s:
            _expire(guest)
        return guest

    def _refused(self, code: str, text: str) -> AgentError:
        return AgentError(f"guest {self._known.name}: agent refused: {text}", code=code)


def _expire(guest: FakeGuest) -> None:
    """The move that had it is over its time: what was announced for it ends with its claim."""
    guest.claim, guest.until_s = None, float("inf")
    for address in guest.prepared:
        if address:
            _retired(guest, address, force=False)


def _left(guest: FakeGuest, address: str, force: bool = False) -> bool:
    """Withdrawn, unless connections need it; `force` ends these."""
    stuck = [c for c in guest.connections if c.reaches(address) and not (c.mptcp and c.reaches(*guest.present))]
    if stuck and not force:
        return False
    for found in stuck:
        guest.end(found, CUT)
    guest.connections = [
        replace(c, subflows=tuple(s for s in c.subflows if s.local != address)) for c in guest.connections
    ]
    return True


def _retired(guest: FakeGuest, address: str, force: bool) -> bool:
    if not _left(guest, address, force):
        return False
    guest.kept = [a for a in guest.kept if a != address]
    if address in guest.prepared:
        guest.prepared = ("", "")
    return True


def _gateway(address: str) -> str:
    return address.rpartition(".")[0] + ".1" if address else ""


def _joined(found: Connection, address: str) -> Connection:
    first = found.subflows[0]
    return replace(found, subflows=(*found.subflows, replace(first, local=address, joined=True)))
