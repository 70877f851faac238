"""The plan of a batch, on a terminal."""

from __future__ import annotations

import time

from vmacro.cli import render
from vmacro.model.batches import Batch
from vmacro.wire.text import many

SHOWN_PLANNED = 200  # moves


def show(made: Batch) -> None:
    """Who moves where and why, who stays and why, and how long it will take."""
    rows = [
        (n, m.guest, m.source, f"{m.destination_site}/{m.destination}", m.mib, m.seconds, m.because)
        for n, m in enumerate(made.moves[:SHOWN_PLANNED], 1)
    ]
    total = sum(m.mib for m in made.moves)
    note = f"{many(len(made.moves), 'move')}, {total:.0f} MiB, about {_minutes(made.expected_s)} in all"
    note += f"; the first {SHOWN_PLANNED} are shown, --json has all" if len(rows) < len(made.moves) else ""
    if rows:
        render.table(render.rows("Moves", ("", "guest", "from", "to", "MiB", "s", "why there"), rows, note))
    elif not made.stays:
        render.say(f"{made.subject}: there is nothing to move")
    if made.stays:
        stays = [(s.guest, s.at, s.code, s.why, s.hint) for s in made.stays]
        render.table(render.rows("Who stays", ("guest", "at", "finding", "why", "hint"), stays))
    if is_late(made):
        left = max(0.0, made.deadline_s - time.time())
        render.warn(
            f"deadline: in {_minutes(left)}; about {_minutes(made.expected_s)} needed: some moves may not begin"
        )


def is_late(made: Batch) -> bool:
    """Whether it is expected to take longer than its deadline leaves."""
    return made.deadline_s > 0 and time.time() + made.expected_s > made.deadline_s


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
