"""How long `check` takes where each question to a host takes 50 ms, as between continents: by the calls that the
drivers make, counted, and a clock that passes by them alone. What hosts themselves take for an answer is not in it, but
for what is known to be long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import pytest

from tests.unit.faults import Call, Faults, Wrapped
from tests.unit.spoken_libvirt import Libvirt
from tests.unit.town import PATIENCE_S
from vmacro.drivers.fake import FakeWorld, host
from vmacro.drivers.fake.world import TWO_SITES
from vmacro.drivers.libvirt import dirtying
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.hypervisors import hypervisor
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.drivers.system import side_by_side
from vmacro.model.definitions import FILTER, Definition, Need
from vmacro.model.moves import Finding
from vmacro.model.nouns import Host
from vmacro.planning import checks
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import World, one_by_one
from vmacro.services import measured

Result = TypeVar("Result")
ROUND_TRIP_S = 0.05
# Of three seconds for all of a check: the start of its process has been taken away, and what hosts take themselves.
MOST_S = 2.4
# Round trips before the first question: TCP twice (_knock), TLS and libvirtd's word that it believes our certificate,
# then remoteAuthenticate, two features, the opening itself and the callback at its end (doRemoteOpen).
LIBVIRT = 2 + 2 + 1 + 5
# TCP, versions, key exchange, service, two tries to log in, channel, program (RFC 4253, 4252, 4254); and until that
# answers: a Python with libvirt and netlink.
SSH, HOST_SIDE_S = 8, 0.7
LOCAL = {"name", "UUIDString"}  # of objects that libvirt's client has already
TWICE = {"getMemoryStats"}  # first for how many there are
PROBING_S = 0.3  # until nobody has answered for an address at its bridge (neighbours.user_of)
CHANNEL = 3  # an agent's: look the domain up, open, abort
NAME = 2  # TCP, then the question


class Counted:
    """Anything of libvirt's: counts what is asked of it and of what it returns."""

    def __init__(self, of: Any, calls: list[str]) -> None:
        self._of, self._calls = of, calls

    def __getattr__(self, verb: str) -> Any:
        found = getattr(self._of, verb)

        def asked(*args: Any) -> Any:
            self._calls.extend([verb] * (verb not in LOCAL) * (1 + (verb in TWICE)))
            return self._wrapped(found(*args))

        return asked

    def _wrapped(self, said: Any) -> Any:
        if isinstance(said, list):
            return [self._wrapped(each) for each in said]
        return Counted(said, self._calls) if hasattr(said, "XMLDesc") or hasattr(said, "name") else said


class CountedConnections:
    """Connections to a host of the world in memory, whose certificate is looked at meanwhile."""

    def __init__(self, fake: FakeWorld, name: str, calls: list[str]) -> None:
        plain = fake.world.hypervisor(next(h for h in fake.inventory.hosts if h.name == name))
        self._connection = Counted(Libvirt(plain, lambda _call, given: given), calls)

    def get(self, _host: Host) -> Counted:
        return self._connection

    def certificate_days_left(self, _host: Host) -> float:
        return 90.0


def round_trips(verb: str, *args: Any, at: str = "bucharest") -> int:
    """Of one call of the real driver."""
    calls: list[str] = []
    known = QemuHypervisor(host(at), cast(Connections, CountedConnections(FakeWorld(), at, calls)))
    getattr(known, verb)(*args)
    assert calls, verb
    return len(calls)


def of_choosing_a_driver() -> int:
    calls: list[str] = []
    hypervisor(host("bucharest"), cast(Connections, CountedConnections(FakeWorld(), "bucharest", calls)))
    return len(calls)


# As people have them: with KVM and a processor, and a network filter.
FILTERED = Need(FILTER, "clean-traffic", "card", live=True)
KVM = Definition("/usr/bin/kvm", "x86_64", "q35", "kvm", "<cpu mode='host-model'/>", needs=(FILTERED,))
ARGS: dict[str, tuple[Any, ...]] = {"network": ("front",), "fit": ("web", "uuid-1", KVM)}
ARGS |= dict.fromkeys(("domain", "definition", "measure", "dirty_mib_s"), ("web",))
SURVEYED = ("facts", "domain", "definition", "fit", "network", "networks", "pools", "measure", "dirty_mib_s")


class Distant(Faults):
    """A world whose parties are far away. Each connection to a libvirt, and each host side, answers one question at a
    time."""

    def __init__(self, fake: FakeWorld) -> None:
        super().__init__()
        self._fake, self._clock = fake, fake.clock
        self._costs = {verb: round_trips(verb, *ARGS.get(verb, ())) for verb in SURVEYED}
        self._measured_s = 0.0
        self._ready_s: dict[str, float] = {}  # when a party can be asked

    def around(self, call: Call, act: Callable[[], Result]) -> Result:
        self.calls.append(call)
        party = call.subject.removeprefix("agent@")  # by libvirt's connection
        self._wait_until(self._ready_s.get(party) or self._opened(party))
        said = act()
        self._clock.sleep(ROUND_TRIP_S * self._cost(call) + (PROBING_S if call.verb == "facts" and "@" in party else 0))
        self._ready_s[party] = self._clock.now_s
        if call.verb == "measure":
            self._measured_s = self._clock.now_s + dirtying.PERIOD_S
        if call.verb == "dirty_mib_s":
            self._wait_until(self._measured_s)
        return said

    def world(self, fake: FakeWorld) -> World:
        plain = super().world(fake)

        def host_network(wanted: Host) -> Any:
            """By SSH, which is opened as soon as anybody wants it."""
            party = f"side@{wanted.name}"
            self._ready_s.setdefault(party, self._opened(party))
            return plain.host_network(wanted)

        def beside(wanted: Host) -> Any:
            """By a connection of its own, which is not another's to wait for."""
            return Wrapped(fake.world.hypervisor(wanted), f"{wanted.name}, beside", self)

        return replace(plain, host_network=host_network, side_by_side=self._at_once, beside=beside)

    def _opened(self, party: str) -> float:
        if party == "names":
            return self._clock.now_s
        trips = SSH if "@" in party else LIBVIRT + of_choosing_a_driver()
        return self._clock.now_s + trips * ROUND_TRIP_S + (HOST_SIDE_S if "@" in party else 0)

    def _cost(self, call: Call) -> int:
        if call.subject == "names":
            return NAME
        if "@" in call.subject:
            return CHANNEL if call.verb == "open agent" else 1
        return self._costs[call.verb]

    def _wait_until(self, then_s: float) -> None:
        self._clock.sleep(max(0.0, then_s - self._clock.now_s))

    def _at_once(self, questions: Sequence[Callable[[], Result]], within_s: float) -> list[Result | None]:
        """One by one, each from the same moment on; nobody waits where nothing is waited for."""
        began_s, ends, said = self._clock.now_s, [self._clock.now_s], []
        for ask in questions:
            self._clock.sleep(began_s - self._clock.now_s)
            said.append(ask())
            ends.append(self._clock.now_s)
        self._clock.sleep((max(ends) if within_s else began_s) - self._clock.now_s)
        return cast("list[Result | None]", said)


TOWNS = {"bucharest": ("bucharest",), "berlin": ("b1", "b2", "b3"), "tokyo": ("tokyo",)}


def far_away(sites: Mapping[str, tuple[str, ...]] = TWO_SITES) -> FakeWorld:
    fake = FakeWorld(sites)
    reached = (
        replace(site, hosts=tuple(replace(h, ssh=f"root@{h.address}") for h in site.hosts))
        for site in fake.inventory.sites
    )
    fake.inventory = replace(fake.inventory, sites=tuple(reached))
    return fake


def look(fake: FakeWorld, world: World) -> tuple[float, list[Finding]]:
    """How long it takes to look, and what is found."""
    began_s = fake.clock.now_s
    wanted = Request(fake.inventory.guests[0], fake.inventory.sites[1], SEAMLESS, fake.inventory.policy)
    seen = measured.look(fake.inventory, wanted, world, ask_clients=True)
    return fake.clock.now_s - began_s, checks.check(wanted, seen)


@pytest.mark.parametrize("disk", [False, True], ids=["", "with a disk"])
@pytest.mark.parametrize("named", [False, True], ids=["", "with a name"])
def test_a_check_takes_less_than_three_seconds_far_away(disk: bool, named: bool) -> None:
    fake = far_away()
    if disk:
        fake.give_disk()
    if named:
        fake.zone.put("www.example.net", fake.guest.address)
        guests = tuple(replace(guest, names=("www.example.net",)) for guest in fake.inventory.guests)
        fake.inventory = replace(fake.inventory, guests=guests)
    distant = Distant(fake)
    took_s, found = look(fake, distant.world(fake))
    assert checks.blockers(found) == []
    assert {"facts", "definition", "fit", "files", "status", "connections", "reach", "flows"} <= {
        c.verb for c in distant.calls
    }
    assert took_s < MOST_S, took_s


def test_hosts_are_asked_side_by_side_and_more_of_them_take_no_longer() -> None:
    fake, many = far_away(), far_away(TOWNS)
    took_s, _ = look(fake, Distant(fake).world(fake))
    assert look(many, Distant(many).world(many))[0] == pytest.approx(took_s, abs=0.01)
    one_after_the_other = replace(Distant(many).world(many), side_by_side=one_by_one)
    assert look(many, one_after_the_other)[0] > 2 * took_s, "the clock does pass"


def test_what_libvirt_is_asked_for_is_known() -> None:
    """Who makes one of them more has a reason. Of facts libvirt's client knows one already."""
    found = {verb: round_trips(verb, *ARGS.get(verb, ())) for verb in SURVEYED}
    assert found == {
        "facts": 7,
        "domain": 5,
        "definition": 8,
        "fit": 5,
        "network": 6,
        "networks": 1,
        "pools": 2,
        "measure": 2,
        "dirty_mib_s": 2,
    }
    assert of_choosing_a_driver() == 1


class Line:
    """A connection of which it is noted where a thread uses it while another one does."""

    def __init__(self, of: Any, shared: list[str], met: threading.Barrier) -> None:
        self._of, self._shared, self._met, self._used = of, shared, met, threading.Lock()

    def __getattr__(self, verb: str) -> Any:
        def called(*args: Any) -> Any:
            if not self._used.acquire(blocking=False):
                self._shared.append(verb)
                self._met.abort()
                self._used.acquire()
            try:
                if verb in ("measure", "definition"):  # which are asked at the same time
                    self._met.wait(PATIENCE_S)
                return getattr(self._of, verb)(*args)
            finally:
                self._used.release()

        return called


def test_no_two_threads_share_a_connection() -> None:
    """libvirt's client would lose wake-ups, and a check take until the next keep-alive."""
    fake, shared, met = far_away(), list[str](), threading.Barrier(2)
    lines = {
        (host.name, beside): Line(fake.world.hypervisor(host), shared, met)
        for host in fake.inventory.hosts
        for beside in (False, True)
    }
    world = replace(
        fake.world,
        hypervisor=lambda host: cast(Any, lines[host.name, False]),
        beside=lambda host: cast(Any, lines[host.name, True]),
        side_by_side=side_by_side,
    )
    _, found = look(fake, world)
    assert shared == [] and checks.blockers(found) == []
