"""The guest reboots, or is shut off, at any call of a move, or in the midst of its copy. Both hosts say plainly where
it is, so that the move ends, and is told as it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.unit.faults import Call, Crash, Faults
from tests.unit.test_enumeration import OUTSIDE, WITH_DISK, Stage, calls_of, points, stage
from vmacro.drivers.fake import FakeWorld
from vmacro.model.events import Event
from vmacro.model.facts import SUSPENDED
from vmacro.model.moves import Ending, Outcome, Phase, Verdict
from vmacro.planning import planner
from vmacro.planning.handoffs import HANDOFFS, SEAMLESS
from vmacro.planning.outcome import REBOOTED, SHUT_OFF
from vmacro.planning.request import Request
from vmacro.services import measured

Happens = Callable[[FakeWorld], None]


@pytest.fixture(params=[*HANDOFFS, WITH_DISK, OUTSIDE])
def handoff(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def at_any_call(
    handoff: str, happens: Happens, staged: Callable[[str], Stage] = stage
) -> Iterator[tuple[Stage, Outcome, str]]:
    """What a move ends with, and where it was struck."""
    for number, when in points(handoff):
        found = staged(handoff)

        def strike(_call: Call, fake: FakeWorld = found.fake) -> None:
            if fake.running_at():
                happens(fake)

        outcome = found.attempt(Faults(number, when, strike))
        assert outcome is not None
        yield found, outcome, f"{when} call {number}, {calls_of_once(handoff)[number]}: {outcome}"


def in_the_copy(found: Stage, happens: Happens) -> Outcome:
    world = Faults().world(found.fake)

    def publish(event: Event) -> None:
        world.publish(event)
        if event.kind == "copy.progress":
            happens(found.fake)

    return found.book.attempt(found.plan, replace(world, publish=publish), Faults())


_CALLS: dict[str, list[Call]] = {}


def calls_of_once(handoff: str) -> list[Call]:
    if handoff not in _CALLS:
        _CALLS[handoff] = calls_of(handoff)
    return _CALLS[handoff]


def gone_on(found: Stage, how: str) -> Outcome:
    """`resume` or `abort`, once the guest has booted."""
    found.fake.clock.sleep(60.0)
    found.fake.interrupted = how == "abort"
    return found.finish()


def nothing_is_left(found: Stage, outcome: Outcome, where: str) -> None:
    """Of what the move needed, at both hosts."""
    for name, host in found.fake.hosts.items():
        assert [e for e in host.legs.values() if e.address not in outcome.carried] == [], (name, where)
        assert [r for r in host.networks["front"].reserved if r.address not in outcome.carried] == [], (name, where)
        assert not host.disks.serving and not host.disks.fetching and not host.watchers, (name, where)
        for disk in found.plan.disks if name == "berlin" and outcome.ending == Ending.ROLLED_BACK else ():
            assert disk.overlay not in host.disks.overlays, where


@pytest.mark.parametrize("how", ["resume", "abort"])
def test_a_guest_that_is_shut_off_at_any_call(handoff: str, how: str) -> None:
    seen = set()
    for found, first, where in at_any_call(handoff, FakeWorld.power_off):
        assert first.ending != Ending.UNCERTAIN, where
        outcome = gone_on(found, how)
        where = f"{where}; at last {outcome}"
        seen.add((outcome.ending, outcome.still))
        (at,) = [n for n, h in found.fake.hosts.items() if "web" in h.domains]
        assert found.fake.running_at() == [], where
        nothing_is_left(found, outcome, where)
        assert (outcome.ending == Ending.ROLLED_BACK) == (at == "bucharest"), where
        if outcome.still:
            assert f"shut off at {at}" in outcome.reason and outcome.exit_code in (4, 5), where
            assert outcome.hint == "virsh start web there" and outcome.carried == (), where
        elif outcome.ending != Ending.ROLLED_BACK:
            verified = found.book.noted[[n.name for n in found.book.noted].index("verify")]
            assert verified.result is True, f"it was well once it had arrived: {where}"
    assert {(Ending.ROLLED_BACK, "shut off"), (Ending.WITH_LOSSES, "shut off"), (Ending.MOVED, "")} >= seen
    assert len(seen) == 3, seen


def forgotten(fake: FakeWorld) -> None:
    """A transient guest is shut off: its libvirt has nothing of it any more."""
    fake.power_off()
    for host in fake.hosts.values():
        host.domains.pop("web", None)


def transient(handoff: str) -> Stage:
    """Its guest as `virsh create` makes one."""
    found = stage(handoff)
    for host in found.fake.hosts.values():
        host.domains = {name: replace(domain, persistent=False) for name, domain in host.domains.items()}
    found.plan = replace(found.plan, transient=True, autostart=False)
    return found


def test_plans_know_transient_guests() -> None:
    assert not stage(WITH_DISK).plan.transient
    fake = FakeWorld()
    fake.hosts["bucharest"].domains["web"] = replace(fake.hosts["bucharest"].domains["web"], persistent=False)
    wanted = Request(fake.inventory.guests[0], fake.inventory.sites[1], SEAMLESS, fake.inventory.policy, "me@here")
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=True)
    assert planner.plan("web-1", fake.inventory, wanted, seen).transient


@pytest.mark.parametrize("kind", [SEAMLESS, WITH_DISK])
def test_a_transient_guest_that_is_shut_off_at_any_call(kind: str) -> None:
    """Neither host has it any more; where it ended is known all the same."""
    seen = set()
    for found, first, where in at_any_call(kind, forgotten, transient):
        assert first.ending != Ending.UNCERTAIN and not first.remains, where
        seen.add((first.ending, first.still))
        nothing_is_left(found, first, where)
        if first.still:
            assert "virsh create" in first.hint and "shut off at" in first.reason, where
    assert seen == {(Ending.ROLLED_BACK, "shut off"), (Ending.WITH_LOSSES, "shut off"), (Ending.MOVED, "")}


def test_where_a_transient_guest_has_ended_may_be_in_doubt() -> None:
    """Neither host has it, and none has seen whether it had left: its disk is not thrown away at either."""
    found = transient(WITH_DISK)
    in_the_copy(found, forgotten)
    assert found.book.outcome is not None and found.book.outcome.ending == Ending.ROLLED_BACK
    doubt = transient(WITH_DISK)

    def unheard(fake: FakeWorld) -> None:
        forgotten(fake)
        fake.hosts["bucharest"].armed.clear()  # its host side was restarted

    outcome = in_the_copy(doubt, unheard)
    assert outcome.ending == Ending.UNCERTAIN and "it runs nowhere" in outcome.hint
    assert doubt.fake.hosts["berlin"].disks.overlays


@pytest.mark.parametrize("how", ["resume", "abort"])
def test_a_guest_that_reboots_at_any_call(handoff: str, how: str) -> None:
    seen = set()
    for found, first, where in at_any_call(handoff, FakeWorld.reboot):
        assert first.ending != Ending.UNCERTAIN, where
        outcome = gone_on(found, how)
        where = f"{where}; at last {outcome}"
        seen.add(outcome.ending)
        at = "bucharest" if outcome.ending == Ending.ROLLED_BACK else "berlin"
        assert found.fake.running_at() == [at], where
        assert found.fake.guest.claim is None, where
        nothing_is_left(found, outcome, where)
        if outcome.ending == Ending.WITH_LOSSES:
            assert outcome.reason.startswith(REBOOTED), where
            assert {c.verdict for c in outcome.connections} == {Verdict.LOST}, where
    assert Ending.WITH_LOSSES in seen and seen <= {Ending.WITH_LOSSES, Ending.MOVED, Ending.ROLLED_BACK}, seen


def test_a_reboot_in_the_midst_of_the_copy(handoff: str) -> None:
    """It arrives; that it booted, and what it has lost, is told, and nothing is left to be done."""
    found = stage(handoff)
    outcome = in_the_copy(found, FakeWorld.reboot)
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.WITH_LOSSES, 5, False), outcome
    assert outcome.reason.startswith(REBOOTED)
    assert {(c.verdict, c.why) for c in outcome.connections} == {(Verdict.LOST, REBOOTED)}
    assert found.fake.running_at() == ["berlin"] and found.fake.guest.claim is None
    nothing_is_left(found, outcome, str(outcome))


def test_a_reboot_is_as_losses_are_if_those_are_allowed() -> None:
    found = stage("seamless")
    allowed = replace(found.plan.policy, allow_connection_loss=True)
    found.plan = replace(found.plan, policy=allowed)
    outcome = in_the_copy(found, FakeWorld.reboot)
    assert outcome.ending == Ending.MOVED and outcome.reason.startswith(REBOOTED)


def test_a_reboot_without_connections_is_told_too() -> None:
    found = stage("seamless")
    found.fake.guest.connections = []
    outcome = in_the_copy(found, FakeWorld.reboot)
    assert (outcome.ending, outcome.reason) == (Ending.WITH_LOSSES, REBOOTED)


def test_a_power_off_in_the_midst_of_the_copy(handoff: str) -> None:
    """It is off at the source, and nobody waits for it to be elsewhere."""
    found = stage(handoff)
    outcome = in_the_copy(found, FakeWorld.power_off)
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.ROLLED_BACK, 4, False), outcome
    assert outcome.still == "shut off"
    assert outcome.reason.startswith("it is shut off at bucharest, since it was shut off before it had left: ")
    assert "domain is not running" in outcome.reason
    assert found.fake.hosts["bucharest"].domains["web"].state == "shut off"
    nothing_is_left(found, outcome, str(outcome))


def test_a_power_off_right_after_the_copy(handoff: str) -> None:
    found = stage(handoff)
    end = next(n for n, call in enumerate(calls_of_once(handoff)) if call.verb == "copy")
    outcome = found.attempt(Faults(end, "after", lambda _call: found.fake.power_off()))
    assert outcome is not None
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.WITH_LOSSES, 5, False), outcome
    assert outcome.reason == "it is shut off at berlin, since it was shut off after it had arrived"
    assert {(c.verdict, c.why) for c in outcome.connections} == {(Verdict.LOST, SHUT_OFF)}
    assert (outcome.still, outcome.hint) == ("shut off", "virsh start web there")
    nothing_is_left(found, outcome, str(outcome))


@pytest.mark.parametrize("how", ["resume", "abort"])
def test_a_power_off_while_nobody_looks(handoff: str, how: str) -> None:
    """The orchestrator dies in the copy, then the guest is shut off."""
    found = stage(handoff)

    def die(fake: FakeWorld) -> None:
        fake.power_off()
        raise Crash

    with pytest.raises(Crash):
        in_the_copy(found, die)
    found.after_the_crash()
    outcome = gone_on(found, how)
    assert (outcome.ending, outcome.still) == (Ending.ROLLED_BACK, "shut off"), outcome
    nothing_is_left(found, outcome, str(outcome))


@pytest.mark.parametrize("how", ["resume", "abort"])
def test_one_that_suspends_itself_in_the_midst_of_the_copy(handoff: str, how: str) -> None:
    """It is known where, and that it has lost nothing: once it is woken up, what the move had made is removed."""
    found = stage(handoff)
    outcome = in_the_copy(found, lambda fake: fake.power_off(state=SUSPENDED))
    assert (outcome.ending, outcome.still, outcome.remains) == (Ending.ROLLED_BACK, SUSPENDED, True), outcome
    assert outcome.reason.startswith("it is suspended by itself at bucharest: ")
    assert outcome.hint == "virsh dompmwakeup web there; vmacro resume web-1 undoes the rest"
    again = found.attempt(Faults())
    assert again is not None and again.remains and again.still == SUSPENDED
    found.fake.set_running("bucharest", "web", True)
    outcome = gone_on(found, how)
    assert (outcome.ending, outcome.still) == (Ending.ROLLED_BACK, ""), outcome
    assert found.fake.running_at() == ["bucharest"] and found.fake.guest.claim is None
    nothing_is_left(found, outcome, str(outcome))


def test_one_that_suspends_itself_after_its_arrival() -> None:
    found = stage("seamless")
    end = next(n for n, call in enumerate(calls_of_once("seamless")) if call.verb == "copy")
    outcome = found.attempt(Faults(end, "after", lambda _call: found.fake.power_off(state=SUSPENDED)))
    assert outcome is not None
    assert (outcome.ending, outcome.still, outcome.remains) == (Ending.INCOMPLETE, SUSPENDED, True), outcome
    assert outcome.hint == "virsh dompmwakeup web there; vmacro resume web-1 goes on then"
    found.fake.set_running("berlin", "web", True)
    assert gone_on(found, "resume").ending == Ending.MOVED


@pytest.mark.parametrize("how", ["resume", "abort"])
def test_a_move_that_an_older_vmacro_left_for_ever(how: str) -> None:
    """Its journal has no verdict on the reboot, but that `verify` failed, and that work remains."""
    found = stage("seamless")
    in_the_copy(found, FakeWorld.reboot)
    kept = [n for n in found.book.noted if n.name not in (Phase.VERIFY, Phase.CLEAN)]
    found.book.noted, found.book.outcome = kept, Outcome(Ending.INCOMPLETE, "it rebooted", remains=True)
    outcome = gone_on(found, how)
    assert (outcome.ending, outcome.remains) == (Ending.WITH_LOSSES, False), outcome
