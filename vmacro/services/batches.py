"""Batches as use cases: plan one, have it carried out, say what is wanted of it, see how far it is. Prints nothing.

Planning changes nothing. What begins is in the fleet's tables first, and is carried out by whichever workers there are
(services/crew.py, services/leader.py).
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import dropwhile, takewhile
from statistics import median

from vmacro.errors import ConfigurationError, JournalError, PlanRejectedError
from vmacro.model.batch_events import BatchChanged
from vmacro.model.batches import (
    MOST_MOVES,
    Batch,
    Became,
    Limits,
    Maintenance,
    PlannedMove,
    Purpose,
    Stay,
    Wish,
    batch_id,
)
from vmacro.model.events import Event
from vmacro.model.facts import Survey
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.planning import evacuation
from vmacro.planning.dispatch import expected_s
from vmacro.planning.evacuation import Candidate, Pace
from vmacro.planning.request import Request, may_be_of
from vmacro.services import leader
from vmacro.services.archive import Archive
from vmacro.services.checker import Checker, Publish
from vmacro.services.fleet_tables import FleetTables, written
from vmacro.services.journal_rows import TRY, WAITING, Rows
from vmacro.services.leader import Tally, tally_of, tries_of
from vmacro.services.measured import LEAD_IN_S, LEAD_OUT_S

_AGAINST_EACH_OTHER = ({Purpose.EVACUATE, Purpose.RESTORE}, {Purpose.DRAIN, Purpose.RESTORE})
PROBED_S = LEAD_IN_S + LEAD_OUT_S
MEASURED = 200  # of so many of the last moves it is known how fast they were


@dataclass(frozen=True)
class Ourselves:
    """By what this program would know the guest that it runs in: the machine's UUID, which libvirt gives its guests
    (SMBIOS), and its addresses."""

    uuid: str = ""
    addresses: frozenset[str] = frozenset()

    def is_in(self, survey: Survey) -> bool:
        """Whether we run in the guest that was surveyed."""
        uuids = {view.domain.uuid.lower() for view in survey.views if view.domain is not None}
        return (self.uuid != "" and self.uuid.lower() in uuids) or (
            survey.agent is not None and survey.agent.address in self.addresses
        )


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is. `under_way`: numbers of moves that a worker has, or is about to take."""

    batch: Batch
    wish: Wish
    tally: Tally
    under_way: frozenset[int]

    @property
    def moved(self) -> int:
        """How many guests are where they were to go."""
        return sum(became.moved for number, became in self.tally.last.items() if number not in self.under_way)

    @property
    def unmoved(self) -> int:
        """How many are not, or not yet."""
        return len(self.batch.moves) - self.moved

    def state(self, number: int) -> str:
        """Of one move, in a word or two."""
        if number in self.under_way:
            return "under way"
        last = self.tally.last.get(number)
        if last is None or last.put_off:
            return "not begun" if self.wish in (Wish.ABORT, Wish.ENDED) else "waits"
        return last.text


@dataclass(frozen=True)
class Tools:
    """What batches need of the process that they are planned in. `request`: a move of a guest to a site, by default
    bounds; `rows` reads the journal; `alone`: nobody else begins a batch meanwhile."""

    inventory: Inventory
    limits: Limits
    checker: Checker
    tables: FleetTables
    rows: Callable[[], AbstractContextManager[Rows]]
    archive: Callable[[], AbstractContextManager[Archive]]
    request: Callable[[str, str], Request]
    publish: Publish
    operator: str
    ourselves: Ourselves
    alone: Callable[[], AbstractContextManager[None]]
    stamp: Callable[[], tuple[str, str]]


class Batches:
    """The use cases, on the tools of one process."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def plan_evacuation(self, site: str, to: Sequence[str] = (), deadline_s: float = 0.0) -> Batch:
        """Empty a site: every guest that runs there, to `to` (SITE or SITE/HOST each), by default to all other sites.
        `deadline_s`: in seconds since 1970; nothing begins after it; 0: none. Raises ConfigurationError."""
        hosts = [host for host in self._hosts(to) if host.site != site]
        return self._leaving(Purpose.EVACUATE, site, lambda host: host.site == site, hosts, deadline_s)

    def plan_drain(self, host: str, to: Sequence[str] = (), deadline_s: float = 0.0) -> Batch:
        """Empty a host, HOST or SITE/HOST: as plan_evacuation(); to other sites, since a move is one between sites."""
        home = self._host(host)
        hosts = [h for h in self._hosts(to) if h.site != home.site]
        return self._leaving(Purpose.DRAIN, home.name, lambda h: h.name == home.name, hosts, deadline_s)

    def plan_restore(self, subject: str, deadline_s: float = 0.0) -> Batch:
        """Bring back what batches have taken from a site or host since it is in maintenance, each guest to its own
        host. One that somebody has moved on since stays (`moved-since`). Raises ConfigurationError where nothing was
        taken."""
        subject = self._host(subject).name if "/" in subject else subject
        taken = self._taken(subject)
        known = {guest.name: guest for guest in self._tools.inventory.guests}
        candidates = []
        for request, survey in self._surveys(known[name] for name in taken if name in known):
            origin, there = taken[request.guest.name]
            home = self._tools.inventory.host(origin)
            if home is None or any(view.host == home.name for view in survey.running_at):
                continue  # it is there
            open_views = tuple(
                replace(v, closed="") if v.site == subject or v.host == subject else v for v in survey.views
            )
            wanted, seen = replace(request, source=there), replace(survey, views=open_views)
            candidates.append(Candidate(wanted, seen, (home,), self._is_us(survey)))
        return self._batch(Purpose.RESTORE, subject, candidates, deadline_s)

    def planned(self, purpose: Purpose, subject: str, moves: Iterable[PlannedMove], deadline_s: float = 0.0) -> Batch:
        """A batch of moves that somebody else has chosen, such as a policy, in their order. Raises ConfigurationError
        where a guest is named twice."""
        return self._frozen(purpose, subject, tuple(moves), (), deadline_s)

    def begin(self, batch: Batch) -> None:
        """Have it carried out by whichever workers there are. A site or host that is to be emptied is in maintenance
        from now on, one that is restored no longer. Raises PlanRejectedError where a guest has a move in another batch
        that goes on; JournalError where nobody could read the batch: nothing was changed."""
        with self._tools.alone():
            self._begin(batch)

    def _begin(self, batch: Batch) -> None:
        written(batch)  # before anything is changed
        tools, names = self._tools, {move.guest for move in batch.moves}
        for other, _ in tools.tables.open():
            if batch.subject == other.subject and {batch.purpose, other.purpose} in _AGAINST_EACH_OTHER:
                text = f"{batch.purpose.value} {batch.subject}: batch {other.batch_id} goes on; nothing was changed"
                raise PlanRejectedError(text, f"wait for it, or: vmacro batch abort {other.batch_id}")
            shared = sorted(names & {move.guest for move in other.moves})
            if shared:
                text = f"guest {shared[0]}: has a move in batch {other.batch_id}, which goes on; nothing was changed"
                raise PlanRejectedError(text, f"wait for it, or: vmacro batch abort {other.batch_id}")
        is_site = tools.inventory.site(batch.subject) is not None and batch.purpose != Purpose.DRAIN
        if batch.purpose in (Purpose.EVACUATE, Purpose.DRAIN):
            tools.tables.close_for_guests(Maintenance(batch.subject, is_site, tools.operator, batch.made_s))
        elif batch.purpose == Purpose.RESTORE:
            tools.tables.open_for_guests(batch.subject, True)
            tools.tables.open_for_guests(batch.subject, False)
        tools.tables.add(batch)
        self._tell(batch.batch_id, "planned", f"{len(batch.moves)} moves, {len(batch.stays)} guests stay")

    def want(self, batch_id: str, wish: Wish) -> None:
        """Pause it, go on with it, or abort it; see Wish. Raises ConfigurationError where there is no such batch, or it
        has ended."""
        self._tools.tables.want(batch_id, wish)
        told = {Wish.PAUSE: "paused", Wish.RUN: "resumed", Wish.ABORT: "aborted"}
        if wish in told:
            self._tell(batch_id, told[wish], f"by {self._tools.operator}")

    def progress(self, batch_id: str) -> BatchProgress:
        """How far a batch is. Raises ConfigurationError where there is none, JournalError."""
        batch, wish = self._tools.tables.batch(batch_id)
        with self._tools.rows() as rows:
            waiting = list(rows.workflows(TRY, prefix=f"{batch_id}-", statuses=WAITING))
            tally = tally_of(rows, batch_id, {row.name for row in waiting})
        return BatchProgress(batch, wish, tally, frozenset(tried.number for tried in tries_of(waiting)))

    def newest(self, limit: int = 50) -> list[tuple[Batch, Wish]]:
        """The newest first."""
        return self._tools.tables.batches(limit)

    def going_on(self) -> tuple[Batch, ...]:
        """All that have not ended, the oldest first."""
        return tuple(batch for batch, _ in self._tools.tables.open())

    def wishes(self) -> dict[str, Wish]:
        """What is wanted of all batches that have not ended."""
        return self._tools.tables.wishes()

    def the_open_one(self) -> str:
        """The one batch that goes on. Raises ConfigurationError where there is none, or several."""
        found = [batch.batch_id for batch, _ in self._tools.tables.open()]
        if not found:
            raise ConfigurationError("there is no batch to do this to: none goes on", "vmacro batch list")
        if len(found) > 1:
            raise ConfigurationError(f"which batch? {', '.join(found)}", "name it")
        return found[0]

    def the_one_to_show(self) -> str:
        """The one batch that goes on; where none does, the last one. Raises ConfigurationError where there has been
        none, or several go on."""
        if not self._tools.tables.open() and (newest := self.newest(1)):
            return newest[0][0].batch_id
        return self.the_open_one()

    def maintenance(self) -> tuple[Maintenance, ...]:
        """Hosts and sites that get no guests."""
        return self._tools.tables.maintenance()

    def _leaving(
        self, purpose: Purpose, subject: str, leaves: Callable[[Host], bool], to: Sequence[Host], deadline_s: float
    ) -> Batch:
        inventory = self._tools.inventory
        sites = {host.site for host in inventory.hosts if leaves(host)}
        candidates = []
        for request, survey in self._surveys(inventory.guests):
            running = [inventory.host(view.host) for view in survey.running_at]
            if any(host is not None and leaves(host) for host in running) or (
                not running and any(may_be_of(site, survey) for site in sites) and _may_run(survey)
            ):
                candidates.append(Candidate(request, survey, tuple(to), self._is_us(survey)))
        return self._batch(purpose, subject, candidates, deadline_s)

    def _batch(self, purpose: Purpose, subject: str, candidates: list[Candidate], deadline_s: float) -> Batch:
        moves, stays = evacuation.plan(candidates, self._tools.inventory, self._pace())
        return self._frozen(purpose, subject, moves, stays, deadline_s)

    def _frozen(
        self,
        purpose: Purpose,
        subject: str,
        moves: tuple[PlannedMove, ...],
        stays: tuple[Stay, ...],
        deadline_s: float,
    ) -> Batch:
        twice = [guest for guest, times in Counter(move.guest for move in moves).items() if times > 1]
        if twice or len(moves) > MOST_MOVES:
            what = f"guest {min(twice)}: named twice" if twice else f"{len(moves)} moves: at most {MOST_MOVES}"
            raise ConfigurationError(f"batch of {subject}: {what}", "one move for each guest; several batches")
        stamp, salt = self._tools.stamp()
        return Batch(
            batch_id(purpose, subject, stamp, salt),
            purpose,
            subject,
            moves,
            stays,
            time.time(),
            deadline_s,
            expected_s(moves, self._tools.limits),
            self._tools.operator,
        )

    def _host(self, name: str) -> Host:
        """By HOST or SITE/HOST. Raises ConfigurationError."""
        site, _, host = name.rpartition("/")
        found = self._tools.inventory.host(host)
        if found is None or site not in ("", found.site):
            known = ", ".join(h.name for h in self._tools.inventory.hosts)
            raise ConfigurationError(f"host {name!r}: not in the inventory", f"known hosts: {known}")
        return found

    def _hosts(self, to: Sequence[str]) -> list[Host]:
        """Those that were named. Raises ConfigurationError."""
        inventory, found = self._tools.inventory, []
        for name in to:
            site, _, host = name.partition("/")
            chosen = [h for h in inventory.hosts if h.site == site and host in ("", h.name)]
            if not chosen:
                known = ", ".join(s.name for s in inventory.sites)
                raise ConfigurationError(f"--to {name!r}: no such site or host", f"known sites: {known}; or SITE/HOST")
            found += chosen
        return found if to else [*inventory.hosts]

    def _surveys(self, guests: Iterable[Guest]) -> Iterable[tuple[Request, Survey]]:
        site = self._tools.inventory.sites[0].name
        return self._tools.checker.look_at([self._tools.request(guest.name, site) for guest in guests])

    def _is_us(self, survey: Survey) -> bool:
        return self._tools.ourselves.is_in(survey)

    def _pace(self) -> Pace:
        """As the last moves were measured."""
        rates: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        around = []
        with self._tools.archive() as archive:
            for record in archive.readable(MEASURED):
                copied = record.outcome.statistics if record.outcome is not None else None
                if copied is None or not copied.elapsed_ms or record.outcome is None:
                    continue
                ends = record.plan.source.site, record.plan.destination.site
                rates[ends].append(copied.bytes_transferred / evacuation.MIB / copied.elapsed_ms * 1000)
                around.append(max(0.0, record.outcome.wall_s - copied.elapsed_ms / 1000))
        measured = {ends: median(found) for ends, found in rates.items() if median(found) > 0}
        at_most = float(self._tools.inventory.policy.bandwidth_mib_s)
        around_s = median(around) if around else evacuation.ASSUMED_AROUND_S
        return Pace(measured, around_s, at_most, self._looks_s(), PROBED_S)

    def _looks_s(self) -> float:
        """What a try takes besides its move and its prober's time, as the last ones did."""
        found = []
        with self._tools.rows() as rows:
            for row in rows.workflows(TRY, MEASURED, statuses=("SUCCESS",)):
                for tried in tries_of([row]):
                    ended, guest = leader.became(row), self._tools.inventory.guest(tried.move.guest)
                    if ended.moved and guest is not None:
                        probed_s = PROBED_S if guest.probe is not None else 0.0
                        found.append(max(0.0, (row.ended_ms - row.began_ms) / 1000 - ended.wall_s - probed_s))
        return median(found) if found else evacuation.ASSUMED_LOOKS_S

    def _taken(self, subject: str) -> dict[str, tuple[str, str]]:
        """From which host each guest was taken first, and to which one last. Raises ConfigurationError."""
        since = [m.since_s for m in self._tools.tables.maintenance() if m.subject == subject]
        purposes = (Purpose.EVACUATE, Purpose.DRAIN)
        batches = self._tools.tables.batches(1000)
        of_it = [b for b, _ in batches if b.subject == subject and b.purpose in (*purposes, Purpose.RESTORE)]
        emptied = [b for b in of_it if b.purpose in purposes]
        if not emptied:
            raise ConfigurationError(f"restore {subject}: no batch has emptied it", "vmacro batch list")
        # What went before an earlier `restore` is not brought back by this one: it began when the first of these did.
        # Once more: those that the last one was to bring back, and all that lies between it and the one before.
        again = takewhile(lambda b: b.purpose in purposes, dropwhile(lambda b: b.purpose not in purposes, of_it))
        chosen = [b for b in emptied if b.made_s >= min(since)] if since else [*again]
        taken: dict[str, tuple[str, str]] = {}
        with self._tools.rows() as rows, self._tools.archive() as archive:
            for batch in sorted(chosen, key=lambda b: b.made_s):
                tally = tally_of(rows, batch.batch_id)
                for number, move in enumerate(batch.moves):
                    if number in tally.last and _has_moved(tally.last[number], archive):
                        origin, _ = taken.get(move.guest, (move.source, ""))
                        taken[move.guest] = origin, move.destination
        return taken

    def _tell(self, batch_id: str, state: str, detail: str) -> None:
        self._tools.publish(Event(batch_id, time.time_ns(), BatchChanged(state, detail)))


def _has_moved(became: Became, archive: Archive) -> bool:
    """Also where somebody has finished the move after the batch (`vmacro resume`)."""
    if became.moved or not became.move_id:
        return became.moved
    try:
        record = archive.move(became.move_id)
    except JournalError:
        return False
    return record is not None and record.outcome is not None and record.outcome.ending.moved


def _may_run(survey: Survey) -> bool:
    """Whether a guest that runs nowhere that is known may run where nobody could look."""
    return any(view.trouble for view in survey.views)
