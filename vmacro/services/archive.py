"""Reading the journal: moves, their attempts, their steps. Starts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbos import DBOSClient
from pydantic import TypeAdapter
from sqlalchemy import make_url

from vmacro.errors import VmacroError
from vmacro.model.moves import Carriage, Noted, Outcome, Plan
from vmacro.services.journal import WORKFLOW, Json, noted_from

_PLAN, _OUTCOME, _CARRIAGE = TypeAdapter(Plan), TypeAdapter(Outcome), TypeAdapter(Carriage)


@dataclass(frozen=True)
class Record:
    """One move as the journal has it. `outcome` is its last attempt's, None while that has not ended; times are in ms
    since 1970."""

    plan: Plan
    outcome: Outcome | None
    attempts: int
    began_ms: int
    ended_ms: int

    @property
    def unfinished(self) -> bool:
        return self.outcome is None or self.outcome.remains


class Archive:
    """Before the first move there is no journal, and it is empty."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        missing = url.drivername.startswith("sqlite") and not Path(url.database or "").exists()
        serializer: Any = Json()
        self._client = None if missing else DBOSClient(system_database_url=database_url, serializer=serializer)

    def moves(self, limit: int = 50) -> list[Record]:
        """Newest first."""
        if self._client is None:
            return []
        # Attempts of one move are few; ask for enough of them.
        found = self._client.list_workflows(name=WORKFLOW, sort_desc=True, limit=4 * limit)
        attempts: dict[str, list[Any]] = {}
        for workflow in found:
            attempts.setdefault(workflow.workflow_id.partition("+")[0], []).append(workflow)
        return [_record(of_one[::-1]) for of_one in list(attempts.values())[:limit]]

    def move(self, move_id: str) -> Record | None:
        attempts = self._attempts(move_id)
        return _record(attempts) if attempts else None

    def unfinished(self, guest: str = "") -> list[Record]:
        """Moves, newest first, that have not ended or left work; each its guest's last."""
        seen: set[str] = set()
        found = []
        for record in self.moves():
            name = record.plan.guest.name
            if record.unfinished and name not in seen and guest in ("", name):
                found.append(record)
            seen.add(name)
        return found

    def steps(self, move_id: str) -> list[Noted]:
        """What the last attempt inherited, and what it has done."""
        attempts = self._attempts(move_id)
        if self._client is None or not attempts:
            return []
        last = attempts[-1]
        given = last.input["args"][1:] if last.input else []
        inherited = [noted_from(item) for item in (given[0] if given else [])]
        own = self._client.list_workflow_steps(last.workflow_id)
        return inherited + [_noted(step) for step in own if not step["child_workflow_id"]]

    def give_up(self, move_id: str) -> None:
        """Attempts whose orchestrator is gone are nobody's any more: the next one takes over."""
        for workflow in self._attempts(move_id):
            if self._client is not None and workflow.status == "PENDING":
                self._client.cancel_workflow(workflow.workflow_id)

    def carriages(self) -> list[Carriage]:
        """Those that have not ended, oldest first."""
        if self._client is None:
            return []
        found = self._client.list_workflows(name="carry", status=["ENQUEUED", "PENDING"])
        return [_CARRIAGE.validate_python(w.input["args"][0]) for w in found if w.input]

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()

    def _attempts(self, move_id: str) -> list[Any]:
        """Oldest first."""
        if self._client is None:
            return []
        found = self._client.list_workflows(name=WORKFLOW, workflow_id_prefix=move_id)
        return [w for w in found if w.workflow_id.partition("+")[0] == move_id]


def _record(attempts: list[Any]) -> Record:
    first, last = attempts[0], attempts[-1]
    plan = _PLAN.validate_python(first.input["args"][0])
    outcome = _OUTCOME.validate_python(last.output) if last.output else None
    return Record(plan, outcome, len(attempts), first.created_at or 0, last.updated_at or 0)


def _noted(step: Any) -> Noted:
    error = step["error"]
    if error is not None and not isinstance(error, VmacroError):
        error = VmacroError(str(error))
    times = step["started_at_epoch_ms"] or 0, step["completed_at_epoch_ms"] or 0
    return Noted(step["function_name"], step["output"], error, *times)
