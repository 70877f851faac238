"""Hypervisor: one host's libvirt."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.contract import certifies
from tests.contract.stages import FIRST_MAC, OWN_FILTER, Stage, mac
from tests.support import eventually
from vmacro.drivers.fake import QEMU
from vmacro.errors import CopyError, HostError, TakenError, UnreachableError
from vmacro.model import marks
from vmacro.model.definitions import FILE, FITS
from vmacro.model.facts import CopyProgress, Reservation
from vmacro.model.filters import LIVE, Filter
from vmacro.model.nouns import Compression, Policy

OTHER_MAC = "52:54:00:00:00:5d"


@certifies("Hypervisor.facts", "Hypervisor.domain", "Hypervisor.network")
def test_facts_are_whole(stage: Stage) -> None:
    hypervisor = stage.world.hypervisor(stage.here)
    facts = hypervisor.facts()
    assert facts.capabilities == QEMU
    assert facts.hypervisor == "QEMU" and facts.hypervisor_version >= (9, 0, 0) and facts.free_memory_mib > 0
    domain = hypervisor.domain("web")
    assert domain is not None and domain.running and domain.has_agent_channel and domain.memory_mib > 0
    assert domain.machine in facts.machine_types
    network = hypervisor.network(stage.here.network)
    assert network is not None and network.active and not network.stp and network.dhcp_free


@certifies("Hypervisor.domain", "Hypervisor.networks")
def test_all_cards_of_a_domain_are_told_and_on_which_networks(stage: Stage, scratch: str) -> None:
    hypervisor = stage.world.hypervisor(stage.here)
    domain, network = hypervisor.domain(scratch), hypervisor.network(stage.here.network)
    assert domain is not None and network is not None
    first, own = domain.cards
    assert (first.mac, own.mac, own.model) == (FIRST_MAC, mac(), "virtio"), "in lower case, in libvirt's order"
    for card in domain.cards:
        assert (card.kind, card.network, card.device) == ("network", network.name, network.bridge)
    assert first.tap and own.tap and first.tap != own.tap
    assert network.name in hypervisor.networks() and "nowhere" not in hypervisor.networks()


@certifies("Hypervisor.definition", "Hypervisor.filters", "Hypervisor.fit")
def test_the_filters_of_a_domains_cards_are_told(stage: Stage, scratch: str) -> None:
    hypervisor = stage.world.hypervisor(stage.here)

    def held(name: str) -> list[Filter]:
        found = hypervisor.definition(name)
        assert found is not None
        return sorted(found.filters, key=lambda f: f.name)

    assert held("web") == held(scratch) == []
    stage.backstage.put_up_filters(("clean-traffic", ()), (OWN_FILTER, ("10.50.1.7", "10.50.2.7")))
    assert held(scratch) == [
        Filter(FIRST_MAC, "clean-traffic", LIVE, (4,), ()),
        Filter(mac(), OWN_FILTER, LIVE, (4,), ("10.50.1.7", "10.50.2.7")),
    ]
    assert sorted(hypervisor.filters(scratch), key=lambda f: f.name) == held(scratch)
    with pytest.raises(HostError, match="no domain nobody"):
        hypervisor.filters("nobody")
    domain, found = hypervisor.domain(scratch), hypervisor.definition(scratch)
    assert domain is not None and found is not None
    fit = hypervisor.fit(scratch, domain.uuid, found)
    assert sorted(fit.filters, key=lambda f: f.name) == held(scratch), "at the host that has the same ones"


@certifies("Hypervisor.definition", "Hypervisor.fit", "HostDisks.files")
def test_another_host_has_what_a_domain_names(stage: Stage) -> None:
    here, there = stage.world.hypervisor(stage.here), stage.world.hypervisor(stage.there)
    found, domain = here.definition("web"), here.domain("web")
    assert found is not None and domain is not None and here.definition("nobody") is None
    assert found.emulator.startswith("/") and found.arch and not found.stays and not found.autostart
    assert all(need.live and need.next for need in found.needs), "it runs as it is defined"
    paths = tuple(need.name for need in found.named(FILE))
    looked = [stage.world.host_disks(host).files(paths) for host in (stage.here, stage.there)]
    assert paths and looked[0] == looked[1] and [file.path for file in looked[0]] == list(paths)
    fit = there.fit(domain.name, domain.uuid, found)
    assert (fit.absent, fit.unasked, fit.refusal, fit.lacks, fit.processor) == ((), (), "", (), FITS)
    assert fit.namesake == "" and here.fit("another", domain.uuid, found).namesake == domain.name


@certifies("Hypervisor.set_autostart", "Hypervisor.definition")
def test_a_domain_is_started_by_its_host_once_that_is_said(stage: Stage, scratch: str) -> None:
    known = stage.world.hypervisor(stage.here)
    stage.backstage.shut_scratch_off()
    for _ in range(2):
        known.set_autostart(scratch)
        found = known.definition(scratch)
        assert found is not None and found.autostart
    with pytest.raises(HostError, match="no domain nobody"):
        known.set_autostart("nobody")


@certifies("Hypervisor.domain", "Hypervisor.network", "Hypervisor.statistics")
def test_what_is_not_there_is_none(stage: Stage) -> None:
    hypervisor = stage.world.hypervisor(stage.here)
    assert hypervisor.domain("nobody") is None
    assert hypervisor.network("nowhere") is None
    assert stage.world.hypervisor(stage.there).domain("web") is None
    assert stage.world.hypervisor(stage.there).statistics("web") is None


@certifies("Hypervisor.facts")
def test_a_dead_host_is_unreachable(stage: Stage) -> None:
    with pytest.raises(UnreachableError, match="host dead"):
        stage.world.hypervisor(stage.dead).facts()


@certifies("Hypervisor.copy")
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


@pytest.fixture
def arriving(stage: Stage) -> Iterator[None]:
    """`web` arrives at `there` as with any move: the next tests find nothing of its old address."""
    with stage.world.agent(stage.here, "web") as agent:
        old = agent.status().address
    yield
    with stage.world.agent(stage.there, "web") as agent:
        arrival = agent.arrive(old)
        assert arrival.old == old != arrival.new and agent.retire(old)


@pytest.mark.usefixtures("arriving")
@certifies("Hypervisor.copy", "Hypervisor.watch", "Hypervisor.statistics")
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


@pytest.mark.usefixtures("arriving")
@certifies("Hypervisor.copy", "Hypervisor.statistics")
def test_a_compressed_copy_sends_less_than_half_of_the_memory_that_is_in_use(stage: Stage) -> None:
    """As it is the lab's guest takes over half of its memory's bytes (docs/copy.md)."""
    source, destination = stage.world.hypervisor(stage.here), stage.world.hypervisor(stage.there)
    domain, seen = source.domain("web"), list[CopyProgress]()
    source.copy("web", stage.there, Policy(compression=Compression.ZSTD), seen.append, lambda: False)
    moved, statistics = destination.domain("web"), destination.statistics("web")
    assert domain is not None and moved is not None and moved.running and source.domain("web") is None
    assert statistics is not None and seen
    assert 0 < statistics.bytes_transferred < 0.3 * (domain.memory_mib << 20)


@certifies("Hypervisor.measure", "Hypervisor.dirty_mib_s")
def test_how_fast_a_guest_changes_its_memory_is_measured(stage: Stage) -> None:
    known = stage.world.hypervisor(stage.here)
    rates = [known.dirty_mib_s("web") for _ in range(2) if known.measure("web")]
    assert len(rates) == 2
    assert all(rate is not None and 0 <= rate < 10_000 for rate in rates)
    assert not known.measure("nobody") and known.dirty_mib_s("nobody") is None


@certifies("Hypervisor.copy")
def test_copying_what_is_not_there_is_an_error(stage: Stage) -> None:
    with pytest.raises(CopyError, match="no domain nobody"):
        stage.world.hypervisor(stage.here).copy("nobody", stage.there, Policy(), lambda _p: None, lambda: False)


class GoneError(Exception):
    """The orchestrator, as far as a copy can tell."""


@pytest.mark.usefixtures("arriving")
@certifies("Hypervisor.copy")
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


@certifies("Hypervisor.discard")
def test_what_runs_is_not_discarded_and_what_is_not_there_may_be(stage: Stage) -> None:
    with pytest.raises(HostError, match="web"):
        stage.world.hypervisor(stage.here).discard("web")
    stage.world.hypervisor(stage.there).discard("web")
    domain = stage.world.hypervisor(stage.here).domain("web")
    assert domain is not None and domain.running


@certifies("Hypervisor.copy")
def test_a_copy_that_is_cancelled_beforehand_does_not_begin(stage: Stage) -> None:
    seen: list[CopyProgress] = []
    with pytest.raises(CopyError, match="interrupted before it began"):
        stage.world.hypervisor(stage.here).copy("web", stage.there, Policy(), seen.append, lambda: True)
    assert seen == []


@certifies("Hypervisor.discard", "Hypervisor.domain")
def test_a_paused_domain_is_discarded_once_or_twice(stage: Stage, scratch: str) -> None:
    known = stage.world.hypervisor(stage.here)
    with pytest.raises(HostError, match=scratch):
        known.discard(scratch)
    stage.backstage.set_running(False)
    seen = known.domain(scratch)
    assert seen is not None and (seen.state, seen.running, seen.migrating) == ("paused", False, False)
    known.discard(scratch)
    known.discard(scratch)
    assert known.domain(scratch) is None


@certifies("Hypervisor.discard")
def test_what_runs_is_discarded_where_it_is_known_to_be_fenced(stage: Stage, scratch: str) -> None:
    known = stage.world.hypervisor(stage.here)
    known.discard(scratch, fenced=True)
    assert known.domain(scratch) is None


@certifies("Hypervisor.watch")
def test_a_watch_sees_its_domain_alone_and_no_more_afterwards(stage: Stage, scratch: str) -> None:
    mine: list[str] = []
    others: list[str] = []
    known = stage.world.hypervisor(stage.here)
    with known.watch(scratch, lambda e, _d: mine.append(e)), known.watch("web", lambda e, _d: others.append(e)):
        stage.backstage.set_running(False)
        stage.backstage.set_running(True)
        eventually(lambda: mine == ["suspended", "resumed"], "both events")
    stage.backstage.set_running(False)
    assert known.domain(scratch) is not None
    assert mine == ["suspended", "resumed"] and others == []


@certifies("Hypervisor.pools", "Hypervisor.freeze", "Hypervisor.domain")
def test_a_frozen_disk_has_an_overlay_and_is_frozen_once(stage: Stage, scratch: str) -> None:
    known, disk = stage.world.hypervisor(stage.here), stage.disk
    before = known.domain(scratch)
    assert before is not None
    (own,) = before.disks
    assert (own.target, own.source, own.format, own.backing, own.shared) == ("vda", disk.base, "raw", "", False)
    pool = next(p for p in known.pools() if disk.base.startswith(f"{p.path}/"))
    assert (pool.kind, pool.shared) == ("dir", False) and pool.available_bytes > 0
    known.freeze(scratch, (disk,))
    frozen = known.domain(scratch)
    known.freeze(scratch, (disk,))
    assert frozen is not None and known.domain(scratch) == frozen
    (own,) = frozen.disks
    assert (own.source, own.format, own.backing, own.backing_format) == (disk.overlay, "qcow2", disk.base, "raw")


@certifies("Hypervisor.freeze")
def test_disks_of_nobody_cannot_be_frozen(stage: Stage) -> None:
    with pytest.raises(HostError, match="no domain nobody"):
        stage.world.hypervisor(stage.here).freeze("nobody", (stage.disk,))


@pytest.fixture
def free(stage: Stage) -> Iterator[tuple[str, str]]:
    """Two addresses that DHCP could give; whatever a test reserves of them is gone afterwards."""
    known = stage.world.hypervisor(stage.here)
    before = known.network(stage.here.network)
    assert before is not None and before.dhcp_range is not None
    first, last = (int(ipaddress.IPv4Address(address)) for address in before.dhcp_range)
    taken = {address for address, _ in before.taken}
    free = [a for n in range(last, first - 1, -1) if (a := str(ipaddress.IPv4Address(n))) not in taken]
    addresses = free[0], free[1]
    yield addresses
    now = known.network(stage.here.network)
    assert now is not None
    for entry in now.reserved:
        if entry.address in addresses:
            known.release(stage.here.network, entry)
    assert known.network(stage.here.network) == before


@certifies("Hypervisor.reserve", "Hypervisor.release", "Hypervisor.network")
def test_a_reservation_is_there_at_once_and_goes_by_all_that_it_is(stage: Stage, free: tuple[str, str]) -> None:
    known, network = stage.world.hypervisor(stage.here), stage.here.network
    mine = marks.reservation("contract-1", free[0], mac())
    before = known.network(network)
    known.release(network, mine)
    known.reserve(network, mine)
    known.reserve(network, mine)
    found = known.network(network)
    assert before is not None and found is not None
    assert mine in found.reserved and found.address_of(mac()) == free[0]
    assert before.dhcp_free is not None and found.dhcp_free == before.dhcp_free - 1
    for other in (replace(mine, name=""), replace(mine, name="contract"), replace(mine, mac=OTHER_MAC)):
        known.release(network, other)
        assert known.network(network) == found, "not the one that was meant"
    known.release(network, mine)
    known.release(network, mine)
    assert known.network(network) == before


@certifies("Hypervisor.reserve", "Hypervisor.network")
def test_what_fits_already_is_left_as_it_is(stage: Stage, free: tuple[str, str]) -> None:
    """An operator's entry with a name of its own, and one without."""
    known, network = stage.world.hypervisor(stage.here), stage.here.network
    theirs = (Reservation(free[0], mac(), "contract"), Reservation(free[1], OTHER_MAC))
    for entry in theirs:
        known.reserve(network, entry)
        known.reserve(network, marks.reservation("contract-1", entry.address, entry.mac))
    found = known.network(network)
    assert found is not None and [e for e in found.reserved if e.address in free] == list(theirs)


@certifies("Hypervisor.reserve", "Hypervisor.network")
def test_no_two_reservations_share_address_card_or_name(stage: Stage, free: tuple[str, str]) -> None:
    known, network = stage.world.hypervisor(stage.here), stage.here.network
    mine = marks.reservation("contract-1", free[0], mac())
    known.reserve(network, mine)
    before = known.network(network)
    rivals = (
        marks.reservation("contract-2", free[0], OTHER_MAC),
        marks.reservation("contract-2", free[1], mac()),
        Reservation(free[1], OTHER_MAC, mine.name),
    )
    for rival in rivals:
        with pytest.raises(TakenError, match=f"there is one of {free[0]} for {mac()}"):
            known.reserve(network, rival)
        assert known.network(network) == before
    known.release(network, mine)
    for rival in rivals[:1]:
        known.reserve(network, rival)


@certifies("Hypervisor.network", "Hypervisor.reserve")
def test_a_card_is_the_same_in_capital_letters(stage: Stage, free: tuple[str, str]) -> None:
    """As an operator's virsh writes it: libvirt keeps an entry's MAC as it was written."""
    known, network = stage.world.hypervisor(stage.here), stage.here.network
    stage.backstage.pin(mac().upper(), free[0], "contract")
    pinned = Reservation(free[0], mac(), "contract")
    found = known.network(network)
    assert found is not None and pinned in found.reserved
    known.reserve(network, marks.reservation("contract-1", free[0], mac()))
    assert known.network(network) == found
    with pytest.raises(TakenError, match=free[0]):
        known.reserve(network, marks.reservation("contract-1", free[1], mac()))


@certifies("Hypervisor.reserve")
def test_of_those_who_reserve_one_address_at_once_one_gets_it(stage: Stage, free: tuple[str, str]) -> None:
    """Each by a connection of its own, as orchestrators are."""
    wanted = [marks.reservation(f"contract-{n}", free[0], f"52:54:00:00:01:0{n}") for n in range(4)]
    together = threading.Barrier(len(wanted))

    def reserve(entry: Reservation) -> bool:
        with stage.another() as world:
            known = world.hypervisor(stage.here)
            assert known.network(stage.here.network) is not None  # it is connected
            together.wait(30)
            try:
                known.reserve(stage.here.network, entry)
            except TakenError:
                return False
            return True

    with ThreadPoolExecutor(len(wanted)) as pool:
        got = [*pool.map(reserve, wanted)]
    found = stage.world.hypervisor(stage.here).network(stage.here.network)
    assert sum(got) == 1 and found is not None
    assert [e for e in found.reserved if e.address == free[0]] == [wanted[got.index(True)]]


@certifies("Hypervisor.reserve", "Hypervisor.release")
def test_nothing_is_reserved_on_a_network_that_is_not_there(stage: Stage) -> None:
    known, entry = stage.world.hypervisor(stage.here), Reservation("192.0.2.9", mac())
    text = f"^host {stage.here.name}: DHCP reservation of 192.0.2.9 for {mac()}: no network 'nowhere'"
    with pytest.raises(HostError, match=text):
        known.reserve("nowhere", entry)
    known.release("nowhere", entry)
