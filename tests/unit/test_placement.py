"""Which of a site's hosts a guest goes to, and what of several hosts is asked when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from vmacro.drivers.fake import FakeWorld, card, host
from vmacro.drivers.system import side_by_side
from vmacro.errors import PlanRejectedError
from vmacro.model.facts import Survey
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.model.nouns import Host, Site
from vmacro.planning import checks
from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.planning.request import Candidate, Request, blocker, choose
from vmacro.ports import Hypervisor, World
from vmacro.services import measured, survey
from vmacro.services.report import summary
from vmacro.services.reservations import Reservations

SHORT = (blocker("memory-short", "host b", "256 MiB free, 512 MiB needed"),)
PATIENCE_S = 60.0
OTHER_MAC = "52:54:00:00:00:02"


def candidate(name: str, available_mib: int | None, *against: object) -> Candidate:
    return Candidate(replace(host(name), site="berlin"), available_mib, SHORT if against else ())


def test_the_most_memory_wins_and_the_others_are_told_of() -> None:
    choice = choose([candidate("a", 1000), candidate("b", 3000), candidate("c", 2000)])
    assert choice.host.name == "b"
    most = "the most memory available of the hosts that can take it: 3000 MiB"
    assert choice.because == f"{most}; not c: 2000 MiB; not a: 1000 MiB"


def test_a_host_that_something_stands_against_is_passed_over() -> None:
    choice = choose([candidate("a", 9000, SHORT), candidate("b", 1000), candidate("c", None, SHORT)])
    assert choice.host.name == "b"
    assert "not a: 256 MiB free, 512 MiB needed" in choice.because and "not c: 256" in choice.because


def test_where_no_host_can_take_it_the_one_with_the_fewest_reasons_is_told_of() -> None:
    twice = replace(candidate("a", 9000), blockers=SHORT * 2)
    choice = choose([twice, candidate("b", 10, SHORT)])
    assert choice.host.name == "b" and choice.because.startswith("no host of site berlin can take it")


def test_an_only_host_is_no_choice() -> None:
    assert choose([candidate("a", 5)]).because == "the only host of site berlin"


@pytest.fixture
def fake() -> FakeWorld:
    """berlin has two hosts: berlin and berlin2, which has less memory free."""
    world = FakeWorld()
    world.hosts["berlin2"] = FakeWorld().hosts["berlin"]
    world.hosts["berlin2"].facts = replace(world.hosts["berlin2"].facts, free_memory_mib=4096)
    home, away = world.inventory.sites
    world.inventory = replace(world.inventory, sites=(home, replace(away, hosts=(*away.hosts, _second()))))
    return world


def _second() -> Host:
    return replace(host("berlin2"), site="berlin")


def request(fake: FakeWorld, named: str = "") -> Request:
    site: Site = fake.inventory.sites[1]
    return Request(fake.inventory.guests[0], site, RENUMBER, fake.inventory.policy, host=named)


def placed(fake: FakeWorld, named: str = "") -> tuple[str, str, list[str]]:
    wanted = request(fake, named)
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=False)
    found = checks.place(wanted, seen)
    return found.host, found.because, [f.code for f in checks.blockers(checks.check(wanted, seen))]


def test_a_host_that_is_dead_is_passed_over_and_stands_in_nobodys_way(fake: FakeWorld) -> None:
    assert placed(fake)[0] == "berlin"
    fake.hosts["berlin"].reachable = False
    name, because, blocking = placed(fake)
    assert (name, blocking) == ("berlin2", []) and "not berlin: no answer" in because


def test_a_host_that_is_named_is_taken_or_nothing(fake: FakeWorld) -> None:
    assert placed(fake, "berlin2") == ("berlin2", "asked for by name", [])
    fake.hosts["berlin2"].networks.clear()
    assert placed(fake, "berlin2")[2] == ["network-missing"]
    assert placed(fake)[2] == []


def test_why_is_in_the_plan_and_in_the_report(fake: FakeWorld) -> None:
    wanted = request(fake)
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=False)
    plan = measured.planned("web-1", fake.inventory, wanted, seen)
    assert plan.destination.name == "berlin" and "not berlin2: 4096 MiB" in plan.chosen_because
    assert summary(plan, Outcome(Ending.MOVED), None)["chosen_because"] == plan.chosen_because


def test_two_moves_do_not_count_on_the_same_memory(fake: FakeWorld) -> None:
    """Each host has room for one more guest of 256 MiB, and not for two."""
    for name in ("berlin", "berlin2"):
        fake.hosts[name].facts = replace(fake.hosts[name].facts, free_memory_mib=300)
    wanted, reserved = request(fake), Reservations()
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=False)

    def plan(move_id: str) -> Callable[[Survey], Plan]:
        return lambda counted: measured.planned(move_id, fake.inventory, wanted, counted)

    with reserved.planned(seen, plan("web-1")) as first, reserved.planned(seen, plan("web-2")) as second:
        assert {first.destination.name, second.destination.name} == {"berlin", "berlin2"}
        with pytest.raises(PlanRejectedError, match="300 MiB free and 256 MiB of it for guests on their way here"):
            reserved.planned(seen, plan("web-3")).__enter__()
    with reserved.planned(seen, plan("web-4")) as again:
        assert again.destination.name == first.destination.name, "given back"


def test_two_moves_do_not_count_on_the_same_address(fake: FakeWorld) -> None:
    """Nor is it a stranger's when the first guest answers for it before the second is planned."""
    wanted, reserved = replace(request(fake, "berlin"), handoff=SEAMLESS), Reservations()
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=False)

    def plan(move_id: str) -> Callable[[Survey], Plan]:
        return lambda counted: measured.planned(move_id, fake.inventory, wanted, counted)

    with reserved.planned(seen, plan("web-1")) as first:
        other = replace(fake.hosts["bucharest"].domains["web"], cards=(card(OTHER_MAC),))
        fake.guest.mac = OTHER_MAC
        fake.hosts["bucharest"].domains["web"] = other
        fake.hosts["bucharest"].leases = {OTHER_MAC: fake.guest.address}
        fake.hosts["berlin"].used[first.new_address] = first.mac
        late = measured.look(fake.inventory, wanted, fake.world, ask_clients=False)
        with pytest.raises(PlanRejectedError, match="is used by"):
            plan("web-2")(late)
        with reserved.planned(late, plan("web-2")) as second:
            assert (first.new_address, second.new_address) == ("10.50.2.10", "10.50.2.11")
    with reserved.planned(seen, plan("web-3")) as again:
        assert again.new_address == first.new_address, "given back"


def test_a_host_that_never_ends_its_answer_stalls_nobody(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """All hosts are asked at once; the silent one is in trouble as if it were unreachable."""
    monkeypatch.setattr(survey, "HOST_DEADLINE_S", 0.2)
    together, released = threading.Barrier(2), threading.Event()

    def hypervisor(wanted: Host) -> Hypervisor:
        if wanted.name == "berlin2":
            assert released.wait(PATIENCE_S)
        else:
            together.wait(PATIENCE_S)  # neither of the two others is asked after the other
        return fake.world.hypervisor(wanted)

    world: World = replace(fake.world, hypervisor=hypervisor, side_by_side=side_by_side)
    views = survey.look_at(fake.inventory.hosts, None, world)
    released.set()
    assert [v.trouble for v in views[:2]] == ["", ""] and "no answer within" in views[2].trouble


def test_a_host_of_xen_has_more_time_since_its_host_side_takes_long_to_start(fake: FakeWorld) -> None:
    hosts = fake.inventory.hosts
    assert survey.deadline_s(hosts) == survey.HOST_DEADLINE_S == 20
    of_xen = replace(hosts[0], uri="xen+tls://b1/system")
    assert survey.deadline_s([*hosts, of_xen]) == 65 and survey.late(of_xen) == "no answer within 65 s"


def test_what_goes_wrong_in_a_thread_is_raised_to_who_asked() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        side_by_side([lambda: 1, fail], PATIENCE_S)
