"""Reading the journal: moves, their attempts, their steps. Starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from vmacro.errors import ConfigurationError, JournalError, reason_of
from vmacro.model.facts import NO_PAST, HomedAddress, Lingering, Past, PastCopy
from vmacro.model.moves import Carriage, Ending, Noted, Outcome, Plan
from vmacro.model.nouns import Compression, Guest
from vmacro.services import journal_json
from vmacro.services.journal_rows import CARRY, ENDED, MIGRATE, TRY, WAITING, Rows, StepRow, WorkflowRow
from vmacro.wire.messages import is_identifier
from vmacro.wire.text import printable

_CANNOT = "what the journal has of it"
MOST_COPIES = 20  # earlier ones of a guest: what forecasts look at


@dataclass(frozen=True)
class Record:
    """One move as the journal has it. `outcome`: of its last attempt, None while that has not ended; times are in ms
    since 1970. `older`: the plan was written by an older vmacro, and its legs and addresses cannot be read."""

    plan: Plan
    outcome: Outcome | None
    attempts: int
    began_ms: int
    ended_ms: int
    older: bool = False

    @property
    def move_id(self) -> str:
        """Its name."""
        return self.plan.move_id

    @property
    def guest(self) -> str:
        """The name of the guest that moves."""
        return self.plan.guest.name

    @property
    def unfinished(self) -> bool:
        """Whether there is work left, or it never ended."""
        return self.outcome is None or self.outcome.remains

    def see_that_it_is_whole(self) -> None:
        """To be called before work goes on with the plan. Raises JournalError if parts of it cannot be read."""
        if self.older:
            text = f"move {self.plan.move_id}: written by an older vmacro; nothing was changed"
            raise JournalError(text, "finish it with that one: vmacro resume, or vmacro abort")


@dataclass(frozen=True)
class Unreadable:
    """A move that the journal has, and of which it cannot be told what it is; `trouble` says why."""

    move_id: str
    attempts: int
    began_ms: int
    trouble: str

    @property
    def guest(self) -> str:
        """The name of the guest that moves, or how that begins: all that the move's own name says (planner.move_id)."""
        return _guest_of(self.move_id)

    def is_of(self, guest: str) -> bool:
        """Whether it may be this guest's."""
        return self.guest == guest[:40] != ""

    def error(self) -> JournalError:
        """For whoever needs to read it."""
        hint = "a newer vmacro may be able to read it: vmacro history"
        return JournalError(f"move {self.move_id}: {self.trouble}; nothing was changed", hint)


@dataclass(frozen=True)
class UnreadableCarriage:
    """An address that is in use after a move, of which no more can be told than its workflow's name says."""

    move_id: str
    address: str
    trouble: str

    def is_of(self, guest: str) -> bool:
        """Whether it may be this guest's."""
        return _guest_of(self.move_id) == guest[:40] != ""


@dataclass(frozen=True)
class _Attempt:
    """One attempt, as far as it can be read; the troubles say why not further."""

    began_ms: int
    ended_ms: int
    plan: Plan | None
    older: bool
    outcome: Outcome | None
    plan_trouble: str
    outcome_trouble: str


def see_that_it_may_name_a_move(text: str) -> None:
    """Raises ConfigurationError where no move can have this name."""
    if not is_identifier(text):
        raise ConfigurationError(f"move {text!r}: no move has such a name", "`vmacro history` lists them")


class Archive:
    """The journal, read only. It is empty before the first move, when there is no database yet. A row that cannot be
    read is told with its name, and hides no other."""

    def __init__(self, database_url: str) -> None:
        """Raises JournalError where it cannot be seen whether there is a database."""
        url = make_url(database_url)
        try:
            missing = url.drivername.startswith("sqlite") and not Path(url.database or "").exists()
        except OSError as error:
            raise JournalError(f"journal {url.database}: {reason_of(error)}", "orchestrator.state_dir") from error
        self.database_url = database_url
        self._rows = None if missing else Rows(url)

    def moves(self, limit: int = 50) -> list[Record | Unreadable]:
        """The last `limit` moves, newest first."""
        # Attempts of one move are few; ask for enough of them.
        return [] if self._rows is None else _moves(self._rows.workflows(MIGRATE, 4 * limit))[:limit]

    def readable(self, limit: int) -> list[Record]:
        """As moves(), of guests of which every move can be read."""
        found = self.moves(limit)
        unreadable = [r for r in found if isinstance(r, Unreadable)]
        return [r for r in found if isinstance(r, Record) and not any(u.is_of(r.guest) for u in unreadable)]

    def move(self, move_id: str) -> Record | None:
        """One move; None if the journal does not have it. Raises ConfigurationError for what is no move's name,
        JournalError if it cannot be read."""
        see_that_it_may_name_a_move(move_id)
        for record in _moves(self._attempts(move_id)):
            if isinstance(record, Unreadable):
                raise record.error()
            return record
        return None

    def unfinished(self, guest: str = "") -> list[Record]:
        """Moves that have not ended or left work, newest first; of each guest only its last move counts. Raises
        JournalError where the last move of the guest that is asked about cannot be read."""
        if self._rows is None:
            return []
        seen: set[str] = set()
        found = []
        for record in _moves(self._rows.workflows(MIGRATE, prefix=f"{guest[:40]}-" if guest else "")):
            if isinstance(record, Unreadable):
                if record.is_of(guest) and guest not in seen:
                    raise record.error()
            elif record.unfinished and record.guest not in seen and guest in ("", record.guest):
                found.append(record)
            seen.add(record.guest)
        return found

    def last(self, guest: str) -> Record | None:
        """A guest's move that was begun last, None where there is none. Raises JournalError if it cannot be read."""
        rows = self._rows.workflows(MIGRATE, prefix=f"{guest[:40]}-") if self._rows is not None else ()
        for record in _moves(rows):
            if isinstance(record, Unreadable) and record.is_of(guest):
                raise record.error()
            if isinstance(record, Record) and record.guest == guest:
                return record
        return None

    def recent(self, guest: str, since_ms: int) -> list[Record | Unreadable]:
        """A guest's moves that had not ended by then, and in any case its last one, the newest first. Also those that
        cannot be read, and may be its own."""
        rows = self._rows.workflows(MIGRATE, prefix=f"{guest[:40]}-") if self._rows is not None else ()
        found = _moves(_until(rows, guest, since_ms))
        return [r for r in found if (r.is_of(guest) if isinstance(r, Unreadable) else r.guest == guest)]

    def later(self, record: Record) -> str:
        """The last move of the same guest that was begun after this one, and did not roll back; '' where there is none.
        Raises JournalError where one that may be such cannot be read."""
        rows = self._rows.workflows(MIGRATE, prefix=f"{record.guest[:40]}-") if self._rows is not None else ()
        # SQLite knows whole seconds: a move that is not rolled back takes longer than one.
        found = [r for r in _moves(rows) if r.move_id != record.move_id and r.began_ms >= record.began_ms]
        for other in sorted(found, key=lambda r: -r.began_ms):
            if isinstance(other, Unreadable) and other.is_of(record.guest):
                raise other.error()
            if isinstance(other, Unreadable) or other.guest != record.guest:
                continue
            if other.outcome is None or other.outcome.ending != Ending.ROLLED_BACK:
                return other.move_id
        return ""

    def steps(self, move_id: str) -> list[Noted]:
        """The steps that the last attempt took over from earlier ones, and its own. Raises JournalError."""
        last = next(iter(self._attempts(move_id)), None)
        if self._rows is None or last is None:
            return []
        subject = f"move {move_id}: {_CANNOT}"
        inputs = _arguments(last, subject)
        taken_over = inputs[1] if len(inputs) > 1 and isinstance(inputs[1], list) else []
        inherited = [journal_json.noted_from(item, subject) for item in taken_over]
        return [*inherited, *(_noted(row, subject) for row in self._rows.steps(last.name))]

    def cut_off(self, move_id: str) -> list[str]:
        """Attempts that have not ended, by the names of their rows."""
        return [row.name for row in self._attempts(move_id) if row.status == "PENDING"]

    def carriages(self) -> list[Carriage | UnreadableCarriage]:
        """Old addresses that are still carried, oldest first; of several attempts at a move the first one's."""
        first: dict[tuple[type, str, str], Carriage | UnreadableCarriage] = {}
        for carriage in self._carrying():
            first.setdefault((type(carriage), carriage.move_id, carriage.address), carriage)
        return [*first.values()]

    def past(self, guest: Guest) -> Past:
        """What this journal's moves have made for a guest. A move that cannot be read has made nothing that anybody may
        act on. Raises JournalError where a carriage that may be the guest's cannot be read."""
        if self._rows is None:
            return NO_PAST
        listed = _moves(self._rows.workflows(MIGRATE, prefix=f"{guest.name[:40]}-"))
        plans = [r.plan for r in listed if isinstance(r, Record) and r.guest == guest.name]
        mine: list[Carriage] = []
        for carriage in self._carrying():
            if isinstance(carriage, Carriage):
                mine += [carriage] if carriage.guest.name == guest.name else []
            elif carriage.is_of(guest.name):
                raise JournalError(f"carriage {carriage.trouble}; nothing was changed", "vmacro carried")
        legs = tuple(leg for plan in plans for leg in (*plan.new_legs, *plan.old_legs))
        carried = dict.fromkeys(HomedAddress(c.address, c.home) for c in mine)
        lingering = [(c.address, 0.0 if c.named else c.lingers_until_s) for c in mine if c.named or c.lingers_until_s]
        copies = [_copy(r.plan, r.outcome) for r in listed if isinstance(r, Record) and r.guest == guest.name]
        arrived = tuple(copy for copy in copies if copy is not None)[:MOST_COPIES]
        return Past(legs, tuple(carried), tuple(Lingering(*item) for item in lingering), arrived)

    def outlived(self, before_ms: int, batches: frozenset[str] = frozenset()) -> tuple[int, list[str]]:
        """How many moves ended before then; and the names of their rows, with their attempts and carriages, and of
        tries of all batches but these.

        What has not ended or cannot be read stays, and the last move of each guest; so do moves of which a carriage
        is under way or a move that stays has legs, since only the journal tells whose a leg is. Raises what the
        database raises.
        """
        if self._rows is None:
            return 0, []
        records = _moves(self._rows.workflows(MIGRATE))
        kept = _needed(records, before_ms) | {carriage.move_id for carriage in self._carrying()}
        old = {r.move_id for r in records} - kept
        attempts = self._rows.workflows(MIGRATE) if old else ()
        names = [row.name for row in attempts if row.name.partition("+")[0] in old]
        carried = self._rows.workflows(CARRY, statuses=ENDED)
        names += [row.name for row in carried if 0 < row.ended_ms < before_ms]
        tried = self._rows.workflows(TRY, statuses=ENDED)
        names += [row.name for row in tried if 0 < row.ended_ms < before_ms and _batch_of(row.name) not in batches]
        return len(old), names

    def close(self) -> None:
        """Let go of the database."""
        if self._rows is not None:
            self._rows.close()

    def _carrying(self) -> list[Carriage | UnreadableCarriage]:
        """Oldest first."""
        return [] if self._rows is None else [*map(_carriage, self._rows.workflows(CARRY, statuses=WAITING))][::-1]

    def _attempts(self, move_id: str) -> Iterable[WorkflowRow]:
        """Newest first."""
        return [] if self._rows is None else self._rows.executions(MIGRATE, move_id)


def _moves(rows: Iterable[WorkflowRow]) -> list[Record | Unreadable]:
    """Of attempts, newest first; so are the moves. What a row holds is kept no longer than it takes to read it."""
    by_move: dict[str, list[_Attempt]] = {}
    for row in rows:
        by_move.setdefault(row.name.partition("+")[0], []).append(_attempt(row))
    return [_record(name, attempts) for name, attempts in by_move.items()]


def _until(rows: Iterable[WorkflowRow], guest: str, since_ms: int) -> Iterator[WorkflowRow]:
    """A guest has one move at a time: what was begun before one that had ended by then had so, too. Of a name that is
    cut in moves' names (planner.move_id), all."""
    for row in rows:
        yield row
        if _guest_of(row.name) == guest[:39] and 0 < row.ended_ms < since_ms:
            return


def _needed(records: list[Record | Unreadable], before_ms: int) -> set[str]:
    """Moves, newest first, that are not to be forgotten yet."""
    latest = {r.guest: r.move_id for r in reversed(records) if isinstance(r, Record)}
    kept: set[str] = set()
    for record in records:
        if isinstance(record, Unreadable):
            kept.add(record.move_id)  # a person must look
            continue
        is_over = record.outcome is not None and 0 < record.ended_ms < before_ms
        if not is_over or latest[record.guest] == record.move_id:
            plan = record.plan
            legs = (*plan.new_legs, *plan.old_legs, *plan.earlier_legs)
            kept |= {record.move_id, *(leg.move_id for leg in legs)}
    return kept


def _attempt(row: WorkflowRow) -> _Attempt:
    subject, name = _CANNOT, row.name.partition("+")[0]
    plan, older, outcome, plan_trouble, outcome_trouble = None, False, None, "", ""
    try:
        plan, older = journal_json.plan_from(_arguments(row, subject)[0], subject)
        if plan.move_id != name:
            raise JournalError(f"{subject} cannot be read: it is the plan of {plan.move_id}")
    except JournalError as error:
        plan_trouble = error.message
    try:
        outcome = journal_json.outcome_from(found, subject) if (found := row.output.loaded(subject)) else None
    except JournalError as error:
        outcome_trouble = error.message
    return _Attempt(row.began_ms, row.ended_ms, plan, older, outcome, plan_trouble, outcome_trouble)


def _record(name: str, attempts: list[_Attempt]) -> Record | Unreadable:
    last, first = attempts[0], attempts[-1]
    trouble = first.plan_trouble or last.outcome_trouble
    if first.plan is None or trouble:
        return Unreadable(printable(name), len(attempts), first.began_ms, trouble)
    return Record(first.plan, last.outcome, len(attempts), first.began_ms, last.ended_ms, first.older)


def _carriage(row: WorkflowRow) -> Carriage | UnreadableCarriage:
    try:
        return journal_json.carriage_from(_arguments(row, _CANNOT)[0], _CANNOT)
    except JournalError as error:
        address, _, attempt = row.name.removeprefix("carry-").partition("-")
        move_id = attempt.partition("+")[0]
        return UnreadableCarriage(printable(move_id), printable(address), f"{printable(row.name)}: {error.message}")


def _copy(plan: Plan, outcome: Outcome | None) -> PastCopy | None:
    """None where it has not arrived, or its figures are not known, or it was planned by a vmacro that compressed
    nothing, and said so nowhere."""
    if outcome is None or outcome.statistics is None:
        return None
    named, method = (plan.source.name, plan.destination.name), plan.policy.compression
    return PastCopy(*named, method, plan.memory_mib, outcome.statistics) if method != Compression.AUTO else None


def _batch_of(tried: str) -> str:
    """Whose a try is, by its own name (model.batches.Try)."""
    return tried.rpartition("+")[0].rpartition("-")[0]


def _guest_of(move_id: str) -> str:
    """How the guest's name begins, which is all that a move's name says of it (planner.move_id)."""
    return move_id.rsplit("-", 3)[0]


def _arguments(row: WorkflowRow, subject: str) -> list[Any]:
    """What a workflow was begun with. Raises JournalError."""
    inputs = row.inputs.loaded(subject)
    arguments = inputs.get("args") if isinstance(inputs, dict) else None
    if not isinstance(arguments, list) or not arguments:
        raise JournalError(f"{subject} cannot be read: it lacks the arguments of a workflow")
    return arguments


def _noted(row: StepRow, subject: str) -> Noted:
    subject, written = f"{subject}: step {row.name}", row.error.loaded(subject)
    error = journal_json.error_from(written) if written is not None else None
    result = journal_json.result_from(row.name, row.output.loaded(subject), subject) if error is None else None
    return Noted(row.name, result, error, row.began_ms, row.ended_ms)
