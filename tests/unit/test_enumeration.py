"""Every call that a move makes, broken before and after its effect, in every way. What must hold, always holds."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest

from tests.unit.faults import Call, Crash, Faults, Logbook
from vmacro.drivers.fake import XEN, FakeWorld, connection
from vmacro.model.events import Event
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.model.nouns import Compression, Hooks
from vmacro.planning import planner
from vmacro.planning.handoffs import HANDOFFS, RENUMBER, SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import World
from vmacro.services import measured

Result = TypeVar("Result")
WHENS = ("before", "after")
NAME = "www.example.net"
WITH_DISK = "seamless, with a disk of its own"
OUTSIDE = "seamless, with a name, hooks and an address that lingers, compressed"
ON_XEN = "seamless, on Xen"
OUTSIDE_VERBS = {"run", "look", "replace"}
DISK_VERBS = {"freeze", "serve", "fetch", "fetched", "create_overlay", "stop"}
ENOUGH = 4  # attempts, after which nothing may remain once the fault has gone


@dataclass
class Stage:
    """A world, a plan in it, and the journal of the attempts at it."""

    fake: FakeWorld
    plan: Plan
    book: Logbook

    moves: ClassVar[int] = 0  # attempts of all stages

    def attempt(self, faults: Faults) -> Outcome | None:
        """None: it crashed."""
        Stage.moves += 1
        try:
            return self.book.attempt(self.plan, faults.world(self.fake), faults)
        except Crash:
            self.after_the_crash()
            return None

    def after_the_crash(self) -> None:
        """What an orchestrator holds open ends with it; what libvirt does goes on."""
        for host in self.fake.hosts.values():
            host.watchers.clear()
            host.armed.clear()
            host.reachable = True

    def finish(self) -> Outcome:
        """`vmacro resume`, until nothing remains."""
        for host in self.fake.hosts.values():
            host.reachable = True
        outcome = self.book.outcome
        for _ in range(ENOUGH):
            if outcome is not None and not outcome.remains:
                return outcome
            outcome = self.attempt(Faults())
        raise AssertionError(f"still not over: {outcome}")


def put_on_xen(fake: FakeWorld) -> None:
    """Both hosts: a hypervisor that can do less."""
    for each in fake.hosts.values():
        each.facts = replace(each.facts, hypervisor="Xen", capabilities=XEN, machine_types=("xenpv", "xenpvh"))
        each.domains = {n: replace(d, machine="xenpvh", accelerator="xen") for n, d in each.domains.items()}


def stage(handoff: str) -> Stage:
    """One client that follows; for `seamless` another that must be carried."""
    fake = FakeWorld()
    if handoff == WITH_DISK:
        fake.give_disk()
        fake.hosts[fake.home].autostart.add("web")
        handoff = SEAMLESS
    if handoff == OUTSIDE:
        fake.zone.put(NAME, fake.guest.address)
        guests = tuple(replace(guest, names=(NAME,)) for guest in fake.inventory.guests)
        policy = replace(fake.inventory.policy, linger_s=60.0, compression=Compression.ZSTD)
        fake.inventory = replace(fake.inventory, guests=guests, policy=policy, hooks=Hooks(("/before",), ("/after",)))
        handoff = SEAMLESS
    if handoff == ON_XEN:
        put_on_xen(fake)
        handoff = SEAMLESS
    if handoff == SEAMLESS:
        fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    wanted = Request(fake.inventory.guests[0], fake.inventory.sites[1], handoff, fake.inventory.policy, "me@here")
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=True)
    return Stage(fake, planner.plan("web-1", fake.inventory, wanted, seen), Logbook())


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    """For docs/reliability.md; shown by pytest's -s."""
    began_s = time.monotonic()
    yield
    calls = {handoff: len(calls_of(handoff)) for handoff in (*HANDOFFS, WITH_DISK, OUTSIDE, ON_XEN)}
    print(f"\ncalls: {calls}; moves: {Stage.moves} in {time.monotonic() - began_s:.0f} s")


def test_the_page_has_the_number_of_calls_that_a_move_makes() -> None:
    page = (Path(__file__).parents[2] / "docs/reliability.md").read_text()
    said = re.search(
        r"\((\d+) of a seamless one, on KVM and on Xen, (\d+) of `renumber`, (\d+) .*?, (\d+) of one", page
    )
    of = [len(calls_of(handoff)) for handoff in (SEAMLESS, ON_XEN, RENUMBER, WITH_DISK, OUTSIDE)]
    assert said is not None and [int(said[1]), *map(int, said.groups())] == of


@pytest.fixture(params=[*HANDOFFS, WITH_DISK, OUTSIDE, ON_XEN])
def handoff(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def calls_of(handoff: str) -> list[Call]:
    """Of a move that nothing disturbs."""
    faults = Faults()
    outcome = stage(handoff).attempt(faults)
    assert outcome is not None and outcome.ending == Ending.MOVED
    return faults.calls


def points(handoff: str) -> Iterator[tuple[int, str]]:
    for number in range(len(calls_of(handoff))):
        for when in WHENS:
            yield number, when


def repeats(calls: list[Call], number: int) -> bool:
    """Whether a call is in the midst of a wait that asks the same again and again, neither its first nor its last."""
    return 0 < number < len(calls) - 1 and calls[number - 1] == calls[number] == calls[number + 1]


def sound(found: Stage, where: str) -> None:
    """The guest runs once, and where the journal says; nothing is left of the move, no connection is gone."""
    fake, outcome = found.fake, found.book.outcome
    hosts_are_sound(found, where)
    assert outcome is not None
    carried = outcome.carried
    assert [a for a in fake.guest.kept if a not in carried] == [], where
    assert fake.guest.claim is None, where
    assert len(fake.guest.connections) == (2 if found.plan.handoff == SEAMLESS else 1), where
    assert all(c.reaches(fake.guest.address, *carried) for c in fake.guest.connections), where
    if found.plan.guest.names:
        is_told(found, where)


def is_told(found: Stage, where: str) -> None:
    """The name leads to where the guest is, and the hooks know of it; the old address takes new connections."""
    fake, outcome = found.fake, found.book.outcome
    assert outcome is not None
    assert fake.zone.names[NAME].addresses == (fake.guest.address,), where
    ran = [path for path, _ in fake.hooks.ran]
    if outcome.ending == Ending.MOVED:
        assert ran.index("/before") < ran.index("/after") and "10.50.1.97" in outcome.carried, where
    else:
        assert "/after" not in ran, where


def hosts_are_sound(found: Stage, where: str) -> None:
    """As sound(), of what is not the guest's own."""
    fake, outcome = found.fake, found.book.outcome
    assert outcome is not None
    at = "bucharest" if outcome.ending == Ending.ROLLED_BACK else "berlin"
    assert outcome.ending != Ending.UNCERTAIN and fake.running_at() == [at], where
    assert all("web" not in h.domains or h.domains["web"].running for h in fake.hosts.values()), where
    carried = outcome.carried
    left = [(n, e.address) for n, h in fake.hosts.items() for e in h.legs.values() if e.address not in carried]
    assert left == [], where
    reserved = [(n, r) for n, h in fake.hosts.items() for r in h.networks["front"].reserved if r.address not in carried]
    assert reserved == [], where
    assert not any(h.wide for h in fake.hosts.values()), where
    assert not any(h.watchers for h in fake.hosts.values()), where
    assert not any(h.disks.serving or h.disks.fetching for h in fake.hosts.values()), where
    assert [n for n, h in fake.hosts.items() if "web" in h.autostart] == ([at] if found.plan.autostart else []), where
    for disk in found.plan.disks:
        held = [n for n, h in fake.hosts.items() if disk.overlay in h.disks.overlays]
        assert set(held) - {"bucharest"} == set(fake.running_at()) - {"bucharest"}, where


def test_the_calls_are_worth_enumerating(handoff: str) -> None:
    verbs = {call.verb for call in calls_of(handoff)}
    assert {"claim", "copy", "arrive", "discard", "release", "write"} <= verbs
    assert handoff == OUTSIDE or "retire" in verbs
    assert handoff != OUTSIDE or verbs >= OUTSIDE_VERBS
    assert handoff != WITH_DISK or verbs >= DISK_VERBS
    assert handoff != SEAMLESS or {"reserve", "open", "prepare", "arm", "turn", "point", "close"} <= verbs


def test_an_error_at_any_call(handoff: str) -> None:
    """Without any help it ends in good order, or says that work remains, which `resume` then does."""
    for number, when in points(handoff):
        found = stage(handoff)
        outcome = found.attempt(Faults(number, when, _raise))
        assert outcome is not None
        where = f"error {when} call {number}: {outcome}"
        assert outcome.ending != Ending.UNCERTAIN, where
        if not outcome.remains:
            sound(found, where)
        found.finish()
        sound(found, where)


def test_a_crash_at_any_call_and_then_resume(handoff: str) -> None:
    for number, when in points(handoff):
        found = stage(handoff)
        assert found.attempt(Faults(number, when, _crash)) is None
        outcome = found.finish()
        where = f"crash {when} call {number}: {outcome}"
        assert outcome.ending == Ending.MOVED, where
        sound(found, where)


def test_a_crash_at_any_call_and_then_abort(handoff: str) -> None:
    for number, when in points(handoff):
        found = stage(handoff)
        assert found.attempt(Faults(number, when, _crash)) is None
        arrived = found.fake.running_at() == ["berlin"]
        found.fake.interrupted = True
        outcome = found.finish()
        where = f"crash {when} call {number}, aborted: {outcome}"
        assert outcome.ending == (Ending.MOVED if arrived else Ending.ROLLED_BACK), where
        sound(found, where)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_copy_that_goes_on_without_its_orchestrator(handoff: str, arrives: bool) -> None:
    """The crash is in the middle of it; libvirt ends it by itself, well or not, or `resume` finds it running."""
    if handoff == ON_XEN:
        pytest.skip("it dies as it is told of progress, which there is none of")
    for waits in (False, True):
        found = stage(handoff)
        world = Faults().world(found.fake)
        with pytest.raises(Crash):
            found.book.attempt(found.plan, _dying_in_the_copy(world), Faults())
        found.after_the_crash()
        assert found.fake.hosts["bucharest"].leaving == {"web": "berlin"}
        if not waits and arrives:
            found.fake.finish_copies()
        elif not arrives:
            found.fake.hosts["bucharest"].leaving.clear()
        outcome = found.finish()
        assert outcome.ending == Ending.MOVED
        sound(found, f"{arrives}, {waits}")


EVERY = pytest.param(True, id="at all of a wait", marks=pytest.mark.slow("the same question of a wait, sixty times"))


@pytest.mark.parametrize("every", [pytest.param(False, id="at both ends of a wait"), EVERY])
@pytest.mark.parametrize("when", WHENS)
def test_a_second_crash_during_the_resume(handoff: str, when: str, every: bool) -> None:
    """At any call of it, after a crash at any call: N times N moves, or half of them, the first crash of each pair of
    calls before its call or after it."""
    tried, calls = 0, calls_of(handoff)
    for number in range(len(calls)):
        if not every and repeats(calls, number):
            continue
        if handoff == WITH_DISK and calls[number].verb not in DISK_VERBS:
            continue  # without one it is done, and takes a minute
        if handoff == OUTSIDE and calls[number].verb not in OUTSIDE_VERBS:
            continue
        first = stage(handoff)
        assert first.attempt(Faults(number, when, _crash)) is None
        probe, counted = copy.deepcopy(first), Faults()
        assert probe.attempt(counted) is not None
        for second in range(len(counted.calls)):
            if not every and (repeats(counted.calls, second) or (number + second + (when == "after")) % 2):
                continue
            found = copy.deepcopy(first)
            assert found.attempt(Faults(second, WHENS[(number + second) // 2 % 2], _crash)) is None
            outcome = found.finish()
            where = f"crash {when} call {number}, then at {second} ({counted.calls[second]}): {outcome}"
            assert outcome.ending == Ending.MOVED, where
            sound(found, where)
            tried += 1
    assert tried > (500 if every else 250) or handoff != SEAMLESS, tried


@pytest.mark.parametrize("host", ["bucharest", "berlin"])
def test_a_host_that_cannot_be_asked_from_any_call_on(handoff: str, host: str) -> None:
    """UNCERTAIN touches nothing; whatever it was, once the host is back `resume` ends it."""
    uncertain = 0
    for number, when in points(handoff):
        found = stage(handoff)

        def vanish(_call: Call, found: Stage = found) -> None:
            found.fake.hosts[host].reachable = False

        faults = Faults(number, when, vanish)
        outcome = found.attempt(faults)
        where = f"{host} gone {when} call {number}: {outcome}"
        assert outcome is not None and len(found.fake.running_at()) == 1, where
        if outcome.ending == Ending.UNCERTAIN:
            uncertain += 1
            assert outcome.exit_code == 6 and "GUEST UNCERTAIN" in outcome.reason and host in outcome.reason, where
            afterwards = faults.calls[_end_of_copying(faults.calls) :]
            assert all(c.looks or c.subject == "journal" for c in afterwards), where
        found.finish()
        sound(found, where)
    assert uncertain > 0


def test_a_destination_whose_libvirt_dies_before_it_is_heard(handoff: str) -> None:
    """libvirt resumes its copy at the source: a fenced one is removed, of any other a person must judge."""
    found = stage(handoff)
    found.fake.unheard = True
    outcome = found.attempt(Faults())
    assert outcome is not None
    if found.plan.handoff == SEAMLESS:
        assert outcome.ending == Ending.MOVED
        sound(found, str(outcome))
    else:
        assert outcome.ending == Ending.UNCERTAIN and "TWICE" in outcome.hint
        assert found.fake.running_at() == ["bucharest", "berlin"], "nothing was touched"


def test_the_journal_can_never_be_written_again_from_any_call_on(handoff: str) -> None:
    """Before the copy is over that stops the move; afterwards it goes to its end and says that work remains."""
    writes = [n for n, call in enumerate(calls_of(handoff)) if call.subject == "journal"]
    for first in writes:
        found = stage(handoff)

        outcome = found.attempt(_Full(first))
        assert outcome is not None and outcome.remains and "cannot be written" in outcome.reason
        assert outcome.ending in (Ending.ROLLED_BACK, Ending.INCOMPLETE)
        assert (outcome.ending == Ending.INCOMPLETE) == (found.fake.running_at() == ["berlin"])
        found.finish()
        sound(found, f"journal full from call {first}: {outcome}")


class _Full(Faults):
    """The journal's disk, from the `first` call on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    def around(self, call: Call, act: Callable[[], Result]) -> Result:
        if call.subject == "journal" and len(self.calls) >= self._first:
            raise call.error()
        return super().around(call, act)


def _raise(call: Call) -> None:
    raise call.error()


def _crash(_call: Call) -> None:
    raise Crash


def _end_of_copying(calls: list[Call]) -> int:
    """Where the copy was given up: after its last touch of the world, which is the copy itself or what arms it."""
    return (
        max(n for n, call in enumerate(calls) if call.verb in ("copy", "arm", "watch", "prepare", "create_overlay")) + 1
    )


def _dying_in_the_copy(world: World) -> World:
    tell = world.publish

    def publish(event: Event) -> None:
        tell(event)
        if event.kind == "copy.progress":
            raise Crash

    return replace(world, publish=publish)
