"""What `vmacro follow` does: rounds of looking, deciding, and a batch of moves."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from vmacro import crews, moving, policies, wiring
from vmacro.cli import fleet, render, telling
from vmacro.errors import ConfigurationError, VmacroError, reason_of
from vmacro.fleet.assemble import whole_horizon
from vmacro.fleet.policy import FollowPolicy
from vmacro.inventory import Settings
from vmacro.model.batches import Purpose, Wish
from vmacro.planning.checks import blockers
from vmacro.services import follow, known
from vmacro.services.batches import Batches
from vmacro.services.follow import Decided, Past
from vmacro.services.moves import Moves

POLL_S = 0.5
AFTER_TROUBLE_S = 60.0
MOST_TRIES = 4  # to decide, while a move's checks stand against what was decided


class Follower:
    """One policy, on one inventory. The policy is read anew in each round: whoever changes it need not restart this."""

    def __init__(self, settings: Settings, path: Path, seconds: float, json: bool) -> None:
        self._settings, self._path, self._seconds, self._json = settings, path, seconds, json

    def decide(self) -> Decided:
        """What should be done now, with what the checks of a move say of it. Raises ConfigurationError."""
        wiring.enter(self._settings)
        with self._tools() as (moves, batches):
            return self._decided(moves, batches)

    def show(self, decided: Decided) -> None:
        """What was decided, guest by guest."""
        if self._json:
            render.as_json(_plain(decided))
            return
        for hold in decided.made.holds:
            render.warn(f"{hold.subject}: nothing is decided: {hold.why}")
        for finding in decided.placement.findings:
            render.warn(f"{finding.code}: {finding.subject}: {finding.message}")
        rows = follow.sentences(decided)
        render.table(render.rows("", ("guest", "at", "what and why", "what would have to change"), rows))
        render.say(follow.summary(decided))

    def begin(self, decided: Decided) -> str:
        """The name of the batch of moves. Raises PlanRejectedError."""
        with self._tools() as (_, batches):
            batch = batches.planned(Purpose.FOLLOW, self._subject, decided.moves)
            batches.begin(batch)
            return batch.batch_id

    def run(self) -> int:
        """Rounds until a signal asks for the end; then nothing more begins, what is under way goes on to its end."""
        wiring.enter(self._settings)
        asked = fleet.Asked()
        with ExitStack() as stack:
            log = stack.enter_context(telling.event_log(self._settings))
            worlds = stack.enter_context(wiring.drivers(self._settings))
            stack.enter_context(asked.heeded())
            working = stack.enter_context(crews.working(self._settings, worlds, log, log.append, render.warn))
            batches = stack.enter_context(crews.batches(self._settings, working.moves, log.append))
            while not asked.times:
                every_s = self._round(working.moves, batches, asked)
                until = time.monotonic() + every_s
                while not asked.times and time.monotonic() < until:
                    time.sleep(POLL_S)
            try:
                for name in self._mine(batches):
                    fleet.pause(batches, name)
            finally:  # whether or not the journal can be reached
                fleet.leave(working, asked)
            self._give_up(batches)
        return 0

    def _round(self, moves: Moves, batches: Batches, asked: fleet.Asked) -> float:
        """One; how long to wait for the next. What goes wrong holds all guests until then."""
        try:
            self._give_up(batches)
            decided = self._decided(moves, batches)
            self.show(decided)
            if decided.moves and not decided.is_wrong:
                batch = batches.planned(Purpose.FOLLOW, self._subject, decided.moves)
                batches.begin(batch)
                self._wait(batches, batch.batch_id, asked)
            return policies.load(self._path).timing.every.total_seconds()
        except (VmacroError, SQLAlchemyError) as error:
            said = str(error) if isinstance(error, VmacroError) else f"journal: {reason_of(error)}"
            render.warn(f"vmacro: {said}; this round has ended, the next one is in {AFTER_TROUBLE_S:g} s")
            return AFTER_TROUBLE_S

    def _wait(self, batches: Batches, name: str, asked: fleet.Asked) -> None:
        while name in batches.wishes() and not asked.times:
            time.sleep(POLL_S)
        progress = batches.progress(name)
        text = ", ".join(f"{move.guest} {progress.state(n)}" for n, move in enumerate(progress.batch.moves))
        render.say(f"{name}: {text}")

    def _mine(self, batches: Batches) -> list[str]:
        """Batches of this policy that go on."""
        mine = Purpose.FOLLOW, self._subject
        return [batch.batch_id for batch in batches.going_on() if (batch.purpose, batch.subject) == mine]

    @property
    def _subject(self) -> str:
        """By which this policy's batches are known, on each machine that has it there: files of one name in two folders
        are two policies."""
        folder = hashlib.sha256(os.fsencode(self._path.resolve().parent)).hexdigest()
        return f"{self._path.stem[:200]}@{folder[:8]}"

    def _give_up(self, batches: Batches) -> None:
        """What a round before this one has left undone is decided anew."""
        for name in self._mine(batches):
            progress = batches.progress(name)
            if progress.wish == Wish.PAUSE and not progress.under_way:
                with suppress(ConfigurationError):  # its last move has just ended, and it with that
                    batches.want(name, Wish.ABORT)

    @contextmanager
    def _tools(self) -> Iterator[tuple[Moves, Batches]]:
        with ExitStack() as stack:
            log = stack.enter_context(telling.event_log(self._settings))
            worlds = stack.enter_context(wiring.drivers(self._settings))
            moves = stack.enter_context(moving.moves(self._settings, worlds, log))
            yield moves, stack.enter_context(crews.batches(self._settings, moves, log.append))

    def _decided(self, moves: Moves, batches: Batches) -> Decided:
        policy, now = policies.load(self._path), datetime.now(UTC)
        follow.check_names(policy, self._settings.inventory, str(self._settings.path))
        looked = known.look(policy, wiring.feeds(fetch=True), whole_horizon(policy, now), now)
        for name, trouble in looked.troubles:
            render.warn(f"{name}: not renewed: {trouble}")
        with wiring.drivers(self._settings) as worlds, worlds(lambda _event: None, lambda: False) as world:
            past = self._past(policy, batches, now)
            standing = follow.look(policy, self._settings.inventory, world, past, now)
        for _ in range(MOST_TRIES):
            decided = follow.decide(policy, looked.known, standing, now, self._seconds, time.monotonic)
            against = self._against(decided, moves)
            if not against:
                return decided
            standing = standing.held(against)
        return replace(decided, moves=())

    def _past(self, policy: FollowPolicy, batches: Batches, now: datetime) -> Past:
        since_ms = int(follow.remembers(policy, now).timestamp() * 1000)
        with wiring.archive(self._settings) as archive:
            records = tuple(record for guest in policy.guests for record in archive.recent(guest.name, since_ms))
        return Past(records, batches.going_on(), batches.maintenance())

    def _against(self, decided: Decided, moves: Moves) -> dict[str, str]:
        """What a move's own checks say against those that were decided, by guest."""
        found = {}
        for move in decided.moves:
            where = f"{move.destination_site}/{move.destination}"
            stops = blockers(moves.check(wiring.request(self._settings, move.guest, where)).findings)
            if stops:
                found[move.guest] = f"checks stand against {where}: {stops[0].code}: {stops[0].message}"
        return found


def _plain(decided: Decided) -> dict[str, object]:
    """For programs."""
    now = {move.guest: f"{move.destination_site}/{move.destination}" for move in decided.moves}
    later = {d.guest: d.visits[1] for d in decided.placement.decisions if d.moves and d.guest not in now}
    return {
        "holds": [{"subject": hold.subject, "why": hold.why} for hold in decided.made.holds],
        "findings": [vars(finding) | {"severity": finding.severity.value} for finding in decided.placement.findings],
        "cost": decided.placement.cost,
        "staying": decided.placement.staying,
        "guests": [
            {"guest": guest, "at": at, "to": now.get(guest), "why": why, "change": change}
            | ({"later": {"to": f"{v.site}/{v.host}", "at": v.begin.isoformat()}} if (v := later.get(guest)) else {})
            for guest, at, why, change in follow.sentences(decided)
        ],
    }
