"""Whether a guest that has arrived is reached: what is asked, what is judged, and what a move says then."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.faults import Faults
from tests.unit.test_enumeration import Stage, stage
from vmacro.drivers.fake import Effect, FakeWorld
from vmacro.drivers.fake.agent import FakeAgent
from vmacro.drivers.fake.host_network import FakeHostNetwork
from vmacro.errors import HostError, UnknownVerbError
from vmacro.host import neighbours6, reach
from vmacro.host.flows import ECHO_ID
from vmacro.model.events import PhaseBegan, PhaseEnded
from vmacro.model.facts import Heard, Reach
from vmacro.model.filters import LIVE, STORED, Filter
from vmacro.model.moves import Ending, Outcome, Phase, Verdict
from vmacro.planning import reaching
from vmacro.planning.handoffs import HANDOFFS, RENUMBER, SEAMLESS
from vmacro.ports import World
from vmacro.services import carry, paths
from vmacro.wire import fields
from vmacro.wire.host_verbs import HeardOf

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
NEW, OLD = "10.50.2.10", "10.50.1.97"


def moved(found: Stage) -> Outcome:
    outcome = found.attempt(Faults())
    assert outcome is not None
    return outcome


def notes(found: Stage) -> list[str]:
    return [e.text for e in found.fake.events if "it is not known" in e.text]


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_a_guest_that_answers_has_moved_and_nothing_is_told(handoff: str) -> None:
    found = stage(handoff)
    assert moved(found).ending == Ending.MOVED and notes(found) == []
    kinds = (PhaseBegan, PhaseEnded)
    for phase in (Phase.ARRIVE, Phase.SETTLE):
        began, ended = (e.wall_ns for e in found.fake.events if isinstance(e.what, kinds) and e.what.phase == phase)
        assert began == ended, "nobody has waited"


def test_a_guest_whose_new_address_is_dropped_keeps_the_old_one_and_is_finished_later() -> None:
    found = stage(SEAMLESS)
    found.fake.dropped.add(NEW)
    outcome = moved(found)
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.INCOMPLETE, 5, True)
    assert outcome.reason == f"guest web: is not reached at berlin: nobody at front0 answers for {NEW} (ARP)"
    resume = f"then vmacro resume {found.plan.move_id}"
    assert outcome.hint == (
        f"is its card held to another address (virsh dumpxml: <filterref>)? {resume}; "
        "if it is reached all the same: guests.web.taken_as_reached"
    )
    assert outcome.carried == (OLD,) and OLD in found.fake.guest.kept
    assert {e.address for h in found.fake.hosts.values() for e in h.legs.values()} == {OLD}
    again = found.attempt(Faults())
    assert again is not None and again.ending == Ending.INCOMPLETE and again.carried == (OLD,), "nothing was mended"
    found.fake.dropped.clear()
    outcome = found.finish()
    assert outcome.ending == Ending.MOVED
    assert {c.verdict for c in outcome.connections} == {Verdict.FOLLOWED, Verdict.CARRIED}


@pytest.mark.parametrize(("taken", "code"), [((NEW,), 0), ((OLD,), 5), ((NEW, OLD), 0)])
def test_an_address_of_which_its_operator_knows_better_ends_no_move(taken: tuple[str, ...], code: int) -> None:
    """A guest that answers no ARP, or by another card. The inventory says so, before `resume`, too: the guest of the
    plan is always as it has it there (planning/resuming.py)."""
    found = stage(SEAMLESS)
    found.fake.dropped.add(NEW)
    assert moved(found).exit_code == 5
    found.plan = replace(found.plan, guest=replace(found.plan.guest, taken_as_reached=taken))
    outcome = found.attempt(Faults())
    assert outcome is not None and outcome.exit_code == code
    told = [e.text for e in found.fake.events if "taken as reached" in e.text]
    why = f"nobody at front0 answers for {NEW} (ARP)"
    assert told == ([f"{why}: taken as reached, as guests.web.taken_as_reached says"] if code == 0 else [])


def test_a_guest_whose_old_address_is_dropped_is_no_success_either() -> None:
    found = stage(SEAMLESS)
    found.fake.dropped.add(OLD)
    outcome = moved(found)
    assert outcome.exit_code == 5 and OLD in outcome.reason and NEW not in outcome.reason


def test_no_carriage_takes_the_only_address_that_clients_reach() -> None:
    """All of them have joined the new one, by its leg, before the copy: to the guest they need no other."""
    found = stage(SEAMLESS)
    fake, fake.guest.connections = found.fake, found.fake.guest.connections[:1]
    fake.dropped.add(NEW)
    (carriage,) = carry.carriages(found.plan, moved(found), fake.now_s)
    assert carry._watch(carriage, fake.world) == carry.Need.NEEDED and OLD in fake.guest.kept
    fake.dropped.clear()
    assert found.finish().ending == Ending.MOVED
    assert carry._watch(carriage, fake.world) == carry.Need.UNNEEDED, "the move itself has withdrawn it"


def test_the_agent_is_told_to_wait_where_its_guest_is_not_reached() -> None:
    """Else it withdraws old addresses by itself, as where nobody settles its arrival (guest_agent/arrival.py)."""
    found, asked = stage(SEAMLESS), []
    found.fake.dropped.add(NEW)
    found.fake.before = lambda effect: asked.append(str(effect))
    assert moved(found).exit_code == 5
    arrived = max(n for n, effect in enumerate(asked) if effect == "agent.arrive")
    assert "agent.claim" in asked[arrived:]


def test_an_old_address_that_a_carriage_has_closed_meanwhile_is_asked_for_no_more() -> None:
    found = stage(SEAMLESS)
    found.fake.dropped |= {NEW, OLD}
    assert moved(found).exit_code == 5
    found.fake.guest.kept.remove(OLD)
    found.fake.dropped.remove(NEW)
    assert NEW in found.fake.guest.present and moved(found).ending != Ending.INCOMPLETE


GIVEN = "10.50.2.97"  # what DHCP gives the guest there, where none is reserved


@pytest.mark.parametrize(
    ("handoff", "allowed", "why"),
    [
        (SEAMLESS, (), f"holds it to one address, which libvirt learns, and it has {NEW}, {OLD}"),
        (SEAMLESS, (OLD,), f"holds it to {OLD}: what it sends from {NEW} is dropped"),
        (RENUMBER, (), f"holds it to one address, which libvirt learns, and it has {GIVEN}"),
    ],
)
def test_a_filter_that_drops_is_believed_whatever_answers_before_it_closes(
    handoff: str, allowed: tuple[str, ...], why: str
) -> None:
    """Put up once the move was checked. One that learns lets all pass meanwhile."""
    found = stage(handoff)
    fake = found.fake
    fake.filters["web"] = (Filter(MAC, "clean-traffic", LIVE, (4,), allowed),)
    outcome = moved(found)
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.INCOMPLETE, 5, True)
    text = f"is not let send from all its addresses at berlin: the filter 'clean-traffic' of its card {MAC}"
    assert outcome.reason == f"guest web: {text} {why}"
    assert "<filterref>" in outcome.hint and f"vmacro resume {found.plan.move_id}" in outcome.hint
    assert outcome.carried == ((OLD,) if handoff == SEAMLESS else ())
    assert OLD in fake.guest.kept and fake.running_at() == ["berlin"]
    fake.filters["web"] = (Filter(MAC, "clean-traffic", LIVE, (4,), (OLD, NEW, GIVEN)),)
    assert found.finish().ending == Ending.MOVED


@pytest.mark.parametrize(
    "held",
    [
        Filter(OTHER, "clean-traffic", LIVE, (4,)),
        Filter(MAC, "clean-traffic", STORED, (4,)),
        Filter(MAC, "no-ipv6-spoofing", LIVE, (6,)),
        Filter(MAC, "no-mac-spoofing", LIVE),
    ],
)
def test_a_filter_of_something_else_ends_no_move(held: Filter) -> None:
    found = stage(SEAMLESS)
    found.fake.filters["web"] = (held,)
    assert moved(found).ending == Ending.MOVED and notes(found) == []


def test_a_filter_that_nobody_knows_is_told_of() -> None:
    found = stage(SEAMLESS)
    found.fake.filters["web"] = (Filter(MAC, "ours", LIVE, known=False),)
    assert moved(found).ending == Ending.MOVED
    assert notes(found) == [f"it is not known what the filter 'ours' of its card {MAC} lets pass"]


def test_a_destination_that_does_not_tell_its_filters_ends_no_move() -> None:
    found = stage(SEAMLESS)

    def before(effect: Effect) -> None:
        if effect == "filters berlin":
            raise HostError("host berlin: injected")

    found.fake.before = before
    assert moved(found).ending == Ending.MOVED
    assert notes(found) == ["it is not known which filters hold its card: host berlin: injected"]


@pytest.mark.parametrize(("taken", "code"), [((NEW,), 5), ((NEW, OLD), 0)])
def test_a_filter_is_not_believed_of_an_address_of_which_its_operator_knows_better(
    taken: tuple[str, ...], code: int
) -> None:
    found = stage(SEAMLESS)
    found.fake.filters["web"] = (Filter(MAC, "clean-traffic", LIVE, (4,)),)
    found.plan = replace(found.plan, guest=replace(found.plan.guest, taken_as_reached=taken))
    assert moved(found).exit_code == code
    told = [e.text for e in found.fake.events if "taken as reached" in e.text]
    assert len(told) == (code == 0), told


def closes(fake: FakeWorld) -> None:
    fake.dropped.add(NEW)


def gets_a_filter(fake: FakeWorld) -> None:
    fake.filters["web"] = (Filter(MAC, "clean-traffic", LIVE, (4,), (OLD,)),)


@pytest.mark.parametrize(("happens", "why"), [(closes, "nobody at front0 answers"), (gets_a_filter, "'clean-traffic'")])
def test_what_closes_while_clients_are_waited_for_has_nothing_withdrawn(
    happens: Callable[[FakeWorld], None], why: str
) -> None:
    """The new address answered as the guest arrived. All clients have joined it: to the guest they need no other."""
    found = stage(SEAMLESS)
    fake, asked = found.fake, []
    fake.guest.connections = fake.guest.connections[:1]

    def before(effect: Effect) -> None:
        asked.append(str(effect))
        if effect == "agent.count" and fake.running_at() == ["berlin"]:
            happens(fake)

    fake.before = before
    outcome = moved(found)
    assert outcome.exit_code == 5 and NEW in outcome.reason and why in outcome.reason, outcome
    assert "agent.retire" not in asked and OLD in fake.guest.kept and outcome.carried == (OLD,)
    (carriage,) = carry.carriages(found.plan, outcome, fake.now_s)
    assert carry._watch(carriage, fake.world) == carry.Need.NEEDED and OLD in fake.guest.kept
    fake.before = lambda _effect: None
    fake.dropped.clear()
    fake.filters.clear()
    assert found.finish().ending == Ending.MOVED and OLD not in fake.guest.kept


def test_renumber_withdraws_first_since_nothing_comes_by_the_old_address() -> None:
    """Clients send again what was under way to it only once it is withdrawn: nobody who looks has them wait."""
    found, asked = stage(RENUMBER), []
    fake = found.fake

    def before(effect: Effect) -> None:
        asked.append(str(effect))
        if effect == "agent.retire":
            fake.dropped.add(GIVEN)

    fake.before = before
    outcome = moved(found)
    assert outcome.exit_code == 5 and f"nobody at front0 answers for {GIVEN}" in outcome.reason
    last = len(asked) - asked[::-1].index("link.reach berlin")
    assert asked.index("agent.retire") < last and OLD not in fake.guest.kept
    fake.before = lambda _effect: None
    fake.dropped.clear()
    assert found.finish().ending == Ending.MOVED


def hears_late(monkeypatch: pytest.MonkeyPatch, late_s: dict[bool, float]) -> list[tuple[str, float]]:
    """A host hears nobody until so many seconds after its first question: at the guest's bridge (True), from elsewhere.
    Returns by which name it was asked, and when."""
    asked: list[tuple[str, float]] = []
    began: dict[bool, float] = {}
    hear = FakeHostNetwork.reach

    def late(side: FakeHostNetwork, wanted: Reach) -> tuple[Heard, ...]:
        at_bridge, now_s = wanted.bridge != "", side._world.now_s
        asked.append((wanted.name, now_s))
        if now_s - began.setdefault(at_bridge, now_s) >= late_s[at_bridge]:
            return hear(side, wanted)
        return tuple(Heard(address, (), 0, 64) for address in wanted.addresses)

    monkeypatch.setattr(FakeHostNetwork, "reach", late)
    return asked


def test_a_guest_whose_card_and_packets_are_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found, effects = stage(SEAMLESS), []
    found.fake.before = lambda effect: effects.append(str(effect))
    asked = hears_late(monkeypatch, {True: 4.8, False: 1.4})
    assert moved(found).ending == Ending.MOVED and notes(found) == []
    first = [(name, asked_s) for name, asked_s in asked if name == found.plan.move_id]
    assert 4.8 <= first[-1][1] - first[0][1] < 5
    second = {name for name, _ in asked[len(first) :]}
    assert second == {f"{found.plan.move_id}.again"}, "what was heard is no proof now"
    assert effects.count("filters berlin") == 2, "once with each name"


def test_a_card_that_is_never_heard_is_waited_for_no_longer_than_it_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stage(SEAMLESS)
    asked = hears_late(monkeypatch, {True: 99, False: 0})
    outcome = moved(found)
    assert outcome.ending == Ending.INCOMPLETE
    assert f"answers for {NEW} (ARP); nobody at front0 answers for {OLD} (ARP)" in outcome.reason
    assert 5 <= asked[-1][1] - asked[0][1] < 5.2


def test_packets_that_never_come_back_are_waited_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stage(SEAMLESS)
    asked = hears_late(monkeypatch, {True: 0, False: 99})
    assert moved(found).ending == Ending.MOVED and len(notes(found)) == 1
    assert {e.move_id for e in found.fake.events if "not known whether" in e.text} == {found.plan.move_id}
    assert 1.5 <= asked[-1][1] - asked[0][1] < 1.7


def test_somebody_else_who_answers_is_named() -> None:
    found = stage(SEAMLESS)
    found.fake.hosts["berlin"].used[NEW] = OTHER
    outcome = moved(found)
    assert outcome.exit_code == 5 and f"{OTHER} at front0 answers for {NEW}, and its card does not" in outcome.reason


def asked_though(lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """For what addresses hosts ask from now on, of a guest whose agent says this of its arrival."""
    asked: set[str] = set()
    arrive, ask = FakeAgent.arrive, FakeHostNetwork.reach

    def asking(side: FakeHostNetwork, wanted: Reach) -> tuple[Heard, ...]:
        asked.update(wanted.addresses)
        return ask(side, wanted)

    monkeypatch.setattr(FakeAgent, "arrive", lambda agent, left: replace(arrive(agent, left), **lie))
    monkeypatch.setattr(FakeHostNetwork, "reach", asking)
    return asked


@pytest.mark.parametrize(
    ("handoff", "lie"), [(SEAMLESS, {"new6": "2001:db8::53"}), (RENUMBER, {"new": "198.51.100.7"})]
)
def test_no_host_asks_for_an_address_because_the_guest_says_so(
    handoff: str, lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have them knock at any machine, and lead names there."""
    found, (strange,) = stage(handoff), lie.values()
    asked = asked_though(lie, monkeypatch)
    outcome = moved(found)
    assert strange not in asked and outcome.exit_code == 5
    assert f"says that it has {strange}, which is none of network 'front' at berlin" in outcome.reason
    resume = f"then vmacro resume {found.plan.move_id}"
    assert outcome.hint == f"if it still says so, it is not to be trusted; {resume}"


def test_a_guest_that_drops_pings_is_not_called_unreachable() -> None:
    found = stage(SEAMLESS)
    found.fake.guest.shy = True
    assert moved(found).ending == Ending.MOVED
    (note,) = notes(found)
    why = "no answer to pings, nor at TCP port 7000"
    assert note == f"it is not known whether {NEW} and {OLD} can be reached from bucharest: {why}"


@pytest.mark.parametrize(
    ("error", "told"), [(HostError("host {}: no SSH"), "no SSH"), (UnknownVerbError("old"), "old")]
)
def test_hosts_that_cannot_ask_say_so_and_the_move_goes_on(error: HostError, told: str) -> None:
    found = stage(RENUMBER)

    def before(effect: Effect) -> None:
        if effect == f"link.reach {effect.host}":
            raise type(error)(error.message.format(effect.host))

    found.fake.before = before
    assert moved(found).ending == Ending.MOVED
    assert len(notes(found)) == 2 and all(note.endswith(told) for note in notes(found))


def its_network_is_silent(found: Stage) -> None:
    """From the arrival on."""

    def before(effect: Effect) -> None:
        if effect == "network berlin" and found.fake.running_at() == ["berlin"]:
            raise HostError("host berlin: injected")

    found.fake.before = before


@pytest.mark.parametrize(("handoff", "lie"), [(SEAMLESS, {"new6": "2001:db8::53"}), (RENUMBER, {})])
def test_an_address_that_nobody_but_the_guest_knows_waits_for_who_does(
    handoff: str, lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the destination's libvirt is silent just then: hosts would knock wherever the guest likes."""
    found = stage(handoff)
    its_network_is_silent(found)
    asked = asked_though(lie, monkeypatch)
    outcome = moved(found)
    strange = lie.get("new6", "10.50.2.97")  # what DHCP gives it there
    assert outcome.exit_code == 5 and strange not in asked
    assert f"says that it has {strange}: nobody knows whether that is of network 'front' at berlin" in outcome.reason
    assert outcome.hint == f"does its libvirt answer? then vmacro resume {found.plan.move_id}"


def test_a_destination_that_does_not_know_its_bridge_cannot_ask() -> None:
    found = stage(SEAMLESS)
    its_network_is_silent(found)
    assert moved(found).ending == Ending.MOVED
    why = "nobody says which bridge its guests are at"
    assert f"it is not known whether it can be reached from berlin: {why}" in notes(found)


@pytest.mark.parametrize(
    ("heard", "lost"),
    [
        ([Heard(NEW, (MAC,), 64, 64)], []),
        ([Heard(NEW, (MAC,), 0, 64)], []),
        ([Heard(NEW, (OTHER, MAC), 0, 64)], []),
        ([Heard(NEW, (), 64, 64)], [f"nobody at front0 answers for {NEW} (ARP)"]),
        ([Heard("fd50::7", (), 0, 64)], ["nobody at front0 answers for fd50::7 (neighbour discovery)"]),
        ([Heard(NEW, (OTHER,), 64, 64)], [f"{OTHER} at front0 answers for {NEW}, and its card does not (ARP)"]),
        (
            [Heard(NEW, (MAC,), 0, 64), Heard(OLD, (MAC,), 64, 64)],
            [f"no packet comes back from {NEW}, though it answers at {OLD}"],
        ),
        ([Heard(NEW, (MAC,), 0, 64), Heard("fd50::7", (MAC,), 64, 64)], []),
        ([Heard(NEW, (MAC,), 64, 64), Heard(OLD, (MAC,), 0, 0)], []),
    ],
)
def test_what_is_certain(heard: list[Heard], lost: list[str]) -> None:
    assert reaching.unreached(heard, MAC, "front0") == lost


@pytest.mark.parametrize(
    ("heard", "over"),
    [
        ([Heard(NEW, (MAC,), 64, 64), Heard(OLD, (OTHER, MAC), 64, 64)], True),
        ([Heard(NEW, (MAC,), 0, 64), Heard(OLD, (MAC,), 0, 64)], True),
        ([Heard(NEW, (MAC,), 64, 64), Heard(OLD, (MAC,), 0, 0)], True),
        ([Heard(NEW, (MAC,), 64, 64), Heard(OLD, (MAC,), 0, 64)], False),
        ([Heard(NEW, (MAC,), 64, 64), Heard(OLD, (OTHER,), 64, 64)], False),
        ([Heard(NEW, (), 64, 64)], False),
    ],
)
def test_when_a_bridge_has_said_all(heard: list[Heard], over: bool) -> None:
    assert reaching.is_over(heard, MAC) == over


def test_an_echo_has_the_size_and_the_checksum_that_it_must() -> None:
    for version, header in ((4, 20), (6, 40)):
        asked = reach.echo(version, 0x7676, 1500 - header)
        assert len(asked) == 1500 - header and struct.unpack("!BBHHH", asked[:8])[3:] == (ECHO_ID, 0x7676)
    assert reach.checksum(reach.echo(4, 0x7676, 64)) == 0, "as who receives it reckons"


def test_only_a_reply_to_our_own_echo_counts() -> None:
    reply = struct.pack("!BBHHH", 0, 0, 0, ECHO_ID, 0x7676)
    ip = bytes([0x46]) + bytes(23)  # with an option
    assert reach.is_reply(4, 0x7676, ip + reply)
    assert not reach.is_reply(4, 0x7677, ip + reply)
    assert not reach.is_reply(4, 0x7676, ip + reach.echo(4, 0x7676, 8)), "our own question"
    assert not reach.is_reply(4, 0x7676, ip + struct.pack("!BBHHH", 0, 0, 0, ECHO_ID + 1, 0x7676)), "somebody's ping"
    assert reach.is_reply(6, 0x7676, struct.pack("!BBHHH", 129, 0, 0, ECHO_ID, 0x7676))
    for cut in (b"", ip, ip + reply[:7]):
        assert not reach.is_reply(4, 0x7676, cut)


def test_a_reply_of_any_size_can_be_told() -> None:
    """A guest answers as it likes; what is out of bounds would be its host side's word."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        here.setblocking(False)
        echo = object.__new__(reach._Echo)
        echo._socket, echo._version, echo._number = here, 6, 0x7676
        there.send(struct.pack("!BBHHH", 129, 0, 0, ECHO_ID, 0x7676) + bytes(65_527))
        largest = echo.largest()
    assert fields.decode(Heard, {"address": "fd50::7", "answered": largest}, "heard").answered == largest


def test_neighbour_discovery_byte_by_byte() -> None:
    """RFC 4861 sections 4.3 and 4.4."""
    target = socket.inet_pton(socket.AF_INET6, "fd50:1::7")
    mac = bytes.fromhex("525400000002")
    assert (
        neighbours6.solicitation("fd50:1::7", mac) == bytes.fromhex("87 00 0000 00000000") + target + b"\x01\x01" + mac
    )
    answer = bytes.fromhex("88 00 0000 60000000") + target
    option = b"\x02\x01" + mac
    assert neighbours6.advertised(answer + option) == ("fd50:1::7", "52:54:00:00:00:02")
    assert neighbours6.advertised(answer + b"\x0e\x01" + bytes(6) + option) == ("fd50:1::7", "52:54:00:00:00:02")
    for odd in (answer, answer[:-1], answer + option[:-1], answer + b"\x02\x00" + mac, b"\x87" + answer[1:] + option):
        assert neighbours6.advertised(odd) is None


def looked(fake: FakeWorld) -> tuple[tuple[Heard, ...], float]:
    """From the guest's host to the others, and how long that took."""
    (source, *others), began_s = fake.inventory.hosts, fake.clock.now_s
    return paths.between(source, others, fake.world), fake.clock.now_s - began_s


@pytest.mark.parametrize(
    ("narrow", "answered", "least_s", "most_s"),
    [(1500, 1500, 0, 0), (1400, 1400, paths.LOSING_S, 2), (0, 0, paths.SILENT_S, 1)],
)
def test_a_path_is_tried_for_as_long_as_it_is_worth(narrow: int, answered: int, least_s: float, most_s: float) -> None:
    fake = FakeWorld()
    fake.hosts["bucharest"].narrow = narrow
    found, took_s = looked(fake)
    assert [(h.address, h.answered, h.tried) for h in found] == [("10.9.0.2", answered, 1500)]
    assert least_s <= took_s <= most_s


def test_a_path_is_asked_at_the_ports_that_hosts_libvirts_have() -> None:
    fake = FakeWorld({"bucharest": ("bucharest",), "berlin": ("b1", "b2", "b3")})
    uris = {"b1": "qemu+tls://b1/system", "b2": "qemu+tls://b2:17000/system", "b3": "qemu+ssh://root@b3/system"}
    source, *others = fake.inventory.hosts
    others = [replace(host, peer_uri=uris[host.name]) for host in others]
    asked: list[tuple[int, tuple[str, ...]]] = []

    class Side:
        def reach(self, wanted: Reach) -> tuple[Heard, ...]:
            asked.append((wanted.port, wanted.addresses))
            return tuple(Heard(address, (), 1500, 1500) for address in wanted.addresses)

    world: World = replace(fake.world, host_network=lambda _host: Side())  # type: ignore[arg-type, return-value]
    assert len(paths.between(source, others, world)) == 3
    assert asked == [(16514, ("10.9.0.2",)), (17000, ("10.9.0.3",)), (22, ("10.9.0.4",))]


def test_a_host_side_that_cannot_be_asked_for_paths_says_nothing() -> None:
    fake = FakeWorld()

    def before(effect: Effect) -> None:
        raise UnknownVerbError(f"host {effect.host}: refused {effect}")

    fake.before = before
    assert looked(fake) == ((), 0.0)


class Question:
    """In place of one that has sockets, for which one must be root."""

    def __init__(self, args: Reach) -> None:
        self.args, self.asked_s, self.is_open = args, 0.0, True
        asked.append(self)

    def again(self, now_s: float) -> HeardOf:
        self.asked_s = now_s
        return HeardOf(tuple(Heard(address) for address in self.args.addresses))

    def close(self) -> None:
        self.is_open = False


asked: list[Question] = []


class Bridge:
    """In place of one: who answers for an address, each time that it is asked for."""

    answering: tuple[str, ...] = ()

    def __init__(self, *_args: object) -> None:
        self._said: list[tuple[str, str]] = []

    def ask(self, address: str = "") -> int:
        self._said += [(address, mac) for mac in self.answering]
        return 0

    def hear(self) -> list[tuple[str, str]]:
        said, self._said = self._said, []
        return said

    def largest(self) -> int:
        return 0

    def close(self) -> None:
        pass


def test_a_card_is_asked_for_again_although_somebody_else_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be slower than whoever claims its address: a neighbour, or a router that answers for all."""
    monkeypatch.setattr(reach, "_Arp", Bridge)
    monkeypatch.setattr(reach, "_Echo", Bridge)
    reaching_, wanted = reach.Reaching(), Reach("web-1", (NEW,), "front0")
    for answering in ((), (OTHER,), (OTHER, MAC), ()):
        monkeypatch.setattr(Bridge, "answering", answering)
        heard = reaching_.ask(wanted).heard
    assert heard[0].macs == (OTHER, MAC)


def test_a_flood_of_advertisements_keeps_no_host_side_listening() -> None:
    """Its one thread turns legs, too."""
    advertised = (
        bytes.fromhex("88 00 0000 60000000") + socket.inet_pton(socket.AF_INET6, "fd50:1::7") + b"\2\1" + bytes(6)
    )

    class Flood:
        def recvmsg(self, *_args: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
            return advertised, [(socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, struct.pack("=i", 255))], 0, None

    neighbours = object.__new__(neighbours6.Neighbours)
    neighbours._socket = Flood()  # type: ignore[assignment]
    assert 0 < len(list(itertools.islice(neighbours.hear(), 10_000))) < 10_000


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    monkeypatch.setattr(reach, "_Asking", Question)
    asked.clear()
    return asked


def test_a_question_goes_on_under_its_name_until_it_is_another(questions: list[Question]) -> None:
    reaching_, wanted = reach.Reaching(), Reach("web-1", (NEW,), "front0")
    for _ in range(3):
        assert [h.address for h in reaching_.ask(wanted).heard] == [NEW]
    assert len(questions) == 1
    reaching_.ask(replace(wanted, addresses=(OLD,)))
    reaching_.ask(replace(wanted, name="web-2"))
    assert [q.is_open for q in questions] == [False, True, True]


def test_no_question_stays_open_for_ever_nor_do_too_many(
    questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, reaching_ = [0.0], reach.Reaching()
    monkeypatch.setattr("vmacro.host.reach.time.monotonic", lambda: now_s[0])
    for number in range(2 * reach.MOST_NAMES):
        reaching_.ask(Reach(f"web-{number}", (NEW,)))
        assert sum(q.is_open for q in questions) <= reach.MOST_NAMES
    assert questions[-1].is_open and not questions[0].is_open
    now_s[0] = reach.FORGET_S + 1
    reaching_.ask(Reach("web-now", (NEW,)))
    assert [q.args.name for q in questions if q.is_open] == ["web-now"]
