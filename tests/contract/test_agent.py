"""Agent: the guest's, through its host's libvirt."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.contract import certifies
from tests.contract.stages import Stage
from tests.support import eventually
from vmacro.errors import AgentError, UnreachableError
from vmacro.model.facts import CountArgs, Reservation
from vmacro.ports import Agent


@pytest.fixture
def agent(stage: Stage) -> Iterator[Agent]:
    with stage.world.agent(stage.here, "web") as found:
        yield found


@pytest.fixture
def coming(agent: Agent) -> Iterator[str]:
    """An address of the guest's own subnet that nobody has; withdrawn in the end."""
    address = agent.status().address.rpartition(".")[0] + ".240"
    yield address
    agent.retire(address, force=True)
    assert agent.status().extra_addresses == ()


def refused(code: str) -> pytest.RaisesExc[AgentError]:
    return pytest.RaisesExc(AgentError, check=lambda error: error.code == code)


@certifies("Agent.status", "Agent.consent")
def test_the_agent_answers_where_the_guest_runs_and_only_there(stage: Stage, agent: Agent) -> None:
    facts = agent.status()
    assert facts.boot_id and facts.address.rpartition(".")[0] == facts.gateway.rpartition(".")[0]
    assert facts.extra_addresses == () and facts.claim is None
    assert facts.boot_id == agent.status().boot_id
    assert {"arrive", "claim", "connections", "endings", "prepare", "retire", "status", "watch"} <= set(facts.verbs)
    with pytest.raises(AgentError), stage.world.agent(stage.there, "web") as other:
        other.status()
    with pytest.raises(UnreachableError), stage.world.agent(stage.dead, "web") as other:
        other.status()


@certifies("Agent.consent", "Agent.connections")
def test_consent_tells_of_the_same_connections_within_a_bounded_wait(agent: Agent) -> None:
    assert {c.key for c in agent.consent(500)} == {c.key for c in agent.connections()}
    for timeout_ms in (0, 10_001):
        with refused("bad-args"):
            agent.consent(timeout_ms)


@certifies("Agent.consent")
def test_a_guest_whose_card_has_its_address_reserved_is_not_asked_for_another(stage: Stage, agent: Agent) -> None:
    """A server takes two clients of one card for one: it would take the lease from the guest."""
    facts, known = agent.status(), stage.world.hypervisor(stage.here)
    entry = Reservation(facts.address, facts.mac, "operators")
    stage.backstage.pin(facts.mac, facts.address, "operators")
    try:
        with stage.backstage.deaf_client(facts.address), refused("no-lease"):
            agent.consent(500)
    finally:
        known.release(stage.here.network, entry)
    network = known.network(stage.here.network)
    assert network is not None and (facts.address, facts.mac) in network.taken, "its lease"
    assert agent.status().claimed == facts.claimed


@certifies("Agent.claim", "Agent.release", "Agent.status")
def test_one_move_at_a_time_has_the_guest(agent: Agent) -> None:
    agent.claim("web-1", "me@here", 60)
    agent.claim("web-1", "me@here", 60)
    claim = agent.status().claim
    assert claim is not None and (claim.move, claim.by) == ("web-1", "me@here")
    with refused("claimed"):
        agent.claim("web-2", "them@there", 60)
    agent.release("web-2")
    assert agent.status().claim is not None
    agent.release("web-1")
    agent.release("web-1")
    assert agent.status().claim is None


@certifies("Agent.claim")
def test_a_claim_of_nobody_or_for_ever_is_refused(agent: Agent) -> None:
    for move, seconds in (("", 60), ("two words", 60), ("web-1", 0), ("web-1", 8 * 86_400)):
        with refused("bad-args"):
            agent.claim(move, "me@here", seconds)
    assert agent.status().claim is None


@certifies("Agent.claim", "Agent.prepare")
def test_what_was_announced_ends_with_its_claim(stage: Stage, agent: Agent, coming: str) -> None:
    agent.claim("web-1", "me@here", 5)  # a guest that has just booted takes seconds to prepare
    agent.prepare(coming)
    assert agent.status().extra_addresses == (coming,)
    for _ in range(40):  # the claim ends after 5 seconds; a starved guest's processor comes to it later
        stage.world.clock.sleep(1)
        facts = agent.status()
        if facts.claim is None and facts.extra_addresses == ():
            break
    assert facts.claim is None and facts.extra_addresses == ()
    agent.claim("web-2", "them@there", 1)
    agent.release("web-2")


@certifies("Agent.prepare", "Agent.retire")
def test_an_address_is_prepared_and_withdrawn_as_often_as_one_likes(agent: Agent, coming: str) -> None:
    address = agent.status().address
    for _ in range(2):
        agent.prepare(coming)
        assert agent.status().extra_addresses == (coming,) and agent.status().address == address
    assert agent.retire(coming) and agent.retire(coming)
    assert agent.status().extra_addresses == ()


@certifies("Agent.count", "Agent.all_connections", "Agent.watch")
def test_connections_are_counted_as_they_are_told(stage: Stage, agent: Agent, coming: str) -> None:
    agent.prepare(coming)
    with stage.backstage.plain_client(coming):
        watched = agent.watch()
        every = {c.key: c for c in agent.all_connections()}
        assert every.keys() == {c.key for c in agent.connections()} == {c.key for c in watched.connections}
        counts = agent.count(CountArgs((coming,)))
        assert (counts.total, counts.mptcp) == (len(every), sum(c.mptcp for c in every.values()))
        assert counts.joined == sum(c.reaches(coming) for c in every.values()) > 0
        assert counts.watch == watched.name and counts.untold == counts.awaited == 0
        absent = agent.count(CountArgs(("203.0.113.9",), (coming,), known=(coming,)))
        assert (absent.joined, absent.apart, absent.awaited) == (0, counts.mptcp, 0)
        for args in (CountArgs(("nowhere",)), CountArgs((), ("nowhere",)), CountArgs((), known=("nowhere",))):
            with refused("bad-args"):
                agent.count(args)


@certifies("Agent.drop_page_cache")
def test_a_guest_lets_go_what_it_keeps_of_files_and_answers_as_before(agent: Agent) -> None:
    before, first = agent.status(), agent.drop_page_cache()
    assert 0 < first < 1 << 20
    assert agent.drop_page_cache() < first, "which is what there was to let go"
    assert agent.status().boot_id == before.boot_id


@certifies("Agent.publish")
def test_what_clients_know_an_address_as_may_be_said_again(agent: Agent, coming: str) -> None:
    """What that does is in contract/test_public.py."""
    for public in ("203.0.113.9", "203.0.113.10", coming):
        agent.publish(coming, public)
    for address, public in (("nowhere", "203.0.113.9"), (coming, "nowhere"), (coming, "2001:db8::1")):
        with refused("bad-args"):
            agent.publish(address, public)


@certifies("Agent.prepare", "Agent.retire", "Agent.arrive")
def test_what_is_no_address_or_the_present_one_is_refused(agent: Agent) -> None:
    present = agent.status().address
    verbs: list[Callable[[str], object]] = [agent.prepare, agent.retire, agent.arrive]
    for verb in verbs[:2]:
        with refused("in-use"):
            verb(present)
    for verb in verbs:
        with refused("bad-args"):
            verb("nowhere")
    with refused("bad-args"):
        agent.prepare("10.60.1.240", "nowhere")
    assert agent.status().address == present and agent.status().extra_addresses == ()


@certifies("Agent.retire", "Agent.connections")
def test_an_address_stays_for_who_cannot_follow_until_it_is_forced(stage: Stage, agent: Agent, coming: str) -> None:
    agent.prepare(coming)
    with stage.backstage.plain_client(coming):
        (stuck,) = [c for c in agent.connections() if c.reaches(coming) and not c.mptcp]
        assert agent.retire(coming) is False and agent.retire(coming) is False
        assert agent.status().extra_addresses == (coming,)
        assert stuck.key in {c.key for c in agent.connections()}
        assert agent.retire(coming, force=True)
        assert agent.status().extra_addresses == ()
        assert stuck.key not in {c.key for c in agent.connections()}


@certifies("Agent.watch", "Agent.endings")
def test_a_watch_tells_how_those_that_it_began_with_have_ended(stage: Stage, agent: Agent) -> None:
    agent.claim("web-1", "me@here", 60)
    try:
        with stage.backstage.plain_client(agent.status().address):
            watched = agent.watch()
            (plain,) = [c for c in watched.connections if not c.mptcp]
            again = agent.watch()
            assert watched.name and again.name == watched.name, "one that is under way goes on"
            assert plain.key not in {e.key for e in agent.endings().endings}
        eventually(lambda: plain.key in {e.key for e in agent.endings().endings}, "the end of a client")
        found = agent.endings()
        assert (found.watch, found.missed) == (watched.name, False)
        assert not any(ended.lost for ended in found.endings), "the guest has moved nowhere"
    finally:
        agent.release("web-1")


@certifies("Agent.arrive")
def test_an_arrival_without_a_move_changes_nothing_and_may_be_asked_for_twice(agent: Agent, coming: str) -> None:
    address = agent.status().address
    agent.prepare(coming)
    for _ in range(2):
        arrival = agent.arrive(address)
        assert (arrival.old, arrival.new, arrival.endpoint_id) == (address, address, 0)
        assert (arrival.old6, arrival.new6) == ("", "") and arrival.present == (address,)
    assert agent.status().address == address and agent.status().extra_addresses == (coming,)
