"""A batch as it goes: per guest its phase, percent, and downtime so far. Made of events alone, so that anybody may look
on, from whichever machine, while workers elsewhere do the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.live import Live
from rich.table import Table as RichTable

from vmacro.cli import render
from vmacro.model.batch_events import BatchChanged, TryBegan, TryEnded
from vmacro.model.batches import Became
from vmacro.model.events import CopyProgress, DiskProgress, DomainChanged, Event, PhaseBegan
from vmacro.model.moves import Ending
from vmacro.ports import EventLog
from vmacro.services.event_json import as_plain
from vmacro.wire.text import escaped

MOST_ROWS = 30
ENDED_MOVED = {ending.value for ending in Ending if Became(ending).moved}


@dataclass
class Seen:
    """One guest that moves just now."""

    route: str
    worker: str
    began_ns: int
    phase: str = "survey"
    percent: int | None = None
    paused_ns: int = 0
    resumed_ns: int = 0

    def downtime_ms(self, now_ns: int) -> int | None:
        """How long it has stood still so far; None before it did."""
        return ((self.resumed_ns or now_ns) - self.paused_ns) // 1_000_000 if self.paused_ns else None


@dataclass
class View:
    """What is to be seen of one batch. `concerns` says which events are about it."""

    batch_id: str
    total: int
    moving: dict[str, Seen] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    state: str = ""

    def concerns(self, event: Event) -> bool:
        """Its own, and those of moves that it has under way."""
        return event.move_id == self.batch_id or self._guest(event) in self.moving

    def see(self, event: Event) -> None:
        """Something has happened."""
        what = event.what
        if isinstance(what, TryBegan):
            self.moving[what.guest] = Seen(f"{what.source} → {what.destination}", what.worker, event.wall_ns)
        elif isinstance(what, TryEnded):
            self.moving.pop(what.guest, None)
            self.done[what.guest] = what.ending
        elif isinstance(what, BatchChanged):
            self.state = what.state
        elif (seen := self.moving.get(self._guest(event))) is not None:
            _see(seen, event)

    def _guest(self, event: Event) -> str:
        """Of whose move an event is, by the move's name (planner.move_id)."""
        short = event.move_id.rsplit("-", 3)[0]
        return short if short in self.moving else next((g for g in self.moving if g[:40] == short), "")


def _see(seen: Seen, event: Event) -> None:
    what = event.what
    if isinstance(what, PhaseBegan):
        seen.phase, seen.percent = what.phase.value, None
    elif isinstance(what, CopyProgress | DiskProgress):
        seen.percent = what.percent
    elif isinstance(what, DomainChanged):
        if (what.side, what.event) == ("source", "suspended"):
            seen.paused_ns, seen.resumed_ns = event.wall_ns, 0
        elif (what.side, what.event) == ("destination", "resumed"):
            seen.resumed_ns = event.wall_ns


def new_events(log: EventLog, after: int) -> tuple[int, list[Event]]:
    """Those after this number, and the number of the last one. What could not be written yet comes once it is."""
    found = [(number, event) for number, event in log.read("", after) if number > after]
    return (found[-1][0] if found else after), [event for _, event in found]


@contextmanager
def shown(view: View, json: bool) -> Iterator[Callable[[list[Event]], None]]:
    """What is called with each lot of new events, and shows them: a table on a terminal, else lines, or JSON lines."""
    if json:

        def print_json(events: list[Event]) -> None:
            for event in _of(view, events):
                render.as_json(as_plain(event))

        yield print_json
    elif render.out.is_terminal:
        with Live(_table(view), console=render.out, transient=True, refresh_per_second=4) as live:

            def look(events: list[Event]) -> None:
                for event in _of(view, events):
                    if isinstance(event.what, TryEnded | BatchChanged):
                        live.console.print(render.literal(render.event_line(event), "dim"))
                live.update(_table(view))

            yield look
    else:

        def print_lines(events: list[Event]) -> None:
            for event in _of(view, events):
                if isinstance(event.what, TryBegan | TryEnded | BatchChanged):
                    render.say(f"{event.kind:10} {escaped(event.text)}")

        yield print_lines


def _of(view: View, events: list[Event]) -> list[Event]:
    found = []
    for event in events:
        if view.concerns(event):
            view.see(event)
            found.append(event)
    return found


def _table(view: View) -> RichTable:
    moved = sum(ending in ENDED_MOVED for ending in view.done.values())
    head = f"{view.batch_id}: {moved} of {view.total} moved, {len(view.moving)} under way"
    drawn = RichTable(title=render.literal(f"{head}{f'; {view.state}' if view.state else ''}"), title_justify="left")
    for name in ("guest", "route", "phase", "percent", "downtime so far", "for s", "worker"):
        drawn.add_column(name)
    now = time.time_ns()
    for guest, seen in [*view.moving.items()][:MOST_ROWS]:
        downtime = seen.downtime_ms(now)
        cells = (
            guest,
            seen.route,
            seen.phase,
            f"{seen.percent} %" if seen.percent is not None else "",
            f"{downtime} ms" if downtime is not None else "",
            f"{(now - seen.began_ns) / 1e9:.0f}",
            seen.worker,
        )
        drawn.add_row(*map(render.literal, cells))
    return drawn
