"""The story on the fake world: what it does, and where each failure leaves the guest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from vmacro.drivers.fake import FakeWorld, connection
from vmacro.drivers.fake.agent import FakeAgent
from vmacro.drivers.fake.hypervisor import FakeHypervisor
from vmacro.drivers.fake.state import Effect
from vmacro.errors import AgentError, CopyError, PlanRejectedError, RolledBackError, UnreachableError
from vmacro.model.moves import Ending, Outcome, Plan, Verdict
from vmacro.model.nouns import Host, Policy
from vmacro.planning import planner
from vmacro.planning.handoffs import HANDOFFS, RENUMBER, SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import measured, migrate
from vmacro.services.handoff import ask_to_arrive
from vmacro.services.handoffs import HANDOFFS as HANDLERS
from vmacro.services.report import spans
from vmacro.services.reservations import Reservations
from vmacro.wire.agent_verbs import ABORTED, CLOSED, MAX_CONNECTIONS, RESET

Result = TypeVar("Result")


_handoff = [SEAMLESS]


@pytest.fixture(params=HANDOFFS, autouse=True)
def handoff(request: pytest.FixtureRequest) -> str:
    """Every test of this file, with each handoff."""
    _handoff[0] = request.param
    return _handoff[0]


class Straight:
    """A journal that keeps nothing."""

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        return act()


def request(fake: FakeWorld, **bounds: object) -> Request:
    policy = Policy(**{"linger_s": 0.0, **bounds})  # type: ignore[arg-type]
    return Request(fake.inventory.guests[0], fake.inventory.sites[1], _handoff[0], policy)


def plan(fake: FakeWorld, **bounds: object) -> Plan:
    wanted = request(fake, **bounds)
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=True)
    return planner.plan("web-1", fake.inventory, wanted, seen)


def run(fake: FakeWorld, **bounds: object) -> Outcome:
    return migrate.run_move(plan(fake, **bounds), fake.world, Straight())


def fail_at(effect: str, error: BaseException, times: int = 10_000) -> Callable[[str], None]:
    left = [times]

    def before(name: str) -> None:
        if name == effect and left[0] > 0:
            left[0] -= 1
            raise error

    return before


def test_a_move_ends_at_the_destination_with_its_connection_on_the_new_address() -> None:
    fake = FakeWorld()
    outcome = run(fake)
    assert (outcome.ending, outcome.exit_code) == (Ending.MOVED, 0)
    assert fake.running_at() == ["berlin"]
    new = {RENUMBER: "10.50.2.97", SEAMLESS: "10.50.2.10"}[_handoff[0]]
    assert fake.guest.address == new and fake.guest.kept == []
    (kept,) = outcome.connections
    assert (kept.kept, kept.verdict) == (True, Verdict.FOLLOWED)
    assert [s.local for s in fake.guest.connections[0].subflows] == [new]
    assert all(not h.legs and not h.networks["front"].reserved for h in fake.hosts.values())


def test_phases_come_in_order_and_the_pause_is_cut_out_of_the_copy() -> None:
    fake = FakeWorld()
    run(fake)
    begun = [e.text for e in fake.events if e.kind == "phase.begin"]
    assert begun == ["survey", "prepare", "copy", "arrive", "settle", "verify", "clean"]
    assert [e.data["event"] for e in fake.events if e.kind == "domain"] == ["suspended", "resumed", "stopped"]
    assert [s.name for s in spans(fake.events)] == ["copy", "arrive", "settle"]


def test_a_failed_copy_rolls_back() -> None:
    fake = FakeWorld()
    wanted = plan(fake)
    fake.hosts["berlin"].reachable = True
    fake.before = fail_at("copy bucharest", CopyError("the link broke"))
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert (outcome.ending, outcome.exit_code) == (Ending.ROLLED_BACK, 4)
    assert "the link broke" in outcome.reason
    assert fake.running_at() == ["bucharest"]


def test_an_interrupted_copy_rolls_back() -> None:
    fake = FakeWorld()
    wanted = plan(fake)
    fake.interrupted = True
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert outcome.ending == Ending.ROLLED_BACK and "interrupted" in outcome.reason
    assert fake.running_at() == ["bucharest"]


def test_an_interrupt_after_the_copy_does_not_stop_the_move() -> None:
    fake = FakeWorld()
    wanted = plan(fake)

    def before(effect: str) -> None:
        if effect == "copy.done":
            fake.interrupted = True

    fake.before = before
    assert migrate.run_move(wanted, fake.world, Straight()).ending == Ending.MOVED


def test_where_a_host_is_blind_after_a_failure_nothing_is_touched() -> None:
    fake = FakeWorld()
    wanted = plan(fake)

    def before(effect: str) -> None:
        if effect == "copy bucharest":
            fake.hosts["berlin"].reachable = False
            fake.hosts["bucharest"].armed.clear()  # its SSH session has gone as well
            raise CopyError("connection lost")

    fake.before = before
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert (outcome.ending, outcome.exit_code) == (Ending.UNCERTAIN, 6)
    assert "berlin: cannot be asked" in outcome.reason and "vmacro resume web-1" in outcome.hint


@pytest.mark.parametrize("handoff", [SEAMLESS], indirect=True)
def test_a_guest_that_never_paused_to_leave_is_at_home_however_blind_the_destination() -> None:
    """The source's own host has listened all the while; what was prepared elsewhere is undone by `resume`."""
    fake = FakeWorld()
    wanted = plan(fake)

    def before(effect: str) -> None:
        if effect == "copy bucharest":
            fake.hosts["berlin"].reachable = False
            raise CopyError("connection lost")

    fake.before = before
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.ROLLED_BACK, 4, True)


def test_a_copy_that_errs_after_the_switch_goes_forward() -> None:
    fake = FakeWorld()
    wanted = plan(fake)
    fake.before = fail_at("copy.done", CopyError("the source could not clean up"))
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert (outcome.ending, outcome.exit_code) == (Ending.MOVED, 0)
    assert fake.running_at() == ["berlin"]


def test_a_silent_agent_after_the_move_leaves_work() -> None:
    fake = FakeWorld()
    wanted = plan(fake, arrival_timeout_s=20)
    fake.before = fail_at("agent.arrive", AgentError("its agent does not answer"))
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert (outcome.ending, outcome.exit_code) == (Ending.INCOMPLETE, 5)
    assert "does not answer" in outcome.reason


@pytest.mark.parametrize(("reserved", "wanted"), [("", "one of the new site's"), ("10.50.2.10", "10.50.2.10")])
def test_a_guest_that_keeps_its_old_address_has_not_arrived(
    reserved: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DHCP at the destination gives it that, or none."""
    fake, arrive = FakeWorld(), FakeAgent.arrive
    monkeypatch.setattr(FakeAgent, "arrive", lambda agent, left: replace(arrive(agent, left), new=left))
    chosen = replace(plan(fake, arrival_timeout_s=5), new_address=reserved)
    began_s = fake.now_s
    with pytest.raises(AgentError) as refused:
        ask_to_arrive(replace(chosen, destination=chosen.source), fake.world)
    assert refused.value.message == f"guest web: has address {chosen.address}, not {wanted}"
    assert refused.value.hint == "vmacro resume" and fake.now_s >= began_s + 5


def test_an_agent_that_is_slow_to_come_back_is_waited_for() -> None:
    fake = FakeWorld()
    wanted = plan(fake)
    fake.before = fail_at("agent.arrive", AgentError("not yet"), times=3)
    assert migrate.run_move(wanted, fake.world, Straight()).ending == Ending.MOVED


def test_a_guest_that_rebooted_is_no_success() -> None:
    fake = FakeWorld()
    wanted = plan(fake)

    def before(effect: str) -> None:
        if effect == "copy.done":
            fake.guest.boot_id = "boot-2"

    fake.before = before
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert outcome.ending == Ending.WITH_LOSSES and "rebooted" in outcome.reason


def test_a_step_that_finds_the_guest_moved_does_not_copy_again() -> None:
    fake = FakeWorld()
    wanted = plan(fake)
    migrate.run_move(wanted, fake.world, Straight())

    def before(effect: str) -> None:
        assert not effect.startswith("copy"), "the guest is there already"

    def prepare_again(_world: object) -> None:
        raise AssertionError("it has arrived with what was prepared before")

    fake.before = before
    migrate._copy(wanted, fake.world, HANDLERS[wanted.handoff], lambda: 1.0, prepare_again)


class Kept:
    """A journal of steps that have ended: an attempt that is killed leaves the others to the next one."""

    def __init__(self) -> None:
        self._ended: dict[str, Any] = {}

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        if name not in self._ended:
            self._ended[name] = act()
        found: Result = self._ended[name]
        return found


def test_a_resumed_move_judges_each_connection_once_from_what_it_found_as_it_prepared_again() -> None:
    fake, journal, many = FakeWorld(), Kept(), MAX_CONNECTIONS + 20
    connections = [connection(n, fake.guest.address, True) for n in range(1, many + 1)]
    fake.guest.connections = connections.copy()
    wanted = plan(fake)
    fake.before = fail_at("copy bucharest", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        migrate.run_move(wanted, fake.world, journal)
    fake.before = lambda _effect: None
    fake.guest.connections.reverse()
    outcome = migrate.run_move(wanted, fake.world, journal, again=True)
    assert outcome.ending == Ending.MOVED and {c.verdict for c in outcome.connections} == {Verdict.FOLLOWED}
    judged = [c.key for c in outcome.connections]
    assert sorted(judged) == sorted(c.key for c in connections[20:]) and outcome.beyond.followed == 20


def test_blockers_reject_before_anything_changes() -> None:
    fake = FakeWorld()
    fake.hosts["berlin"].reachable = False
    with pytest.raises(PlanRejectedError, match="berlin: no answer") as caught:
        measured.move(fake.inventory, request(fake), fake.world, _never, lambda: "id", None, _no_folder, Reservations())
    assert caught.value.exit_code == 3
    assert fake.running_at() == ["bucharest"]


@pytest.mark.parametrize("handoff", [RENUMBER], indirect=True)
def test_an_unwilling_client_rejects_unless_loss_is_allowed() -> None:
    fake = FakeWorld()
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    with pytest.raises(PlanRejectedError, match="refuses ADD_ADDR"):
        measured.move(fake.inventory, request(fake), fake.world, _never, lambda: "id", None, _no_folder, Reservations())
    outcome = run(fake, allow_connection_loss=True)
    assert outcome.ending == Ending.MOVED
    assert [c.verdict for c in outcome.connections] == [Verdict.FOLLOWED, Verdict.LOST]
    assert "connections lost: 1: 10.9.0.14:40178 (without a path: it uses 10.50.1.97" in outcome.reason
    # Else whoever follows would wait with what was under way by the old path until its own kernel gives that up.
    assert fake.guest.kept == []
    assert [s.local for c in fake.guest.connections for s in c.subflows] == ["10.50.2.97"]


def ends_at(fake: FakeWorld, effect: str, how: str, heard: bool = False) -> None:
    """The guest's connection, once."""

    def before(coming: str) -> None:
        if coming == effect and fake.guest.connections:
            fake.guest.end(fake.guest.connections[0], how, heard)

    fake.before = before


def test_connections_that_were_lost_are_named() -> None:
    fake = FakeWorld()
    wanted = plan(fake)
    ends_at(fake, "agent.connections", RESET)
    fake.before = _after_arrival(fake, fake.before)
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.WITH_LOSSES, 5, False)
    assert outcome.reason.startswith("connections lost: 1: 10.9.0.14:40161 (it was reset")
    assert outcome.statistics is not None


@pytest.mark.parametrize(("how", "heard"), [(CLOSED, False), (ABORTED, False), (RESET, True)])
@pytest.mark.parametrize("effect", ["copy.done", "agent.connections"])
def test_one_that_has_ended_is_no_loss_and_is_not_waited_for(effect: str, how: str, heard: bool) -> None:
    fake = FakeWorld()
    wanted = plan(fake)
    ends_at(fake, effect, how, heard)
    if effect == "agent.connections":
        fake.before = _after_arrival(fake, fake.before)
    began = fake.now_s
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert (outcome.ending, outcome.reason) == (Ending.MOVED, "")
    assert [c.verdict for c in outcome.connections] == [Verdict.ENDED]
    assert fake.now_s - began < 5


@pytest.mark.parametrize("why", ["restarted", "overflowed"])
def test_what_nobody_knows_is_said_and_is_no_loss(why: str) -> None:
    fake = FakeWorld()
    wanted = plan(fake)

    def before(effect: str) -> None:
        if effect == "copy.done":
            fake.guest.connections.clear()
            fake.guest.missed = True
            if why == "restarted":
                fake.guest.restart_agent()

    fake.before = before
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert (outcome.ending, outcome.exit_code) == (Ending.MOVED, 0)
    assert [c.verdict for c in outcome.connections] == [Verdict.UNKNOWN]
    assert outcome.reason.startswith("it is not known what became of connections: 1: 10.9.0.14:40161 (it is gone, and")
    assert ("restarted" in outcome.reason) == (why == "restarted")


def _after_arrival(fake: FakeWorld, act: Callable[[Effect], None]) -> Callable[[Effect], None]:
    return lambda effect: act(effect) if fake.guest.arrived else None


def test_an_interrupt_before_the_plan_changes_nothing() -> None:
    fake = FakeWorld()
    fake.interrupted = True
    with pytest.raises(RolledBackError) as caught:
        measured.move(fake.inventory, request(fake), fake.world, _never, lambda: "id", None, _no_folder, Reservations())
    assert caught.value.exit_code == 4


def test_a_host_that_vanishes_in_the_last_look_rolls_back() -> None:
    fake = FakeWorld()
    wanted = plan(fake)
    fake.before = fail_at("watch berlin", UnreachableError("host berlin: no answer"))
    outcome = migrate.run_move(wanted, fake.world, Straight())
    assert outcome.ending == Ending.ROLLED_BACK
    assert fake.running_at() == ["bucharest"]


def test_a_copy_does_not_outlive_its_moves_claim_on_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of that the agent withdraws what clients have joined, and another move may have the guest."""
    allowed: list[float] = []
    fake = FakeWorld()
    copy = FakeHypervisor.copy

    def asked(self: Any, domain: str, destination: Host, policy: Policy, *rest: Any) -> None:
        assert fake.guest.claim is not None
        allowed.append(fake.now_s + policy.copy_timeout_s - fake.guest.until_s)
        copy(self, domain, destination, policy, *rest)

    def before(effect: str) -> None:
        if effect.startswith("agent.status"):
            fake.clock.sleep(100)  # a slow guest

    monkeypatch.setattr(FakeHypervisor, "copy", asked)
    chosen = plan(fake, copy_timeout_s=7200.0)
    fake.before = before
    assert migrate.run_move(chosen, fake.world, Straight()).ending == Ending.MOVED
    assert len(allowed) == 1 and allowed[0] < 0


def _never(_plan: Plan) -> Outcome:
    raise AssertionError("must not run")


def _no_folder(_move: str) -> Path:
    return Path()
