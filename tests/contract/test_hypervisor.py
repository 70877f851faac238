"""What services rely on, held against the fake and against real libvirt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from tests.support import other_site, site_of
from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.host_side import HostSides
from vmacro.drivers.libvirt import LibvirtHypervisor
from vmacro.drivers.libvirt_connection import Connections
from vmacro.drivers.ssh import Ssh
from vmacro.drivers.system import SystemClock
from vmacro.errors import AgentError, CopyError, HostError, UnreachableError
from vmacro.lab import namespaces
from vmacro.model.facts import CopyProgress, Leaving
from vmacro.model.nouns import Host, Policy
from vmacro.ports import World


@dataclass(frozen=True)
class Stage:
    """A world in which the domain `web` runs on `here`."""

    world: World
    here: Host
    there: Host
    dead: Host
    bandwidth_mib_s: int


@pytest.fixture(params=["fake", pytest.param("libvirt", marks=pytest.mark.lab)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param == "fake":
        fake = FakeWorld()
        here, there = fake.inventory.hosts
        fake.hosts["dead"] = replace(fake.hosts["berlin"], domains={}, reachable=False)
        yield Stage(fake.world, here, there, replace(there, name="dead"), 0)
        return
    with _real(request) as found:
        yield found


@contextmanager
def _real(request: pytest.FixtureRequest) -> Iterator[Stage]:
    real_lab, known = request.getfixturevalue("lab"), request.getfixturevalue("settings").inventory
    here = known.host(site_of(real_lab, "web"))
    there = known.host(other_site(here.name))
    connections = Connections(real_lab.folder / "operator")
    sides = HostSides(Ssh(real_lab.folder / "ssh/id_ed25519", real_lab.folder / "ssh/known_hosts"))
    with namespaces.inside(real_lab.namespace("operator")):
        world = World(
            lambda host: LibvirtHypervisor(host, connections),
            ChannelAgents(connections).open,
            sides.get,
            sides.get,
            SystemClock(),
            lambda _event: None,
        )
        dead = replace(there, name="dead", uri=there.uri.replace("/system", ":9/system"))
        try:
            yield Stage(world, here, there, dead, 2)
        finally:
            sides.close()
            connections.close()


def test_facts_are_whole(stage: Stage) -> None:
    hypervisor = stage.world.hypervisor(stage.here)
    facts = hypervisor.facts()
    assert facts.hypervisor == "QEMU" and facts.hypervisor_version >= (9, 0, 0) and facts.free_memory_mib > 0
    domain = hypervisor.domain("web")
    assert domain is not None and domain.running and domain.has_agent_channel and domain.memory_mib > 0
    assert domain.machine in facts.machine_types
    network = hypervisor.network(stage.here.network)
    assert network is not None and network.active and not network.stp and network.dhcp_free


def test_what_is_not_there_is_none(stage: Stage) -> None:
    hypervisor = stage.world.hypervisor(stage.here)
    assert hypervisor.domain("nobody") is None
    assert hypervisor.network("nowhere") is None
    assert stage.world.hypervisor(stage.there).domain("web") is None
    assert stage.world.hypervisor(stage.there).statistics("web") is None


def test_a_dead_host_is_unreachable(stage: Stage) -> None:
    with pytest.raises(UnreachableError, match="host dead"):
        stage.world.hypervisor(stage.dead).facts()


def test_the_agent_answers_where_the_guest_runs_and_only_there(stage: Stage) -> None:
    with stage.world.agent(stage.here, "web") as agent:
        facts = agent.status()
        assert facts.address and facts.boot_id
        assert agent.consent(500) is not None
    with pytest.raises(AgentError), stage.world.agent(stage.there, "web") as agent:
        agent.status()


def test_an_arrival_without_a_move_changes_nothing_and_may_be_asked_for_twice(stage: Stage) -> None:
    with stage.world.agent(stage.here, "web") as agent:
        address = agent.status().address
        first, second = agent.arrive(address), agent.arrive(address)
        assert (first.old, first.new) == (second.old, second.new) == (address, address)
        agent.retire("192.0.2.1")
        agent.retire("192.0.2.1")
        assert agent.status().address == address


def test_a_copy_that_is_cancelled_leaves_the_guest(stage: Stage) -> None:
    seen: list[CopyProgress] = []
    known = stage.world.hypervisor(stage.here)
    policy = Policy(bandwidth_mib_s=stage.bandwidth_mib_s)
    with pytest.raises(CopyError, match="interrupted"):
        known.copy("web", stage.there, policy, seen.append, lambda: bool(seen))
    assert seen and seen[0].bytes_total > 0
    domain = known.domain("web")
    assert domain is not None and domain.running
    assert stage.world.hypervisor(stage.there).domain("web") is None


def test_a_copy_moves_the_guest_and_tells_of_it(stage: Stage) -> None:
    events: list[tuple[str, str]] = []
    source, destination = stage.world.hypervisor(stage.here), stage.world.hypervisor(stage.there)
    with (
        source.watch("web", lambda e, _d: events.append(("source", e))),
        destination.watch("web", lambda e, _d: events.append(("destination", e))),
    ):
        source.copy("web", stage.there, Policy(), lambda _p: None, lambda: False)
    assert source.domain("web") is None
    moved = destination.domain("web")
    assert moved is not None and moved.running
    statistics = destination.statistics("web")
    assert statistics is not None and statistics.bytes_transferred > 0 and statistics.elapsed_ms > 0
    assert events.index(("source", "suspended")) < events.index(("destination", "resumed"))


def test_copying_what_is_not_there_is_an_error(stage: Stage) -> None:
    with pytest.raises(CopyError, match="no domain nobody"):
        stage.world.hypervisor(stage.here).copy("nobody", stage.there, Policy(), lambda _p: None, lambda: False)


class GoneError(Exception):
    """The orchestrator, as far as a copy can tell."""


def test_a_copy_whose_orchestrator_is_gone_goes_on_and_is_followed_by_the_next(stage: Stage) -> None:
    source, destination = stage.world.hypervisor(stage.here), stage.world.hypervisor(stage.there)

    def leave(_progress: CopyProgress) -> None:
        raise GoneError

    # So slow that it is under way for far longer than the next one needs to look.
    with pytest.raises(GoneError):
        source.copy("web", stage.there, Policy(bandwidth_mib_s=2 * stage.bandwidth_mib_s), leave, lambda: False)
    source.copy("web", stage.there, Policy(), lambda _p: None, lambda: False)
    assert source.domain("web") is None
    moved = destination.domain("web")
    assert moved is not None and moved.running


def test_what_runs_is_not_discarded_and_what_is_not_there_may_be(stage: Stage) -> None:
    with pytest.raises(HostError, match="web"):
        stage.world.hypervisor(stage.here).discard("web")
    stage.world.hypervisor(stage.there).discard("web")
    domain = stage.world.hypervisor(stage.here).domain("web")
    assert domain is not None and domain.running


def test_a_guest_at_home_has_no_fence(stage: Stage) -> None:
    side = stage.world.host_network(stage.here)
    assert side.leaving("web") == Leaving.UNKNOWN, "nobody has armed the host"
    side.arm("web")
    assert side.leaving("web") == Leaving.STAYED
    side.turn("web", to_guest=True)
    assert side.leaving("web") == Leaving.STAYED and side.leaving("nobody") == Leaving.UNKNOWN


def test_one_move_at_a_time_has_the_guest(stage: Stage) -> None:
    with stage.world.agent(stage.here, "web") as agent:
        agent.claim("web-1", "me@here", 60)
        agent.claim("web-1", "me@here", 60)
        claim = agent.status().claim
        assert claim is not None and (claim.move, claim.by) == ("web-1", "me@here")
        with pytest.raises(AgentError, match="move web-1") as refused:
            agent.claim("web-2", "them@there", 60)
        assert refused.value.code == "claimed"
        agent.release("web-2")
        assert agent.status().claim is not None
        agent.release("web-1")
        agent.release("web-1")
        assert agent.status().claim is None
