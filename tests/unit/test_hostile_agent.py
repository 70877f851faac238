"""A guest whose agent lies: every answer, every address, from every phase on, through a move and a carriage.

At no moment does any host have a leg or a reservation of an address that is not the guest's. Whatever the agent says or
does not say, the guest runs once in the end, and hosts have nothing left of the move once its deadlines have passed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.unit.faults import Faults, Logbook
from tests.unit.test_migrate import Straight
from tests.unit.test_seamless import wanted
from vmacro.drivers.fake import FakeWorld, connection
from vmacro.errors import AgentError, PlanRejectedError
from vmacro.model.events import Event, PhaseBegan
from vmacro.model.facts import NO_PAST, AgentFacts, Arrival, Claim, Connection, HomedAddress, Past, Subflow
from vmacro.model.marks import placeholder_mac
from vmacro.model.moves import Carriage, Ending, Outcome, Plan
from vmacro.model.nouns import Host
from vmacro.planning.addresses import own_addresses6
from vmacro.ports import World
from vmacro.services import carry, measured

SITES = {name: (name,) for name in ("bucharest", "berlin", "oslo")}
NEIGHBOUR = "10.50.1.98"
HOME, HOME6 = "10.50.1.97", "fd50:1::5054:ff:fe00:1"
NEIGHBOUR_THERE = ("52:54:00:00:00:77", "10.50.2.10")  # leased, and the first that DHCP would give
ADDRESSES = {
    "a neighbour's": NEIGHBOUR,
    "a neighbour's there": "10.50.2.10",
    "a free one there": "10.50.2.11",
    "a free one at home": "10.50.1.150",
    "the gateway's": "10.50.1.1",
    "the gateway's there": "10.50.2.1",
    "the network's": "10.50.1.0",
    "the broadcast address": "10.50.1.255",
    "somebody's in the Internet": "8.8.8.8",
    "a host's": "10.9.0.2",
    "the orchestrator's": "10.9.0.99",
    "multicast": "224.0.0.5",
    "loopback": "127.0.0.1",
    "link-local": "169.254.118.1",
    "unspecified": "0.0.0.0",
    "limited broadcast": "255.255.255.255",
    "a neighbour's IPv6": "fd50:1::5054:ff:fe00:2",
    "a neighbour's IPv6 there": "fd50:2::5054:ff:fe00:2",
    "its own IPv6 there": "fd50:2::5054:ff:fe00:1",
    "the gateway's IPv6": "fd50:1::1",
    "the subnet's anycast": "fd50:1::",
    "somebody's IPv6": "2001:4860:4860::8888",
    "IPv4 in IPv6": "::ffff:a32:162",
    "IPv6 multicast": "ff02::1",
    "IPv6 loopback": "::1",
    "IPv6 link-local": "fe80::76",
    "IPv6 unspecified": "::",
}
SUBNET = tuple(str(a) for a in ipaddress.ip_network("10.50.1.0/24"))
SINCE = ("check", "survey", "prepare", "copy", "arrive", "settle", "verify", "clean", "carry")
Answer = Callable[[], Any]


def status(**change: Any) -> Callable[[AgentFacts], AgentFacts]:
    return lambda honest: replace(honest, **change)


def also(*addresses: str) -> Callable[[AgentFacts], AgentFacts]:
    return lambda honest: replace(honest, extra_addresses=(*honest.extra_addresses, *addresses)[:256])


def arrival(**change: Any) -> Callable[[Arrival], Arrival]:
    return lambda honest: replace(honest, **change)


def on(address: str) -> Callable[[object], tuple[Connection, ...]]:
    """Connections of nobody else."""
    return lambda _honest: (Connection(7, (Subflow(address, 80, "10.9.0.14", 4000, False, False, True),)),)


def refused(_honest: object) -> Any:
    raise AgentError("guest web: agent refused", code="in-use")


# By verb; those of ADDRESSED are made of each hostile address.
ADDRESSED: dict[str, tuple[str, Callable[[str], Callable[[Any], Any]]]] = {
    "its address is": ("status", lambda a: status(address=a)),
    "its IPv6 address is": ("status", lambda a: status(address6=a)),
    "it also has": ("status", also),
    "it has nothing but": ("status", lambda a: status(address=a, address6=a, extra_addresses=(a,))),
    "it has arrived at": ("arrive", lambda a: arrival(new=a)),
    "it has arrived by IPv6 at": ("arrive", lambda a: arrival(new6=a)),
    "it was at": ("arrive", lambda a: arrival(old=a, old6=a)),
    "its clients are at": ("connections", on),
}
OTHERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "it also has the whole subnet": ("status", also(*SUBNET)),
    "it has no address": ("status", status(address="", address6="", extra_addresses=())),
    "it has given up all old addresses": ("status", status(extra_addresses=())),
    "it was booted again": ("status", status(boot_id="another")),
    "another move has it": ("status", status(claim=Claim("db-1", "them@there", 1.0))),
    "its card is another": ("status", status(mac="52:54:00:00:00:02")),
    "nobody is connected": ("connections", lambda _honest: ()),
    "everything is still in use": ("retire", lambda _honest: False),
    "nothing is in use": ("retire", lambda _honest: True),
    "it retires nothing": ("retire", refused),
    "it is claimed": ("claim", refused),
    "it keeps its claim": ("release", refused),
    "it prepares nothing": ("prepare", refused),
    "it has not arrived": ("arrive", refused),
    "it has arrived nowhere else": ("arrive", arrival(new=HOME)),
    "it says nothing": ("", refused),
}


@dataclass
class Lie:
    """What an agent says instead of the truth, to one verb or ('') to all, from a phase on."""

    verb: str
    tell: Callable[[Any], Any]
    since: str
    begun: bool = False

    def happened(self, event: Event) -> None:
        if isinstance(event.what, PhaseBegan):
            self.begins(event.what.phase.value)

    def begins(self, phase: str) -> None:
        self.begun |= phase == self.since


class Liar:
    """Implements ports.Agent."""

    def __init__(self, agent: Any, lie: Lie) -> None:
        self._agent, self._lie = agent, lie

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        method = getattr(self._agent, verb)

        def said(*args: Any, **kwargs: Any) -> Any:
            lies = self._lie.begun and self._lie.verb in ("", verb)
            honest = None if lies and self._lie.tell is refused else method(*args, **kwargs)
            return self._lie.tell(honest) if lies else honest

        return said


class Stage:
    """Three sites; `web` has one client that follows and one that must be carried, of each family."""

    def __init__(self, lie: Lie) -> None:
        fake = self.fake = FakeWorld(SITES, ("web", "db"))
        for number, host in enumerate(fake.hosts.values(), 1):
            host.networks["front"] = replace(host.networks["front"], subnet6=f"fd50:{number}::/64")
        web = fake.guest
        web.address6 = HOME6
        carried = [connection(0xB4, HOME, willing=False), connection(0xB6, HOME6, willing=False)]
        web.connections += [connection(0xA6, HOME6, willing=True), *carried]
        mac, taken = NEIGHBOUR_THERE
        fake.hosts["berlin"].leases[mac] = taken
        fake.hosts["bucharest"].leases[fake.guests["db"].mac] = NEIGHBOUR
        fake.inventory = replace(fake.inventory, policy=replace(fake.inventory.policy, carry_deadline_s=3.0))
        self.lie, self.past, self.moves = lie, NO_PAST, 0
        self.carriages: list[Carriage] = []
        self._fair = self._may_have()
        fake.before = lambda _effect: self.is_fair()

    @property
    def world(self) -> World:
        plain = self.fake.world

        def agent(at: Host, name: str) -> AbstractContextManager[Any]:
            @contextmanager
            def opened() -> Iterator[Any]:
                with plain.agent(at, name) as honest:
                    yield Liar(honest, self.lie)

            return opened()

        def publish(event: Event) -> None:
            self.lie.happened(event)
            plain.publish(event)

        return replace(plain, agent=agent, publish=publish)

    def move(self, to: str, lies: bool = True) -> None:
        """With `resume`, as often as it helps, or with `abort` where somebody has interrupted it."""
        self.moves += 1
        if lies:
            self.lie.begins("check")
        asked = wanted(self.fake, to)
        try:
            seen = measured.look(self.fake.inventory, asked, self.world, ask_clients=True, past=self.past)
            plan = measured.planned(f"web-{self.moves}", self.fake.inventory, asked, seen)
        except PlanRejectedError:
            return
        book = Logbook()
        for _ in range(3):
            outcome = book.attempt(plan, self.world, Faults())
            self.carriages += carry.carriages(plan, outcome, self.fake.now_s)
            if not outcome.remains:
                break
        self.happened(plan, outcome)

    def happened(self, plan: Plan, outcome: Outcome) -> None:
        assert outcome.ending != Ending.UNCERTAIN
        at = plan.source if outcome.ending == Ending.ROLLED_BACK else plan.destination
        assert self.fake.running_at() == [at.name]
        carried = tuple(HomedAddress(c.address, c.home) for c in self.carriages)
        self.past = Past((*self.past.legs, *plan.new_legs, *plan.old_legs), carried)

    def carry(self) -> None:
        self.lie.begins("carry")
        for carriage in self.carriages:
            carry.run_carriage(carriage, self.world, Straight())

    def is_fair(self) -> None:
        """Now, and about everything that hosts have."""
        mac = self.fake.guest.mac
        for name, host in self.fake.hosts.items():
            for end in host.legs.values():
                assert (end.domain, end.mac) == ("web", mac) and end.address in self._fair, (name, end)
            for entry in host.networks["front"].reserved:
                assert entry.address in self._fair and entry.mac in (mac, placeholder_mac(entry.address)), (name, entry)

    def _may_have(self) -> set[str]:
        """The guest's own addresses, and what the sites' DHCP has for anybody."""
        networks = [host.networks["front"] for host in self.fake.hosts.values()]
        free = {f"10.50.{site}.{n}" for site in (1, 2, 3) for n in range(10, 110)} - {NEIGHBOUR_THERE[1], NEIGHBOUR}
        return free | {a for network in networks for a in own_addresses6(network, self.fake.guest.mac)}

    def nothing_is_left(self) -> None:
        assert len(self.fake.running_at()) == 1
        mac = self.fake.guest.mac
        for name, host in self.fake.hosts.items():
            assert not host.legs, (name, host.legs)
            assert [r for r in host.networks["front"].reserved if r.mac != mac] == [], name


def lies(names: list[str]) -> Iterator[Any]:
    for said, (verb, of) in ADDRESSED.items():
        for name in names:
            yield pytest.param(verb, of(ADDRESSES[name]), id=f"{said} {name}")


def told(verb: str, tell: Callable[[Any], Any], since: str, abort: bool = False, first: str = "") -> None:
    """A move to berlin; after a first and honest one, from there to oslo."""
    stage = Stage(Lie(verb, tell, since))
    if first:
        honest, stage.lie = stage.lie, Lie("", lambda answer: answer, "never")
        stage.move(first)
        assert {c.address for c in stage.carriages} == {HOME, HOME6}
        stage.lie = honest
    stage.fake.interrupted = abort
    stage.move("oslo" if first else "berlin")
    stage.is_fair()
    stage.fake.interrupted = False
    stage.carry()
    stage.is_fair()
    stage.nothing_is_left()


@pytest.mark.parametrize(("verb", "tell"), [*lies(list(ADDRESSES))])
def test_no_address_becomes_the_guests_because_it_says_so(verb: str, tell: Callable[[Any], Any]) -> None:
    told(verb, tell, "check")


@pytest.mark.parametrize("since", SINCE)
@pytest.mark.parametrize(("verb", "tell"), OTHERS.values(), ids=OTHERS)
def test_hosts_are_clean_in_the_end_whatever_the_guest_answers(
    verb: str, tell: Callable[[Any], Any], since: str
) -> None:
    told(verb, tell, since)
    told(verb, tell, since, first="berlin")


@pytest.mark.slow("the same lies from later on, aborted, and in a second move")
@pytest.mark.parametrize("since", SINCE)
@pytest.mark.parametrize(("verb", "tell"), [*lies(list(ADDRESSES)), *OTHERS.values()])
def test_all_lies_from_every_phase_on(verb: str, tell: Callable[[Any], Any], since: str) -> None:
    told(verb, tell, since)
    told(verb, tell, since, abort=True)
    told(verb, tell, since, first="berlin")
