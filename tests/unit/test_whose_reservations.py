"""Whatever moves, failures, aborts, carriages and cleanups come after each other: no DHCP entry without a mark of ours
is ever changed or removed, and of those with one none is left in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.faults import Call, Crash, Faults, Logbook
from tests.unit.test_migrate import Straight
from vmacro.drivers.fake import FakeWorld, connection
from vmacro.drivers.fake.state import mac_of
from vmacro.errors import HostError, PlanRejectedError, RolledBackError, VmacroError
from vmacro.model import marks
from vmacro.model.facts import NO_PAST, HomedAddress, Past, Reservation
from vmacro.model.moves import Carriage, Ending, Outcome, Plan
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import carry, leftovers, measured
from vmacro.services.archive import Record
from vmacro.services.reservations import Reservations

SITES = {"bucharest": ("bucharest",), "berlin": ("berlin",)}
GUESTS = ("web", "shop")
# Few, so that they meet: the guests' own at home, and those that they would get.
ADDRESSES = [f"10.50.{site}.{n}" for site in (1, 2) for n in (10, 11, 12, 97, 98)]
ENOUGH = 4


@dataclass
class Move:
    plan: Plan
    book: Logbook

    @property
    def outcome(self) -> Outcome | None:
        return self.book.outcome

    @property
    def record(self) -> Record:
        return Record(self.plan, self.outcome, self.book.attempts, 0, 0)


@dataclass
class Life:
    """Two sites, their operator, and an orchestrator with its journal. `pinned` is what the operator has written."""

    fake: FakeWorld = field(default_factory=lambda: FakeWorld(SITES, GUESTS))
    pinned: dict[str, set[Reservation]] = field(default_factory=lambda: {name: set() for name in SITES})
    moves: list[Move] = field(default_factory=list)
    carriages: list[Carriage] = field(default_factory=list)
    pasts: dict[str, Past] = field(default_factory=dict)

    def __post_init__(self) -> None:
        policy = replace(self.fake.inventory.policy, carry_deadline_s=3.0)
        self.fake.inventory = replace(self.fake.inventory, policy=policy)
        for guest in self.fake.guests.values():
            guest.connections.append(connection(0xB0 + guest.number, guest.address, willing=False))
        self.fake.before = lambda _effect: self.is_untouched()

    def is_untouched(self) -> None:
        for name, host in self.fake.hosts.items():
            found = {e for e in host.networks["front"].reserved if not marks.is_marked(e)}
            assert found == self.pinned[name], name

    def pin(self, host: str, entry: Reservation) -> None:
        """By virsh: as libvirt lets them."""
        if marks.is_marked(entry):
            return
        known = self.fake.world.hypervisor(next(h for h in self.fake.inventory.hosts if h.name == host))
        before = self.fake.hosts[host].networks["front"].reserved
        try:
            known.reserve("front", entry)
        except HostError:
            return
        self.pinned[host] |= set(self.fake.hosts[host].networks["front"].reserved) - set(before)

    def unpin(self, host: str) -> None:
        if self.pinned[host]:
            entry = min(self.pinned[host], key=str)
            self.pinned[host].discard(entry)
            networks = self.fake.hosts[host].networks
            kept = tuple(e for e in networks["front"].reserved if e != entry)
            networks["front"] = replace(networks["front"], reserved=kept)

    def migrate(self, guest: str, to: str, faults: Faults) -> None:
        """As services/moves.py does; a move that did not end comes first."""
        last = self.last(guest)
        if last is not None and (last.outcome is None or last.outcome.ending == Ending.UNCERTAIN):
            return self.resume(guest, False, faults)
        number, book = len(self.moves) + len(self.fake.events), Logbook()
        noun, site = self.fake.inventory.guest(guest), self.fake.inventory.site(to)
        assert noun is not None and site is not None
        wanted = Request(noun, site, SEAMLESS, self.fake.inventory.policy, "me@here")
        world = faults.world(self.fake)

        def run(plan: Plan) -> Outcome:
            self.moves.insert(0, Move(plan, book))
            return book.attempt(plan, world, faults)

        def act() -> None:
            past = self.pasts.get(guest, NO_PAST)
            name = f"{guest}-20261127-120000-{number:04x}"
            measured.move(self.fake.inventory, wanted, world, run, lambda: name, None, Path, Reservations(), past)

        self._until_it_ends(guest, act)

    def meet(self, guest: str, to: str, number: int, host: str, entry: Reservation) -> None:
        """The operator writes an entry while the guest moves."""
        self.migrate(guest, to, Faults(number, "before", lambda _call: self.pin(host, entry)))

    def resume(self, guest: str, abort: bool, faults: Faults) -> None:
        last = self.last(guest)
        if last is not None and (last.outcome is None or last.outcome.remains):
            self.fake.interrupted = abort
            self._until_it_ends(guest, lambda: last.book.attempt(last.plan, faults.world(self.fake), faults))
            self.fake.interrupted = False

    def last(self, guest: str) -> Move | None:
        return next((m for m in self.moves if m.plan.guest.name == guest), None)

    def carry(self) -> None:
        for carriage in self.carriages:
            carry.run_carriage(carriage, self.fake.world, Straight())
        self.carriages.clear()
        for guest, past in self.pasts.items():
            self.pasts[guest] = replace(past, carried=())

    def cleanup(self) -> None:
        for left in self.left():
            if left.ours:
                try:
                    leftovers.remove(self.fake.inventory, left, self.fake.world)
                except VmacroError as error:  # told, as by the command: what connections need stays
                    assert left.kind == "address" and "connections still use it" in error.message, left

    def left(self) -> list[leftovers.Leftover]:
        told = {event.move_id for event in self.fake.events}
        records = [move.record for move in self.moves]
        return leftovers.find(self.fake.inventory, records, self.carriages, self.fake.world, told.__contains__)

    def hang_up(self, guest: str) -> None:
        """Who cannot follow ends its connection."""
        found = self.fake.guests[guest]
        found.connections = [c for c in found.connections if c.token < 0xB0]

    def come_to_rest(self) -> None:
        """Moves are finished, deadlines have passed, somebody cleans up."""
        for guest in GUESTS:
            for _ in range(ENOUGH):
                self.resume(guest, False, Faults())
        self.carry()
        self.cleanup()

    def _until_it_ends(self, guest: str, act: Callable[[], object]) -> None:
        try:
            act()
        except (PlanRejectedError, RolledBackError):
            return
        except Crash:
            for host in self.fake.hosts.values():
                host.watchers.clear()
                host.armed.clear()
            return
        last = self.last(guest)
        if last is None or last.outcome is None:
            return
        plan, made = last.plan, carry.carriages(last.plan, last.outcome, self.fake.now_s)
        others = [c for c in self.carriages if c.guest.name != guest or c.move_id != plan.move_id]
        self.carriages = [*others, *made]
        past = self.pasts.get(guest, NO_PAST)
        carried = tuple(HomedAddress(c.address, c.home) for c in self.carriages if c.guest.name == guest)
        self.pasts[guest] = Past((*past.legs, *plan.new_legs, *plan.old_legs), carried)


def _raise(call: Call) -> None:
    raise call.error()


def _crash(_call: Call) -> None:
    raise Crash


HOSTS = st.sampled_from(sorted(SITES))
WHO = st.sampled_from(GUESTS)
MACS = st.sampled_from([mac_of(1), mac_of(2), "52:54:00:77:77:77", "", *map(marks.placeholder_mac, ADDRESSES[3:5])])
NAMES = st.sampled_from(["", "web", "vmacro-web", marks.mark("web-20261127-120000-0000", "10.9.9.9")])
FAULTS = st.one_of(
    st.just(Faults()),
    st.builds(Faults, st.integers(0, 80), st.sampled_from(["before", "after"]), st.sampled_from([_raise, _crash])),
)
ENTRIES = st.builds(Reservation, st.sampled_from(ADDRESSES), MACS, NAMES).filter(lambda e: e.mac or e.name)
STEPS = st.one_of(
    st.tuples(st.just("migrate"), WHO, HOSTS, FAULTS),
    st.tuples(st.just("migrate"), WHO, HOSTS, FAULTS),
    st.tuples(st.just("meet"), WHO, HOSTS, st.integers(0, 80), HOSTS, ENTRIES),
    st.tuples(st.just("pin"), HOSTS, ENTRIES),
    st.tuples(st.just("unpin"), HOSTS),
    st.tuples(st.just("resume"), WHO, st.booleans(), FAULTS),
    st.tuples(st.just("carry")),
    st.tuples(st.just("cleanup")),
    st.tuples(st.just("hang_up"), WHO),
)


# What was taken for ours: an older vmacro's entry for nobody's card, an operator's of the guest's own address.
OLDER = ("pin", "berlin", Reservation("10.50.2.98", marks.placeholder_mac("10.50.2.98")))
OWN = ("pin", "bucharest", Reservation("10.50.1.97", mac_of(1)))
AWAY = ("migrate", "web", "berlin", Faults())


@example([OWN, ("hang_up", "web"), AWAY])
@example([OWN, AWAY, ("carry",), ("cleanup",)])
@example([OLDER, AWAY, ("cleanup",)])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=14))
def test_what_bears_no_mark_is_never_touched_and_what_does_goes_in_the_end(steps: list[tuple[object, ...]]) -> None:
    life = Life()
    for verb, *how in steps:
        how = [replace(x, calls=[]) if isinstance(x, Faults) else x for x in how]
        getattr(life, str(verb))(*how)
        life.is_untouched()
    life.come_to_rest()
    life.is_untouched()
    left = [e for h in life.fake.hosts.values() for e in h.networks["front"].reserved if marks.is_marked(e)]
    assert left == []


@pytest.mark.parametrize("strike", [_raise, _crash])
def test_what_was_reserved_before_the_journal_had_the_move_goes(strike: Callable[[Call], None]) -> None:
    """Its orchestrator dies in that moment, or the host's answer is lost."""
    counted = Faults()
    Life().migrate("web", "berlin", counted)
    at = next(n for n, call in enumerate(counted.calls) if call.verb == "reserve")
    life = Life()
    life.migrate("web", "berlin", Faults(at, "after", strike))
    left = life.fake.hosts["berlin"].networks["front"].reserved
    assert life.moves == [] and [marks.is_marked(entry) for entry in left] == ([True] if strike is _crash else [])
    life.cleanup()
    assert life.fake.hosts["berlin"].networks["front"].reserved == ()
    life.migrate("web", "berlin", Faults())
    assert life.fake.running_at() == ["berlin"]


def test_the_property_can_fail() -> None:
    """The operator's own entries of the kinds that were taken for ours, and moves that meet them."""
    life = Life()
    life.pin("bucharest", Reservation("10.50.1.97", mac_of(1)))
    life.migrate("web", "berlin", Faults())
    (move,) = life.moves
    assert move.outcome is not None and move.outcome.ending == Ending.MOVED and move.outcome.carried
    life.pin("berlin", Reservation(move.plan.new_address, mac_of(1)))
    life.cleanup()
    assert {len(kept) for kept in life.pinned.values()} == {1}
    life.fake.hosts["berlin"].networks["front"] = replace(life.fake.hosts["berlin"].networks["front"], reserved=())
    try:
        life.is_untouched()
    except AssertionError:
        return
    raise AssertionError("what was removed was not missed")
