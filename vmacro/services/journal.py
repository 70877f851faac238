"""The durable log: DBOS on SQLite, or on PostgreSQL where several orchestrators share the work.

Every step's result is JSON in it. There is no second journal: `history` and `show` read this one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from dbos import DBOS, SetWorkflowID
from pydantic import TypeAdapter
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from vmacro import __version__
from vmacro.errors import ConfigurationError, JournalError, VmacroError
from vmacro.model.moves import Carriage, Ending, Noted, Outcome, Plan
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


class Steps:
    """Implements phases.Journal by DBOS steps, after those that earlier attempts have left."""

    def __init__(self, inherited: Iterable[Noted] = ()) -> None:
        self._inherited = {noted.name: noted for noted in inherited}

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        adapter = TypeAdapter(kind)
        noted = self._inherited.get(name)
        if noted is not None and noted.error is not None:
            raise noted.error
        if noted is not None:
            return adapter.validate_python(noted.result)
        try:
            plain = DBOS.run_step({"name": name}, lambda: adapter.dump_python(act(), mode="json"))
        except SQLAlchemyError as error:
            raise JournalError(f"the journal cannot be written: {str(error).splitlines()[0]}") from error
        return adapter.validate_python(plain)


_world: World | None = None
_ended: dict[str, Outcome] = {}  # of this process, for when the journal cannot keep them


@DBOS.workflow(name=WORKFLOW)
def _workflow(plan: dict[str, Any], inherited: list[dict[str, Any]]) -> dict[str, Any]:
    assert _world is not None, "open_journal() sets the world before any workflow runs"
    chosen, steps = _PLAN.validate_python(plan), Steps(noted_from(item) for item in inherited)
    outcome = migrate.tell_the_story(chosen, _world, steps, again=bool(inherited))
    _ended[str(DBOS.workflow_id)] = outcome
    began_s = steps.step("carry", float, time.time) if outcome.carried else 0.0
    for carriage in carry.carriages(chosen, outcome, began_s):
        with SetWorkflowID(f"carry-{carriage.address}-{carriage.move_id}"):
            DBOS.enqueue_workflow(CARRIAGES, _carry, _CARRIAGE.dump_python(carriage, mode="json"))
    return dict(_OUTCOME.dump_python(outcome, mode="json"))


@DBOS.workflow(name="carry")
def _carry(carriage: dict[str, Any]) -> str:
    assert _world is not None, "open_journal() sets the world before any workflow runs"
    return carry.tell_the_story(_CARRIAGE.validate_python(carriage), _world, Steps())


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


def run(plan: Plan, attempt: int = 1, inherited: Iterable[Noted] = ()) -> Outcome:
    """One attempt at a move, to its end. Each is a workflow of its own: MOVE_ID, then MOVE_ID+2 and so on."""
    name = plan.move_id if attempt == 1 else f"{plan.move_id}+{attempt}"
    with SetWorkflowID(name):
        arguments = _PLAN.dump_python(plan, mode="json"), [noted_as_plain(n) for n in inherited]
        handle = DBOS.start_workflow(_workflow, *arguments)
    try:
        return _OUTCOME.validate_python(handle.get_result())
    except (SQLAlchemyError, JournalError) as error:
        if name not in _ended:
            raise
        text = f"the journal cannot be written: {str(error).splitlines()[0]}"
        known = _ended[name]
        ending = Ending.INCOMPLETE if known.ending == Ending.MOVED else known.ending
        return replace(known, ending=ending, reason=known.reason or text, remains=True)


@contextmanager
def explained(database_url: str) -> Iterator[None]:
    """The database's own errors as one of ours, the password left out."""
    try:
        yield
    except SQLAlchemyError as error:
        shown = make_url(database_url).render_as_string(hide_password=True)
        first = str(error).splitlines()[0]
        raise ConfigurationError(f"journal {shown}: {first}", "orchestrator.database_url, or state_dir") from error


def noted_as_plain(noted: Noted) -> dict[str, Any]:
    """As an attempt keeps what it inherits."""
    error = _exception_as_plain(noted.error) if noted.error is not None else None
    times = {"began_ms": noted.began_ms, "ended_ms": noted.ended_ms}
    return {"name": noted.name, "result": noted.result, "error": error, **times}


def noted_from(item: dict[str, Any]) -> Noted:
    """Undo noted_as_plain(), read from JSON or not."""
    error = item["error"]
    error = _plain_as_exception(error) if isinstance(error, dict) else error
    return Noted(item["name"], item["result"], error, item["began_ms"], item["ended_ms"])


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
