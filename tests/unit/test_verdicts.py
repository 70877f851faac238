"""Each verdict against the truth as the clients of the world in memory saw it: any clients, doing anything at any
moment of a move, with a guest whose agent may be restarted or hear less than there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.unit.test_migrate import Straight
from vmacro.drivers.fake import FakeWorld, connection
from vmacro.drivers.fake.agent import _joined
from vmacro.model.facts import Beyond, Connection, Ended, Endings, Subflow
from vmacro.model.moves import NOTHING_HEARD, After, Before, Ending, Outcome, Verdict
from vmacro.model.nouns import Policy, ProbeTarget
from vmacro.planning import planner
from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.planning.outcome import MOST_COUNTED, bounded, counted, judge, untold, why_carried
from vmacro.planning.request import Request
from vmacro.services import measured, migrate
from vmacro.services.journal_json import outcome_from
from vmacro.wire.agent_verbs import ABORTED, CLOSED, CUT, ENDED_HOW, MAX_CONNECTIONS, RESET, TIMED_OUT

OLD, NEW = "10.50.1.97", "10.50.2.10"
MOMENTS = st.integers(0, 60)  # the n-th effect of a move, which has some 40
# How a client's connection may end, by whom it is ended, and whether its client was heard since the arrival.
DEEDS = {
    "stays": None,
    "closes": (CLOSED, False),
    "aborts": (ABORTED, False),
    "resets": (RESET, True),
    "is reset on the way": (RESET, False),
    "times out": (TIMED_OUT, False),
}


@dataclass(frozen=True)
class Client:
    """`kind`: follows, refuses or tcp. It connects at the moment `comes`, 0: before all others."""

    kind: str
    deed: str
    at: int
    comes: int


CLIENTS = st.builds(
    Client,
    st.sampled_from(("follows", "refuses", "tcp")),
    st.sampled_from(tuple(DEEDS)),
    MOMENTS,
    st.one_of(st.just(0), MOMENTS),
)


class Story:
    """A move among clients, of which each knows what it has seen."""

    def __init__(self, handoff: str, clients: list[Client], restarted: int, overflowed: int) -> None:
        self.fake = FakeWorld()
        self.guest = self.fake.guest
        self.guest.connections.clear()
        self._handoff, self._clients = handoff, clients
        self._restarted, self._overflowed = restarted, overflowed
        self._moment = -1
        self.talking: dict[str, Client] = {}
        self.ended: set[str] = set()
        self.lost: set[str] = set()
        self.doubtful = False
        self._looked_at: dict[str, Connection] = {}
        self.seen: tuple[set[str], set[str]] = (set(), set())
        for number, client in enumerate(clients):
            if client.comes == 0:
                self._connect(number, client)

    def run(self) -> Outcome:
        known = self.fake.inventory
        wanted = Request(known.guests[0], known.sites[1], self._handoff, Policy())
        plan = planner.plan("web-1", known, wanted, measured.look(known, wanted, self.fake.world, ask_clients=True))
        self.fake.before = self._before
        return migrate.run_move(plan, self.fake.world, Straight())

    def has_a_path(self, key: str) -> bool:
        """Whether what a client sends at last reaches the guest, by any of its addresses."""
        return any(self._routed(subflow.local) for subflow in self._looked_at[key].subflows)

    def _routed(self, address: str) -> bool:
        """At home there, or by a leg whose ends lead to the guest."""
        ends = {e.side: e.points_to for h in self.fake.hosts.values() for e in h.legs.values() if e.address == address}
        has = address in (*self.guest.present, *self.guest.kept)
        return has and (address.startswith("10.50.2.") or ends == {"home": "tunnel", "away": "guest"})

    def _before(self, effect: str) -> None:
        self._moment += 1
        for number, client in enumerate(self._clients):
            if client.comes == self._moment > 0 and not self.guest.arrived:
                self._connect(number, client)
            deed = DEEDS[client.deed]
            key = self._key(number, client)
            if client.at == self._moment and deed is not None and key in self.talking:
                self._end(key, *deed)
        if self._moment == self._restarted:
            self.guest.restart_agent()
            self.doubtful = True
        if self._moment == self._overflowed and self.guest.watch:
            self.guest.ended, self.guest.missed, self.doubtful = {}, True, True
        if effect == "agent.connections":
            self._looked_at = {c.key: c for c in self.guest.connections}
            self.seen = (set(self.talking), set(self.lost))

    def _connect(self, number: int, client: Client) -> None:
        found = _connection(number, client)
        if client.kind == "follows":
            for coming in filter(None, self.guest.prepared):
                found = _joined(found, coming)
        self.guest.connections.append(found)
        self.talking[found.key] = client

    def _end(self, key: str, how: str, heard: bool) -> None:
        found = next((c for c in self.guest.connections if c.key == key), None)
        if found is None:
            return  # it was looked at, and cut since: what `renumber` leaves behind
        by_the_move = how in (RESET, TIMED_OUT) and not heard and self.guest.arrived
        (self.lost if by_the_move else self.ended).add(key)
        del self.talking[key]
        self.guest.end(found, how, heard)

    @staticmethod
    def _key(number: int, client: Client) -> str:
        return _connection(number, client).key


def _connection(number: int, client: Client) -> Connection:
    token = 0 if client.kind == "tcp" else 0x100 + number
    found = connection(token, OLD, willing=client.kind == "follows")
    return replace(found, subflows=(replace(found.subflows[0], remote_port=50_000 + number),))


@settings(max_examples=150)
@given(
    st.sampled_from((SEAMLESS, RENUMBER)),
    st.lists(CLIENTS, min_size=1, max_size=6),
    st.one_of(st.just(-1), MOMENTS),
    st.one_of(st.just(-1), MOMENTS),
)
def test_what_is_said_is_what_the_clients_saw(
    handoff: str, clients: list[Client], restarted: int, overflowed: int
) -> None:
    story = Story(handoff, clients, restarted, overflowed)
    outcome = story.run()
    talking, lost = story.seen
    verdicts = {c.key: c.verdict for c in outcome.connections}
    without_a_path = {key for key in talking if not story.has_a_path(key)}
    for key, verdict in verdicts.items():
        if key in talking:
            assert verdict == Verdict.LOST if key in without_a_path else verdict in (Verdict.FOLLOWED, Verdict.CARRIED)
        elif verdict == Verdict.UNKNOWN:
            assert story.doubtful
        else:
            assert verdict == (Verdict.LOST if key in lost else Verdict.ENDED)
    if not story.doubtful:
        assert (lost | without_a_path) <= {key for key, verdict in verdicts.items() if verdict == Verdict.LOST}
    worst = Verdict.LOST in verdicts.values()
    assert (outcome.ending, outcome.exit_code) == ((Ending.WITH_LOSSES, 5) if worst else (Ending.MOVED, 0))
    assert ("not known" in outcome.reason) == (Verdict.UNKNOWN in verdicts.values())


# judge() alone

WATCH = "w-1"


def on(*addresses: str, token: int = 1, established: bool = True, unanswered: int = 0) -> Connection:
    made = (
        Subflow(a, 7000, "10.9.0.14", 40000 + token, i > 0, False, established, unanswered=unanswered)
        for i, a in enumerate(addresses)
    )
    return Connection(token, tuple(made))


def test_why_a_connection_is_carried() -> None:
    """Told to whoever asks why it does not follow."""
    old = connection(0xB1, OLD, willing=False)
    assert why_carried(connection(0, OLD, willing=False)) == "plain TCP"
    assert why_carried(old) == "its client did not join the new address"
    full = replace(old, subflows=(*old.subflows, replace(old.subflows[0], local="10.50.1.80", joined=True)))
    no_slot = "its client has no slot left for the new address (add_addr_accepted), and no other path meanwhile"
    assert why_carried(full) == no_slot


def verdict(
    old: Connection, *now: Connection, carried: tuple[str, ...] = (), heard: Endings = NOTHING_HEARD
) -> Verdict:
    (found,) = judge(Before("boot-1", (old,), WATCH), After(now, carried, heard), (NEW,))
    return found.verdict


def told(*ended: Ended, missed: bool = False, watch: str = WATCH) -> Endings:
    return Endings(watch, missed, ended, len(ended))


def test_one_that_is_there_is_judged_by_the_addresses_that_are_reached() -> None:
    old = on(OLD)
    assert verdict(old, on(NEW)) == verdict(old, on(OLD, NEW)) == Verdict.FOLLOWED
    assert verdict(old, on(OLD), carried=(OLD,)) == Verdict.CARRIED
    assert verdict(old, on(OLD)) == Verdict.LOST, "that an MPTCP socket exists is no proof"
    assert verdict(on(OLD, token=0), on(OLD, token=0)) == Verdict.LOST
    assert verdict(on(OLD, token=0), on(OLD, token=0), carried=(OLD,)) == Verdict.CARRIED
    assert verdict(old, Connection(1, ())) == Verdict.LOST
    assert verdict(old, on(OLD, established=False), carried=(OLD,)) == Verdict.CARRIED
    assert verdict(old, on(NEW, established=False)) == Verdict.UNKNOWN
    assert verdict(old, on(NEW, unanswered=5)) == Verdict.UNKNOWN, "nobody answers there"


@pytest.mark.parametrize("how", ENDED_HOW)
@pytest.mark.parametrize("lost", [False, True])
def test_one_that_is_gone_is_judged_by_what_the_kernel_told(how: str, lost: bool) -> None:
    old = on(OLD)
    end = Ended(old.key, old.client, how, lost)
    assert verdict(old, heard=told(end)) == (Verdict.LOST if lost else Verdict.ENDED)
    assert verdict(old, heard=told(end, watch="w-2")) == Verdict.UNKNOWN, "of another watch"
    assert verdict(old, heard=told(missed=True)) == verdict(old, heard=told()) == verdict(old) == Verdict.UNKNOWN


def test_the_moves_own_measuring_is_told_from_clients() -> None:
    old = on(OLD)
    end = told(Ended(old.key, old.client, ABORTED, False))
    whys = [
        judge(Before("boot-1", (old,), WATCH), After((), (), end), (NEW,), probe)[0].why
        for probe in (ProbeTarget("lab", 7000), ProbeTarget("lab", 7001), None)
    ]
    aborted = "its client's application aborted it"
    assert whys == [f"the move's own measuring: {aborted}", aborted, aborted]


def test_younger_ones_are_named_where_they_were_lost() -> None:
    young = Ended("tcp 10.9.0.15:1", "10.9.0.15:1", RESET, True)
    closed = Ended("tcp 10.9.0.15:2", "10.9.0.15:2", CLOSED, False)
    now = (on(NEW), on(OLD, token=2), on(NEW, token=3), on(NEW, token=4, established=False))
    found = judge(Before("boot-1", (on(OLD),), WATCH), After(now, (), told(young, closed)), (NEW,))
    assert {c.key: c.verdict for c in found} == {
        "0x00000001": Verdict.FOLLOWED,
        "0x00000002": Verdict.LOST,
        "tcp 10.9.0.15:1": Verdict.LOST,
    }
    assert counted(found) == {"followed": 1, "carried": 0, "ended": 0, "lost": 2, "unknown": 0}


def test_of_another_card_of_the_guests_nobody_knows_whether_it_is_reached() -> None:
    """Its network may be one at both sites, as one for management is."""
    young = on("10.77.0.9", token=2)
    for old in (on("10.77.0.9"), on("10.77.0.9", token=0)):
        before = Before("boot-1", (old,), WATCH, (), (OLD, "10.50.9.9"))
        after = After((old,), (), told())
        assert [c.verdict for c in judge(before, after, (NEW,))] == [Verdict.UNKNOWN]
        assert {c.verdict for c in judge(before, replace(after, connections=(old, young)), (NEW,))} == {Verdict.UNKNOWN}
        left = replace(before, addresses=(*before.addresses, "10.77.0.9"))
        assert [c.verdict for c in judge(left, after, (NEW,))] == [Verdict.LOST], "an address that stayed behind"
    six = on("fd00::77")
    assert [c.verdict for c in judge(replace(before, connections=(six,)), After((six,)), (NEW,))] == [Verdict.LOST]


def test_two_of_one_client_from_one_port_are_two() -> None:
    """To two of the guest's ports: a NAT, and Linux, use a port for each (RFC 4787 section 4.1)."""
    one, other = (Connection(0, (Subflow(OLD, port, "10.9.0.14", 40000, False, False, True),)) for port in (7000, 7001))
    lost = Ended(one.key, one.client, RESET, True)
    before = Before("boot", (one, other), WATCH)
    found = judge(before, After((other,), (OLD,), told(lost)), (NEW,))
    assert [c.verdict for c in found] == [Verdict.LOST, Verdict.CARRIED]


def test_of_too_many_the_worst_are_kept() -> None:
    old = tuple(on(OLD, token=n) for n in range(1, MAX_CONNECTIONS + 1))
    young = tuple(Ended(f"tcp 10.9.0.15:{n}", f"10.9.0.15:{n}", CUT, True) for n in range(1, 6))
    after = After(tuple(on(NEW, token=c.token) for c in old), (), told(*young), beyond=Beyond(followed=7, ended=2))
    found, beyond = bounded(judge(Before("boot-1", old, WATCH), after, (NEW,)), after.beyond)
    assert len(found) == MAX_CONNECTIONS and counted(found)["lost"] == 5
    assert beyond == Beyond(followed=12, ended=2)
    many = Beyond(followed=MOST_COUNTED)  # as its agent says
    outcome = Outcome(Ending.MOVED, beyond=bounded(judge(Before("boot-1", old, WATCH), after, (NEW,)), many)[1])
    row = TypeAdapter(Outcome).dump_python(outcome, mode="json")
    assert outcome_from(row, "a row that no journal could read") == outcome


def test_what_the_kernel_will_still_tell() -> None:
    before = Before("boot-1", (on(OLD), on(OLD, token=2), on(OLD, token=3)), WATCH)
    now = After((on(NEW),), (), told(Ended("0x00000003", "c", ABORTED, False)))
    assert untold(before, now) == {"0x00000002"}
    for silent in (NOTHING_HEARD, told(missed=True)):
        assert untold(before, replace(now, endings=silent)) == set(), "nobody will tell"
