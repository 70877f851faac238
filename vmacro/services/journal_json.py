"""What rows of the journal hold, as JSON: written and read here, and only here.

Whoever may write to the database may write any row, so that what is read is typed and bounded as a guest's words are
(wire.fields), and never decides what code decodes it (services/serializer.py). DBOS is not loaded: whoever only reads
the journal does without it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Annotated, Any

from vmacro.errors import JournalError, VmacroError
from vmacro.model.facts import Arrival, CopyStatistics
from vmacro.model.moves import After, Before, Carriage, Noted, Outcome, Phase, Plan, Verdict
from vmacro.planning.handoffs import HANDOFFS
from vmacro.wire import fields
from vmacro.wire.fields import FieldError, Said, Text

SERIALIZATION = "vmacro_json"
MAX_CHARACTERS = 8 << 20  # of one value: a further attempt keeps what several phases gave, each at most a reply long
_SAID = Annotated[str, Said(4000)]  # what went wrong, in words, where a step gives nothing but text
CARRY_STEP = "carry"  # when the carriages of a move began
# What a phase gives; of those that give nothing it is kept that they have ended.
_GIVEN: dict[str, Any] = {
    Phase.SURVEY: Before,
    Phase.PREPARE: Before,
    Phase.COPY: CopyStatistics | None,
    Phase.ARRIVE: Arrival,
    Phase.SETTLE: After,
    CARRY_STEP: float,
}
_RESULTS = dict.fromkeys((phase.value for phase in Phase), bool) | _GIVEN
# What a plan's keys were called before they became new_legs, old_legs, earlier_legs and addresses.
_OLDER_KEYS = {"leads", "trail", "standing", "held"}


def loaded(text: object, subject: str) -> Any:
    """JSON of bounded size. Raises JournalError, which names `subject`."""
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise JournalError(f"{subject} cannot be read: it is no text of at most {MAX_CHARACTERS} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise JournalError(f"{subject} cannot be read: it is not JSON: {text[:40]!r}") from None


def decoded(kind: Any, data: object, subject: str) -> Any:
    """A value of this kind. Raises JournalError, which names `subject`."""
    try:
        return fields.decode_as(_SAID if kind is str else kind, data, "")
    except FieldError as error:
        raise JournalError(f"{subject} cannot be read: {str(error).removeprefix(': ')}") from None


def encoded(value: Any) -> Any:
    """The reverse of decoded(): what json.dumps() takes."""
    if isinstance(value, enum.Enum):
        return value.value
    return fields.encode(value) if dataclasses.is_dataclass(value) else value


def plan_from(data: object, subject: str) -> tuple[Plan, bool]:
    """A plan; and whether an older vmacro wrote it, so that its legs and addresses cannot be read. Raises
    JournalError."""
    older = isinstance(data, Mapping) and not _OLDER_KEYS.isdisjoint(data)
    if isinstance(data, Mapping) and older:
        data = {key: value for key, value in data.items() if key not in _OLDER_KEYS}
    plan: Plan = decoded(Plan, data, subject)
    if plan.handoff not in HANDOFFS:
        raise JournalError(f"{subject} cannot be read: handoff: {plan.handoff!r} is unknown")
    return plan, older


def outcome_from(data: object, subject: str) -> Outcome:
    """How an attempt ended, as this vmacro or an older one has written it. Raises JournalError."""
    if isinstance(data, Mapping) and isinstance(data.get("connections"), (list, tuple)):
        data = {**data, "connections": [_verdict_from(item) for item in data["connections"]]}
    outcome: Outcome = decoded(Outcome, data, subject)
    return outcome


def _verdict_from(item: Any) -> Any:
    """Before there were verdicts, it was kept whether a connection was there, and by which address."""
    if not isinstance(item, Mapping) or "kept" not in item:
        return item
    kept, followed, carried = (item.get(key) is True for key in ("kept", "followed", "carried"))
    verdict = Verdict.FOLLOWED if followed else Verdict.CARRIED if carried else Verdict.UNKNOWN
    why = "" if followed or carried else "it had no address that was reached" if kept else "it was gone"
    rest = {key: value for key, value in item.items() if key not in ("kept", "followed", "carried")}
    return {**rest, "verdict": verdict.value, "why": why}


def carriage_from(data: object, subject: str) -> Carriage:
    """An old address in use. Raises JournalError."""
    carriage: Carriage = decoded(Carriage, data, subject)
    return carriage


def result_from(step: str, data: object, subject: str) -> Any:
    """What a step gave, as Noted has it: checked, and plain again. Raises JournalError."""
    if step not in _RESULTS:
        raise JournalError(f"{subject} cannot be read: no step of a move is called {step[:40]!r}")
    return encoded(decoded(_RESULTS[step], data, subject))


def noted_as_plain(noted: Noted) -> dict[str, Any]:
    """As an attempt keeps what it inherits."""
    error = error_as_plain(noted.error) if noted.error is not None else None
    times = {"began_ms": noted.began_ms, "ended_ms": noted.ended_ms}
    return {"name": noted.name, "result": noted.result, "error": error, **times}


def noted_from(item: object, subject: str) -> Noted:
    """Undo noted_as_plain(), read from JSON or not. Raises JournalError."""
    if not isinstance(item, Mapping):
        raise JournalError(f"{subject} cannot be read: a step is no object")
    step: _Step = decoded(_Step, {key: item.get(key) for key in ("name", "began_ms", "ended_ms")}, subject)
    error = error_from(item["error"]) if item.get("error") is not None else None
    result = result_from(step.name, item.get("result"), subject) if error is None else None
    return Noted(step.name, result, error, step.began_ms, step.ended_ms)


def error_from(data: object) -> VmacroError:
    """The error that a step or an attempt ended with, as JSON has it. Raises JournalError."""
    plain = {_KEYS.get(str(key), key): value for key, value in data.items()} if isinstance(data, Mapping) else data
    told: _Error = decoded(_Error, plain, "the journal: an error")
    kind = next((k for k in _all_errors(VmacroError) if k.__name__ == told.kind), None)
    return kind(told.message, told.hint) if kind is not None else VmacroError(f"{told.kind}: {told.message}", told.hint)


@dataclasses.dataclass(frozen=True)
class _Error:
    kind: Annotated[str, Text(100)]
    message: Annotated[str, Said(4000)]
    hint: Annotated[str, Said(4000)] = ""


_KEYS = {"__error__": "kind"}


@dataclasses.dataclass(frozen=True)
class _Step:
    name: Annotated[str, Text(100)]
    began_ms: int
    ended_ms: int


def _all_errors(root: type[VmacroError]) -> list[type[VmacroError]]:
    return [root, *(e for sub in root.__subclasses__() for e in _all_errors(sub))]


def error_as_plain(error: BaseException) -> dict[str, str]:
    """Undone by error_from()."""
    hint = error.hint if isinstance(error, VmacroError) else ""
    message = error.message if isinstance(error, VmacroError) else str(error)
    return {"__error__": type(error).__name__, "message": message, "hint": hint}
