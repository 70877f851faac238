"""One stream of events: the live view, JSON lines, the log and the report all render these."""

from __future__ import annotations

from dataclasses import dataclass, field

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Event:
    """`wall_ns` is CLOCK_REALTIME. Kinds: phase.begin, phase.end, phase.failed,
    copy.progress, domain, note, interrupt."""

    move_id: str
    wall_ns: int
    kind: str
    text: str
    data: dict[str, Value] = field(default_factory=dict)
