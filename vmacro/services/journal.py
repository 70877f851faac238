"""The durable log: DBOS on SQLite, or on PostgreSQL where several orchestrators share the work.

Every step's result is JSON in it. There is no second journal: `history` and `show` read this one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dbos import DBOS, DBOSClient, SetWorkflowID
from pydantic import TypeAdapter
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from vmacro import __version__
from vmacro.errors import ConfigurationError, VmacroError
from vmacro.model.moves import Carriage, Outcome, Plan
from vmacro.ports import World
from vmacro.services import carry, migrate

Result = TypeVar("Result")
APPLICATION = "vmacro"
WORKFLOW = "migrate"
CARRIAGES = "carriages"
CARRIER = "vmacro-carrier"
_PLAN, _OUTCOME, _CARRIAGE = TypeAdapter(Plan), TypeAdapter(Outcome), TypeAdapter(Carriage)


class Json:
    """DBOS would pickle. A journal that anybody may have written to must not run code when read."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=_exception_as_plain)

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data, object_hook=_plain_as_exception)

    def name(self) -> str:
        return "vmacro_json"


@dataclass(frozen=True)
class Step:
    name: str
    began_ms: int
    ended_ms: int
    error: str


@dataclass(frozen=True)
class Record:
    """One move as the journal has it; `outcome` is None while it has not ended."""

    plan: Plan
    outcome: Outcome | None
    status: str
    began_ms: int
    ended_ms: int


class _Steps:
    """Implements migrate.Journal by DBOS steps."""

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        adapter = TypeAdapter(kind)
        plain = DBOS.run_step({"name": name}, lambda: adapter.dump_python(act(), mode="json"))
        return adapter.validate_python(plain)


_world: World | None = None


@DBOS.workflow(name=WORKFLOW)
def _workflow(plan: dict[str, Any]) -> dict[str, Any]:
    assert _world is not None, "open_journal() sets the world before any workflow runs"
    chosen = _PLAN.validate_python(plan)
    outcome = migrate.tell_the_story(chosen, _world, _Steps())
    began_s = _Steps().step("carry", float, time.time) if outcome.carried else 0.0
    for carriage in carry.carriages(chosen, outcome, began_s):
        with SetWorkflowID(f"carry-{carriage.address}-{carriage.move_id}"):
            DBOS.enqueue_workflow(CARRIAGES, _carry, _CARRIAGE.dump_python(carriage, mode="json"))
    return dict(_OUTCOME.dump_python(outcome, mode="json"))


@DBOS.workflow(name="carry")
def _carry(carriage: dict[str, Any]) -> str:
    assert _world is not None, "open_journal() sets the world before any workflow runs"
    return carry.tell_the_story(_CARRIAGE.validate_python(carriage), _world, _Steps())


@contextmanager
def open_journal(database_url: str, world: World, executor: str) -> Iterator[None]:
    """DBOS, launched. One executor name a process: it takes over nobody else's moves by itself.

    Under the name CARRIER it works on carriages, those too that it had begun when it last ended.
    """
    global _world
    logging.getLogger("dbos").setLevel(logging.ERROR)
    _world = world
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": database_url,
            "executor_id": executor,
            "application_version": __version__,
            "log_level": "ERROR",
            "serializer": Json(),  # type: ignore[typeddict-item]
        }
    )
    DBOS.listen_queues([CARRIAGES] if executor == CARRIER else [])
    try:
        DBOS.launch()
        DBOS.register_queue(CARRIAGES)
        yield
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=0)
        _world = None


class Running:
    """A move under way."""

    def __init__(self, plan: Plan) -> None:
        with SetWorkflowID(plan.move_id):
            self._handle = DBOS.start_workflow(_workflow, _PLAN.dump_python(plan, mode="json"))

    def result(self) -> Outcome:
        return _OUTCOME.validate_python(self._handle.get_result())


class Archive:
    """Reading the journal; starts nothing. Before the first move there is none, and it is empty."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        missing = url.drivername.startswith("sqlite") and not Path(url.database or "").exists()
        serializer: Any = Json()
        self._client = None if missing else DBOSClient(system_database_url=database_url, serializer=serializer)

    def moves(self, limit: int = 50) -> list[Record]:
        if self._client is None:
            return []
        found = self._client.list_workflows(name=WORKFLOW, sort_desc=True, limit=limit)
        return [_record(w) for w in found]

    def move(self, move_id: str) -> Record | None:
        found = self._client.list_workflows(workflow_ids=[move_id]) if self._client else []
        return _record(found[0]) if found else None

    def steps(self, move_id: str) -> list[Step]:
        steps = self._client.list_workflow_steps(move_id) if self._client else []
        return [
            Step(
                s["function_name"],
                s["started_at_epoch_ms"] or 0,
                s["completed_at_epoch_ms"] or 0,
                str(s["error"] or ""),
            )
            for s in steps
        ]

    def carriages(self) -> list[Carriage]:
        """Those that have not ended, oldest first."""
        if self._client is None:
            return []
        found = self._client.list_workflows(name="carry", status=["ENQUEUED", "PENDING"])
        return [_CARRIAGE.validate_python(w.input["args"][0]) for w in found if w.input]

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()


@contextmanager
def explained(database_url: str) -> Iterator[None]:
    """The database's own errors as one of ours, the password left out."""
    try:
        yield
    except SQLAlchemyError as error:
        shown = make_url(database_url).render_as_string(hide_password=True)
        first = str(error).splitlines()[0]
        raise ConfigurationError(f"journal {shown}: {first}", "orchestrator.database_url, or state_dir") from error


def _record(workflow: Any) -> Record:
    plan = _PLAN.validate_python(workflow.input["args"][0])
    outcome = _OUTCOME.validate_python(workflow.output) if workflow.output else None
    ended = workflow.updated_at or 0
    return Record(plan, outcome, str(workflow.status), workflow.created_at or 0, ended)


def _exception_as_plain(value: object) -> object:
    if isinstance(value, BaseException):
        hint = value.hint if isinstance(value, VmacroError) else ""
        message = value.message if isinstance(value, VmacroError) else str(value)
        return {"__error__": type(value).__name__, "message": message, "hint": hint}
    raise TypeError(f"{type(value).__name__} does not belong in the journal")


def _plain_as_exception(item: dict[str, Any]) -> Any:
    if "__error__" not in item:
        return item
    kinds = {k.__name__: k for k in _all_errors(VmacroError)}
    kind = kinds.get(item["__error__"])
    if kind is None:
        return RuntimeError(f"{item['__error__']}: {item['message']}")
    return kind(item["message"], item["hint"])


def _all_errors(root: type[VmacroError]) -> list[type[VmacroError]]:
    return [root, *(e for sub in root.__subclasses__() for e in _all_errors(sub))]
