"""The plan of a batch: which guest goes where, in which order, and who stays and why. Pure.

Every choice is checked by the rules that a single move is checked by, with what the batch has given away so far counted
as taken: memory and addresses. When its turn comes, each move is checked again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vmacro.model.batches import PlannedMove, Stay
from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.planning import checks, forecast
from vmacro.planning.request import Request, blocker, source_view

ASSUMED_MIB_S = 100.0  # of a link that no move has been measured on
ASSUMED_AROUND_S = 8.0  # what a move takes besides its copy
ASSUMED_LOOKS_S = 2.0  # what it takes before it begins and after it has ended: surveys, its report
MIB = 1 << 20
_ELSEWHERE = "other sites with --to, or another site in the inventory"


@dataclass(frozen=True)
class Pace:
    """How fast moves go: `mib_s` from one site to another, as earlier moves were measured, else as those the other way
    were; `around_s`: what one takes besides its copy, and `looks_s` besides that, before it begins and after it has
    ended; `probed_s`: as long its round trips are measured then, where its guest has a prober."""

    mib_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    around_s: float = ASSUMED_AROUND_S
    at_most_mib_s: float = 0.0
    looks_s: float = ASSUMED_LOOKS_S
    probed_s: float = 0.0

    def beside_copy_s(self, guest: Guest) -> float:
        """All that a move of the guest takes but its copy."""
        return self.around_s + self.looks_s + (self.probed_s if guest.probe is not None else 0.0)

    def of(self, source: str, target: str) -> tuple[float, str]:
        """MiB/s, and whence that is known. Where nothing was measured this way, what was the other way will do."""
        measured = self.mib_s.get((source, target)) or self.mib_s.get((target, source)) or 0.0
        found = measured or ASSUMED_MIB_S
        if 0 < self.at_most_mib_s < found:
            return self.at_most_mib_s, "policy bandwidth_mib_s"
        return found, "as measured" if measured else "assumed"


@dataclass(frozen=True)
class Candidate:
    """A guest that is to leave: as it was seen, and the move that is asked for it. `to`: the hosts that it may go to.
    `hosts_us`: this program runs in it."""

    request: Request
    survey: Survey
    to: tuple[Host, ...]
    hosts_us: bool = False

    @property
    def guest(self) -> Guest:
        """Who it is."""
        return self.request.guest

    @property
    def memory_mib(self) -> int:
        """Of the guest, 0 where nobody knows."""
        source = source_view(self.survey)
        return source.domain.memory_mib if source is not None and source.domain is not None else 0


def plan(
    candidates: Iterable[Candidate], inventory: Inventory, pace: Pace
) -> tuple[tuple[PlannedMove, ...], tuple[Stay, ...]]:
    """Who moves, the longest first, so that no link ends with a long one while others have nothing left to do; and who
    stays. The largest guests choose first: what is left of hosts has room for small ones."""
    given = _Given()
    moves: list[PlannedMove] = []
    stays: list[Stay] = []
    for candidate in sorted(candidates, key=lambda c: (-c.memory_mib, c.guest.name)):
        found = _placed(candidate, inventory, pace, given)
        if isinstance(found, PlannedMove):
            moves.append(found)
        else:
            stays.append(found)
    return tuple(sorted(moves, key=lambda m: (-m.seconds, m.guest))), tuple(sorted(stays, key=lambda s: s.guest))


@dataclass
class _Given:
    """What the batch has given away so far: memory and guests, by host; and how long its links are busy."""

    mib: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    guests: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    busy_s: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def counted(self, view: HostView) -> HostView:
        """A host, with that."""
        facts, network, more = view.facts, view.network, self.guests[view.host]
        if facts is None or not more:
            return view
        reserved = facts.reserved_mib + self.mib[view.host]
        if network is not None and network.dhcp_free is not None:
            network = replace(network, dhcp_free=max(0, network.dhcp_free - more))
        return replace(view, facts=replace(facts, reserved_mib=reserved), network=network)

    def add(self, move: PlannedMove, memory_mib: int) -> None:
        self.mib[move.destination] += memory_mib
        self.guests[move.destination] += 1
        self.busy_s[move.link] += move.copy_s


def _placed(candidate: Candidate, inventory: Inventory, pace: Pace, given: _Given) -> PlannedMove | Stay:
    source = source_view(candidate.survey)
    if candidate.hosts_us:
        return _stay(candidate, [_us(candidate.guest)])
    best: list[Finding] | None = None
    for host in _in_order(candidate, pace, given):
        survey = replace(candidate.survey, views=_with(candidate.survey.views, given, host.name))
        site = inventory.site(host.site)
        assert site is not None  # the inventory's hosts are of its sites
        against = checks.blockers(checks.check(replace(candidate.request, destination=site, host=host.name), survey))
        if not against and source is not None:
            move = _move(candidate, source, survey.view(host.name), pace)
            given.add(move, candidate.memory_mib)
            return move
        if best is None or len(against) < len(best):
            best = against
    text = "there is no host that it may go to"
    nowhere = blocker("no-destination", f"guest {candidate.guest.name}", text, _ELSEWHERE)
    return _stay(candidate, best or [nowhere])


def _in_order(candidate: Candidate, pace: Pace, given: _Given) -> Sequence[Host]:
    """Hosts that it may go to: first those whose link is done the soonest, of these the one with the most memory
    left."""
    source = source_view(candidate.survey)
    if source is None:
        return candidate.to[:1]  # it runs nowhere, which any of them will say

    def key(host: Host) -> tuple[float, int]:
        facts = candidate.survey.view(host.name).facts
        left = facts.available_mib - given.mib[host.name] if facts is not None else 0
        first, second = sorted((source.site, host.site))
        done_s = given.busy_s[first, second] + candidate.memory_mib / pace.of(source.site, host.site)[0]
        return round(done_s, 1), -left

    return sorted((h for h in candidate.to if h.name != source.host), key=key)


def _with(views: tuple[HostView, ...], given: _Given, host: str) -> tuple[HostView, ...]:
    return tuple(given.counted(view) if view.host == host else view for view in views)


def _move(candidate: Candidate, source: HostView, target: HostView, pace: Pace) -> PlannedMove:
    have = {copy for copy, facts in target.bases if facts.same}
    disks = sum(facts.bytes for copy, facts in source.bases if copy not in have) / MIB
    before = forecast.sent_before_mib(candidate.survey, source, target)
    mib = disks + (candidate.memory_mib if before is None else before)
    rate, whence = pace.of(source.site, target.site)
    copy_s = mib / rate
    left = target.facts.available_mib if target.facts is not None else 0
    because = f"{left} MiB available there; {rate:.0f} MiB/s: {whence}"
    return PlannedMove(
        candidate.guest.name,
        source.host,
        source.site,
        target.host,
        target.site,
        round(mib, 1),
        round(copy_s, 2),
        round(copy_s + pace.beside_copy_s(candidate.guest), 2),
        because,
    )


def _stay(candidate: Candidate, against: Sequence[Finding]) -> Stay:
    source = source_view(candidate.survey)
    first, others = against[0], len(against) - 1
    more = f"; and {others} more: vmacro check {candidate.guest.name} --to {candidate.to[0].site}" if others else ""
    why = f"{first.subject}: {first.message}{more}"
    return Stay(candidate.guest.name, source.host if source is not None else "", first.code, why, first.hint)


def _us(guest: Guest) -> Finding:
    text = "this program runs in it: it could not watch its own move, nor finish it if it goes wrong"
    hint = "run it on another machine that shares the journal: vmacro worker, and this command there"
    return blocker("guest-is-orchestrator", f"guest {guest.name}", text, hint)
