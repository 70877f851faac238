"""Events as JSON: what `--json` prints, reports keep, and the event log has in its rows.

Whoever reads one may have a file or a table that a newer version or a stranger wrote: decoded here, and only here.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vmacro.errors import EventError
from vmacro.model.events import KINDS, Event, What

MAX_CHARACTERS = 1 << 16  # of one event's data; our own have some hundreds
_LIMIT = 1 << 63


def as_plain(event: Event) -> dict[str, Any]:
    """`text` is for people who read the JSON, and comes from `data` again when it is read. Lone surrogates, which
    no UTF-8 can hold, are escaped."""
    data = {name: _encodable(value) if isinstance(value, str) else value for name, value in event.data.items()}
    head = {"move_id": event.move_id, "wall_ns": event.wall_ns, "kind": event.kind}
    return {**head, "text": _encodable(event.text), "data": data}


def from_plain(item: object) -> Event:
    """Undo as_plain(). Fields that a newer version added are left out. Raises EventError."""
    if not isinstance(item, dict):
        raise EventError(f"event: not an object (value: {str(item)[:40]!r})")
    return decoded(item.get("move_id"), item.get("wall_ns"), item.get("kind"), json.dumps(item.get("data")))


def decoded(move_id: object, wall_ns: object, kind: object, data: object) -> Event:
    """`data` is JSON still. Raises EventError."""
    if not isinstance(move_id, str) or len(move_id) > 200:
        raise EventError(f"event: move_id: no name of a move (value: {str(move_id)[:40]!r})")
    if type(wall_ns) is not int or not 0 <= wall_ns < _LIMIT:
        raise EventError(f"event: wall_ns: no time (value: {str(wall_ns)[:40]!r})")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EventError(f"event: kind: unknown (value: {str(kind)[:40]!r})", "a newer vmacro may know it")
    if not isinstance(data, str) or len(data) > MAX_CHARACTERS:
        raise EventError(f"event: data of {kind}: not JSON of {MAX_CHARACTERS} characters or less")
    try:
        what = _adapter(kind).validate_json(data.encode(errors="replace"), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join((kind, *map(str, first["loc"])))[:60]
        raise EventError(f"event: data of {where}: {first['msg'][:100]}") from error
    for name, value in vars(what).items():
        if isinstance(value, (int, float)) and not -_LIMIT < value < _LIMIT:
            raise EventError(f"event: data of {kind}: {name}: too large")
    return Event(move_id, wall_ns, what)


@cache
def _adapter(kind: str) -> TypeAdapter[What]:
    return TypeAdapter(KINDS[kind])


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
