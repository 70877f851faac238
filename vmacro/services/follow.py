"""A policy on the real inventory: where guests are, what should be done now, and why. Moves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np

from vmacro.errors import ConfigurationError, HostError
from vmacro.fleet import copying
from vmacro.fleet.assemble import Assembled, Known, assemble
from vmacro.fleet.copying import MIB_PER_GIB
from vmacro.fleet.nouns import GuestNeeds, HostRoom
from vmacro.fleet.placement import Decision, Placement, place
from vmacro.fleet.policy import FollowPolicy
from vmacro.fleet.simulation import first_moves
from vmacro.model.batches import Batch, Maintenance, PlannedMove
from vmacro.model.facts import DomainFacts, HostFacts
from vmacro.model.moves import Severity
from vmacro.model.nouns import Host, Inventory
from vmacro.planning.evacuation import Pace
from vmacro.ports import World
from vmacro.services.archive import Record, Unreadable
from vmacro.services.survey import deadline_s, late

PLENTY_CPUS, PLENTY_DISK_GIB = 1e6, 1e9


@dataclass(frozen=True)
class Standing:
    """Where guests of the policy are, and what hosts have for them. `unknown`: sites with a host that could not be
    asked, and why; `left_alone`: guests that nothing can be decided about, and why."""

    guests: tuple[GuestNeeds, ...]
    hosts: tuple[HostRoom, ...]
    unknown: Mapping[str, str]
    left_alone: tuple[tuple[str, str], ...]

    @property
    def is_blind(self) -> bool:
        """Whether no host at all could be asked."""
        return bool(self.unknown) and not self.hosts

    def held(self, why: Mapping[str, str]) -> Standing:
        """With some of the guests held where they are."""
        return replace(self, guests=tuple(replace(g, hold=why.get(g.name, g.hold)) for g in self.guests))


@dataclass(frozen=True)
class Decided:
    """What should be done now: `moves`, in their order; and all that was decided over the horizon."""

    placement: Placement
    made: Assembled
    standing: Standing
    moves: tuple[PlannedMove, ...]

    @property
    def is_wrong(self) -> bool:
        """Whether the policy cannot be followed: then nothing was decided."""
        return any(finding.severity == Severity.BLOCKER for finding in self.placement.findings)


@dataclass(frozen=True)
class Past:
    """What has happened to guests lately, as the journal has it: moves, the newest first; batches that go on; and what
    is in maintenance."""

    moves: tuple[Record | Unreadable, ...] = ()
    batches: tuple[Batch, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()


def check_names(policy: FollowPolicy, inventory: Inventory, path: str) -> None:
    """Raises ConfigurationError, with all names of a policy that the inventory does not have."""
    known = {
        "sites": {site.name for site in inventory.sites},
        "guests": {guest.name for guest in inventory.guests},
        "hosts": {host.name for host in inventory.hosts},
    }
    named = {
        "sites": [site.name for site in policy.sites],
        "guests": [guest.name for guest in policy.guests],
        "hosts": [host.name for host in policy.hosts],
    }
    wrong = [f"{kind}.{name}: not in {path}" for kind, of in named.items() for name in of if name not in known[kind]]
    for host in policy.hosts:
        real = inventory.host(host.name)
        if real is not None and real.site != host.site:
            wrong.append(f"hosts.{host.name}.site: is {real.site} in {path} (value: {host.site!r})")
    if wrong:
        raise ConfigurationError("\n".join(f"{policy.path}: {text}" for text in wrong))


def look(policy: FollowPolicy, inventory: Inventory, world: World, past: Past, now: datetime) -> Standing:
    """Where guests are, host by host, side by side. Raises nothing: what cannot be seen is not known."""
    sites = {site.name for site in policy.sites}
    domains = {g.name: inventory.guest(g.name) for g in policy.guests}
    names = {name: guest.domain for name, guest in domains.items() if guest is not None}
    hosts = [host for host in inventory.hosts if host.site in sites]
    answers = world.side_by_side([partial(_seen, host, names, world) for host in hosts], deadline_s(hosts))
    seen: dict[str, _Seen] = {}
    unknown: dict[str, str] = {}
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, _Seen):
            seen[host.name] = answer
        else:
            why = answer or f"host {host.name}: {late(host)}"
            unknown[host.site] = why
    guests, left_alone = [], []
    for guest in policy.guests:
        at = [host for host in hosts if host.name in seen and guest.name in seen[host.name].running]
        why = _why_alone(at, unknown)
        if why:
            left_alone.append((guest.name, why))
        else:
            memory = seen[at[0].name].running[guest.name].memory_mib
            guests.append(_with_past(replace(guest, host=at[0].name, memory_mib=memory), policy, past, now))
    rooms = [_room(host, seen[host.name], guests, policy, past) for host in hosts if host.name in seen]
    return Standing(tuple(guests), tuple(rooms), unknown, tuple(left_alone))


@dataclass(frozen=True)
class _Seen:
    """A host, and which guests run there."""

    facts: HostFacts
    running: Mapping[str, DomainFacts]


def _seen(host: Host, domains: Mapping[str, str], world: World) -> _Seen | str:
    try:
        hypervisor = world.hypervisor(host)
        facts = hypervisor.facts()
        found = {name: hypervisor.domain(domain) for name, domain in domains.items()}
    except HostError as error:
        return error.message
    return _Seen(facts, {name: facts for name, facts in found.items() if facts is not None and facts.running})


def _why_alone(at: list[Host], unknown: Mapping[str, str]) -> str:
    if len(at) == 1:
        return ""
    if at:
        return f"runs at {' and '.join(host.name for host in at)} at once: vmacro check"
    if unknown:
        return f"runs at no host that could be asked; {'; '.join(unknown.values())}"
    return "does not run at any site of the policy"


def _with_past(guest: GuestNeeds, policy: FollowPolicy, past: Past, now: datetime) -> GuestNeeds:
    """When it came and moved, and what else has it."""
    oldest = remembers(policy, now)
    mine = [record for record in past.moves if record.guest == guest.name or _may_be(record, guest.name)]
    ended = [_ended(r) for r in mine if isinstance(r, Record) and r.outcome is not None and r.outcome.ending.moved]
    moved = tuple(sorted(when for when in ended if oldest < when <= now))
    hold = ""
    for batch in past.batches:
        if any(move.guest == guest.name for move in batch.moves):
            hold = f"batch {batch.batch_id} has it"
    last = next(iter(mine), None)
    if isinstance(last, Unreadable):
        hold = f"its move {last.move_id} cannot be read"
    elif last is not None and last.unfinished:
        hold = f"its move {last.move_id} is not finished: vmacro resume {last.move_id}"
    return replace(guest, since=max(moved, default=None), moved=moved, hold=hold)


def remembers(policy: FollowPolicy, now: datetime) -> datetime:
    """Since when moves count: for the day, which has 25 hours where summer time ends, and for the shortest stay."""
    return now - max(timedelta(hours=25), timedelta(seconds=policy.rules.shortest_stay_s))


def _may_be(record: Record | Unreadable, guest: str) -> bool:
    return isinstance(record, Unreadable) and record.is_of(guest)


def _ended(record: Record) -> datetime:
    return datetime.fromtimestamp(record.ended_ms / 1000, UTC)


def _room(host: Host, seen: _Seen, guests: Iterable[GuestNeeds], policy: FollowPolicy, past: Past) -> HostRoom:
    """What is free and nobody counts on, and what its guests of the policy have. A host in maintenance has these
    alone: who is there may stay, and nobody comes."""
    said = next((room for room in policy.hosts if room.name == host.name), None)
    mine = [guest for guest in guests if guest.host == host.name]
    taken = sum(guest.memory_mib for guest in mine)
    if any(mark.subject == (host.site if mark.is_site else host.name) for mark in past.maintenance):
        return HostRoom(host.name, host.site, taken, sum(g.cpus for g in mine), sum(g.disk_gib for g in mine))
    free = max(0, seen.facts.available_mib - host.memory_reserve_mib)
    cpus, disk = (said.cpus, said.disk_gib) if said is not None else (PLENTY_CPUS, PLENTY_DISK_GIB)
    return HostRoom(host.name, host.site, taken + free, cpus, disk)


def decide(
    policy: FollowPolicy,
    known: Known,
    standing: Standing,
    now: datetime,
    seconds: float,
    clock: Callable[[], float],
) -> Decided:
    """What each guest should do, and the moves that begin at once. `seconds` of `clock` are for the solver."""
    unknown = dict(standing.unknown)
    for site in policy.sites:
        if not any(room.site == site.name for room in standing.hosts):
            unknown.setdefault(site.name, "it has no host that could be asked")
    hosts = (*standing.hosts, *_stand_ins(policy, standing))
    made = assemble(policy, known, standing.guests, hosts, now, unknown)
    found = place(made.fleet, seconds, clock) if standing.guests else Placement((), ())
    going = first_moves(found.decisions, made.fleet.horizon.start)
    moves = [_planned(d, going[d.guest], made) for d in found.decisions if d.guest in going]
    ordered = sorted(moves, key=lambda move: (-move.seconds, move.guest))
    return Decided(found, made, standing, tuple(ordered))


def _stand_ins(policy: FollowPolicy, standing: Standing) -> list[HostRoom]:
    """Hosts of calendars that could not be asked: a name that is known, and no room."""
    there = {room.name for room in standing.hosts}
    return [replace(room, memory_mib=0) for room in policy.hosts if room.name not in there]


def _planned(decision: Decision, host: str, made: Assembled) -> PlannedMove:
    fleet = made.fleet
    guest = next(g for g in fleet.guests if g.name == decision.guest)
    sites = {room.name: room.site for room in fleet.hosts}
    source, target = sites[guest.host], sites[host]
    rate = next(link.mib_s for link in fleet.links if (link.source, link.target) == (source, target))
    memory, disk, dirty = (np.array([float(x)]) for x in (guest.memory_mib, guest.disk_gib, guest.dirty_mib_s))
    most_pause_s = fleet.rules.most_pause_ms / 1000
    copies = copying.expected(memory, disk * MIB_PER_GIB, dirty, np.array([[rate]]), most_pause_s)
    mib, copy_s = float(copies.mib[0, 0, 0]), float(copies.seconds[0, 0, 0])
    because = decision.why[:400]
    seconds = copy_s + Pace().around_s + Pace().looks_s
    return PlannedMove(guest.name, guest.host, source, host, target, round(mib, 1), copy_s, seconds, because)


def sentences(decided: Decided) -> list[tuple[str, str, str, str]]:
    """Of each guest: its name, where it is, what it does and why, and what would have to change."""
    at = {guest.name: guest.host for guest in decided.made.fleet.guests}
    rows = [(d.guest, at[d.guest], d.why, d.change) for d in decided.placement.decisions]
    return [*rows, *((name, "", f"left alone: {why}", "") for name, why in decided.standing.left_alone)]


def summary(decided: Decided) -> str:
    """In a line."""
    now = {move.guest for move in decided.moves}
    kinds = Counter(
        "moves now" if d.guest in now else "will move" if d.moves else "stays" for d in decided.placement.decisions
    )
    kinds["left alone"] = len(decided.standing.left_alone)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "no guest"
