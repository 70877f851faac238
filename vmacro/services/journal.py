"""The durable log: DBOS on SQLite, or on PostgreSQL where several orchestrators share the work.

Every step's result is JSON in it. There is no second journal: `history` and `show` read this one. Which workflows
there are is not known here: services/workflows.py registers them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import dbos._core
import dbos._dbos
import dbos._sys_db
import psycopg
from dbos import DBOS, SetWorkflowID
from dbos._error import DBOSBaseException, DBOSException
from dbos._outcome import DeferredResult, NoResult
from dbos._utils import retriable_postgres_exception
from sqlalchemy.exc import SQLAlchemyError

from vmacro.errors import JournalError, VmacroError, reason_of
from vmacro.model.moves import Noted
from vmacro.ports import World
from vmacro.services import waiting
from vmacro.services.executions import Executions, Suspended
from vmacro.services.journal_json import decoded, encoded
from vmacro.services.serializer import Json
from vmacro.wire.text import printable

Result = TypeVar("Result")
MakeWorld = Callable[[], AbstractContextManager[World]]
APPLICATION = "vmacro"
CARRIAGES, TRIES = "carriages", "tries"  # queues
CARRIER = "vmacro-carrier"
# DBOS works on rows of its own application_version alone. Carriages outlive upgrades, so that it must never change:
# those of an older vmacro would be carried for ever.
ROWS = "0.1.0"
PARKED_S = 10.0
LEAVE_S = 30.0  # what a carriage asks of hosts and guests is answered or given up by then
_LOOK_EVERY_S = 0.2
TRIES_EVERY_S = 0.2  # how often a worker looks for another move of a batch


class Steps:
    """Implements phases.Journal by DBOS steps, after those that earlier attempts have left."""

    def __init__(self, inherited: Iterable[Noted] = ()) -> None:
        self._inherited = {noted.name: noted for noted in inherited}

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        """See phases.Journal."""
        noted = self._inherited.get(name)
        if noted is not None and noted.error is not None:
            raise noted.error
        plain = noted.result if noted is not None else _run_step(name, _Act(act))
        result: Result = decoded(kind, plain, f"{DBOS.workflow_id}: step {name}")
        return result


class _Act(Generic[Result]):
    """What a step does; `error` is what it raised, to tell that from what DBOS raises."""

    def __init__(self, act: Callable[[], Result]) -> None:
        self._act = act
        self.error: BaseException | None = None

    def __call__(self) -> Any:
        try:
            return encoded(self._act())
        except BaseException as error:
            self.error = error
            raise


def _run_step(name: str, act: _Act[Any]) -> Any:
    """Raises what the act raises; JournalError where the journal cannot be written, or has something of the step that
    nobody can have written for it."""
    try:
        return DBOS.run_step({"name": name}, act)
    except VmacroError:
        raise
    except SQLAlchemyError as error:
        raise JournalError(f"the journal cannot be written: {reason_of(error)}") from error
    except DBOSBaseException as error:  # which would end the workflow where it is
        raise _taken(present_id(), error.message) from error
    except Exception as error:
        if error is act.error:
            raise  # a bug is no trouble of the journal's
        text = f"{DBOS.workflow_id}: step {name}: what the journal has of it cannot be used: {reason_of(error)}"
        raise JournalError(text) from error


def _taken(workflow_id: str, what: str) -> JournalError:
    text = f"workflow {workflow_id}: its row was changed by somebody else: {what}"
    return JournalError(printable(text, 1000), "who may write to the journal's database?")


@dataclass
class _Open:
    """What workflows of this process work with. `worlds`: of those that run() has started, by workflow id; all others
    DBOS has begun by itself, since a row of the journal says so, and they get a world made for them. `results`: for
    when the journal cannot keep them."""

    make_world: MakeWorld
    crew: Any = None
    worlds: dict[str, World] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    executions: Executions = field(default_factory=Executions)
    leaving: bool = False

    def execute(self, workflow_id: str, by_itself: bool, body: Callable[[World], Any]) -> Any:
        """Rows that are put back while they are worked on have DBOS begin them once more, beside the first time."""
        known = self.worlds.get(workflow_id)
        if known is None and not by_itself:
            text = f"workflow {workflow_id}: nobody has asked for it but a row of the journal; it was not begun"
            raise JournalError(text, "who may write to the journal's database?")

        def act() -> Any:
            with nullcontext(known) if known is not None else self.make_world() as world:
                return body(world)

        return (self.executions.one_by_one if known is None else self.executions.once)(workflow_id, act)


_open: _Open | None = None  # DBOS, too, is one per process
_opening = threading.Lock()


def workflow(name: str, by_itself: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a durable workflow under a name that must never change: body(world, *plain arguments) returns what JSON
    can hold. Other processes and later versions find it by its name. `by_itself`: DBOS may begin it where a row of the
    journal says so; else only run() does. A row that is put back while it is worked on begins it no second time."""

    def register(body: Callable[..., Any]) -> Callable[..., Any]:
        @DBOS.workflow(name=name)
        def durable(*arguments: Any) -> Any:
            with _not_after_the_end() as opened:
                return opened.execute(present_id(), by_itself, lambda world: body(world, *arguments))

        return durable

    return register


@contextmanager
def _not_after_the_end() -> Iterator[_Open]:
    """What a workflow of this process works with. Once its journal is closed, nothing that it meets can be its end.
    Raises Suspended then."""
    opened = _open
    if opened is None or opened.leaving:
        raise Suspended
    try:
        yield opened
    except Exception:
        if _open is not opened:
            raise Suspended from None
        raise


def work(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As workflow(), of what the crew of this process does (open_journal): body(crew, *plain arguments)."""

    def register(body: Callable[..., Any]) -> Callable[..., Any]:
        @DBOS.workflow(name=name)
        def durable(*arguments: Any) -> Any:
            opened = _opened()
            if opened.crew is None:
                raise JournalError(f"workflow {present_id()}: this process works on no batches; it was not begun")
            return opened.executions.one_by_one(present_id(), lambda: body(opened.crew, *arguments))

        return durable

    return register


@contextmanager
def open_journal(
    database_url: str, make_world: MakeWorld, executor: str, crew: Any = None, at_once: int = 1
) -> Iterator[None]:
    """DBOS, launched. One executor name per process: it takes over nobody else's moves by itself.

    `make_world` is for workflows that DBOS begins: under the name CARRIER it works on carriages, those too that it
    had begun when it last ended; in the end their worlds must be cancelled, and it waits until they have left. With a
    `crew` it works on moves of batches, `at_once` so many. Raises JournalError where this process has a journal open
    already.
    """
    global _open
    with _opening:
        if _open is not None:
            raise JournalError("this process has a journal open already", "one session per process")
        _open = _Open(make_world, crew)
    try:
        _launch(database_url, executor, [TRIES] if crew is not None else [CARRIAGES] if executor == CARRIER else [])
        if crew is not None:
            DBOS.register_queue(
                TRIES, worker_concurrency=at_once, polling_interval_sec=TRIES_EVERY_S, on_conflict="always_update"
            )
        yield
    finally:
        _open.leaving = True
        if executor == CARRIER:
            _open.executions.have_left(LEAVE_S)
        DBOS.destroy(workflow_completion_timeout_sec=0)
        logging.getLogger("dbos").handlers.clear()  # which write to what standard error was when DBOS was launched
        _open = None


def _launch(database_url: str, executor: str, queues: list[str]) -> None:
    logging.getLogger("dbos").setLevel(logging.ERROR)
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": database_url,
            "executor_id": executor,
            "application_version": ROWS,
            "log_level": "ERROR",
            # Of DBOS's messages, of which there are none here; only the end of a journal waits for the next look.
            "notification_listener_polling_interval_sec": 0.1,
            "serializer": Json(),  # type: ignore[typeddict-item]
        }
    )
    for handler in logging.getLogger("dbos").handlers:
        handler.setFormatter(_OneLine())
    DBOS.listen_queues(queues)
    DBOS.launch()
    DBOS.register_queue(CARRIAGES)


class _OneLine(logging.Formatter):
    """What DBOS says of a row is for an operator, not for who has DBOS's source: no traceback, nothing raw of a row."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        said = f"{record.getMessage()}{f' {reason_of(error)}' if error is not None else ''}"
        return printable(f"journal: {' '.join(said.split())}")


def _no_schedules(_stop: threading.Event, _every_s: float) -> None:
    """vmacro has none: a row that made one would begin what it likes, or end DBOS's own scheduler in a traceback."""


def _parked(
    of: DBOS, workflow_id: str, *, fail_if_missing: bool = False, shard_key: str | None = None
) -> DeferredResult[Any]:
    """What the row of a workflow says in the end that was executed here, and whose row is no longer this execution's.
    DBOS would wait for that without limit, and so would whoever asked for the move, and the end of the process. Raises
    JournalError."""

    def wait() -> Any:
        until = time.monotonic() + PARKED_S
        while time.monotonic() < until:
            try:
                found = of._sys_db.check_workflow_result(workflow_id, fail_if_missing=fail_if_missing)
            except DBOSException as error:
                raise _taken(workflow_id, error.message) from error
            if not isinstance(found, NoResult):
                return found
            time.sleep(_LOOK_EVERY_S)
        raise _taken(workflow_id, "how it ended could not be kept")

    async def unused() -> Any:
        raise NotImplementedError("there are no coroutines among our workflows")

    return DeferredResult(wait, unused)


def _is_away(error: Exception) -> bool:
    """Whether PostgreSQL is away for now. DBOS 3.4 takes psycopg's word for a server that is not there ("connection is
    bad") for something else, and ends the workflow without a result: for ever, since its process lives."""
    said = getattr(error, "orig", None)
    return retriable_postgres_exception(error) or (
        isinstance(said, psycopg.OperationalError) and said.sqlstate is None and "connection is bad" in str(said)
    )


setattr(dbos._sys_db, "retriable_postgres_exception", _is_away)  # noqa: B010
setattr(dbos._dbos, "dynamic_scheduler_loop", _no_schedules)  # noqa: B010 mypy lets nobody assign to functions
setattr(dbos._core, "_deferred_workflow_result", _parked)  # noqa: B010


def run(durable: Callable[..., Any], workflow_id: str, world: World, *arguments: Any) -> tuple[Any, str]:
    """A workflow in this world, to its end; several may run at once. Returns its result, and what the journal said if
    it could not keep that. Raises what the workflow raises."""
    opened = _opened()
    opened.worlds[workflow_id] = world

    def run_it() -> Any:
        with SetWorkflowID(workflow_id):
            return DBOS.start_workflow(durable, *arguments).get_result()

    try:
        said = waiting.call(run_it)
        known = opened.results.get(workflow_id, said)
        return known, "" if known == said else _taken(workflow_id, "it says that the move ended otherwise").message
    except (SQLAlchemyError, JournalError) as error:
        world.claim.see()  # who goes on with it elsewhere has taken its row
        if workflow_id not in opened.results:
            raise
        return opened.results[workflow_id], f"the journal cannot be written: {reason_of(error)}"
    finally:
        opened.worlds.pop(workflow_id, None)
        opened.results.pop(workflow_id, None)


def remember(result: Any) -> None:
    """What the workflow that calls this will return, whether or not the journal can keep it."""
    opened, workflow_id = _opened(), present_id()
    if workflow_id in opened.worlds:
        opened.results[workflow_id] = result


def present_id() -> str:
    """Of the workflow that calls this."""
    return str(DBOS.workflow_id)


def enqueue(durable: Callable[..., Any], workflow_id: str, *arguments: Any) -> None:
    """Leave a workflow to the process that works on carriages."""
    try:
        with SetWorkflowID(workflow_id):
            DBOS.enqueue_workflow(CARRIAGES, durable, *arguments)
    except DBOSBaseException as error:
        raise _taken(present_id(), error.message) from error


def submit(durable: Callable[..., Any], workflow_id: str, *arguments: Any) -> None:
    """Leave a workflow to the workers; once more is as good as once. Not to be called from within a workflow. Raises
    SQLAlchemyError; JournalError."""
    try:
        with SetWorkflowID(workflow_id):
            DBOS.enqueue_workflow(TRIES, durable, *arguments)
    except DBOSBaseException as error:
        raise _taken(workflow_id, error.message) from error


def withdraw(workflow_id: str) -> None:
    """Have a workflow not begin that no worker has taken yet."""
    try:
        DBOS.cancel_workflow(workflow_id)
    except DBOSBaseException as error:
        raise _taken(workflow_id, error.message) from error


def take_from(executor: str, workflow_id: str) -> bool:
    """Give a workflow back to its queue, whose executor has died. Where others do so at the same time, one of them
    does; whether it was us. DBOS itself would give back all that an executor had, moves of its operator's among them,
    which nobody takes over by itself."""
    database = dbos._dbos._get_dbos_instance()._sys_db
    return bool(database.reenqueue_for_recovery(workflow_id, [executor], TRIES))


def was_cut_off(error: BaseException | None) -> bool:
    """Whether the database was away when this happened, which ends by itself: DBOS tries again for as long as it
    takes."""
    while error is not None and not (isinstance(error, Exception) and _is_away(error)):
        error = error.__cause__
    return error is not None


def _opened() -> _Open:
    assert _open is not None, "open_journal() comes before any workflow"
    return _open
