"""Tables and lines on a terminal, or as JSON. cli/stream.py has what is shown while something long runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from vmacro.model.events import CopyProgress, DiskProgress, Event, PhaseBegan, PhaseEnded, PhaseFailed
from vmacro.rtt.report import Table, cell
from vmacro.wire.text import escaped, lines

# Nothing is markup unless it is a Text, which only we make: hosts and guests said much of what is shown.
out = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)


def table(shown: Table) -> None:
    """Hosts and guests said much of what is in it: no cell is markup. One without rows is said in a word."""
    if not shown.rows:
        say(": ".join(filter(None, (shown.heading, "nothing", shown.note))))
        return
    drawn = RichTable(
        title=literal(shown.heading) if shown.heading else None, title_justify="left", show_header=any(shown.columns)
    )
    for number, column in enumerate(shown.columns):
        drawn.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in shown.rows:
        drawn.add_row(*(literal(cell(v)) for v in row))
    # Piped output is read by programs and logs: give it the room that the columns want.
    (out if out.is_terminal else Console(highlight=False, width=200, emoji=False, markup=False)).print(drawn)
    if shown.note:
        say(shown.note, "dim")


def say(text: str, style: str = "") -> None:
    """On standard output."""
    out.print(literal(text, style))


def warn(text: str) -> None:
    """On standard error."""
    err.print(literal(text))


def literal(text: str, style: str = "") -> Text:
    """Text of hosts and guests as it is: neither markup nor emoji, and control characters but line ends as escapes."""
    return Text(lines(text), style)


def as_json(data: object) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def event_line(event: Event) -> str:
    """One that was written down: when, of which move, what."""
    move_id = escaped(event.move_id) or "-"
    return f"{_clock(event.wall_ns)}  {move_id}  {event.kind:14} {escaped(event.text)}"


def meanwhile(events: Iterable[Event]) -> Table:
    """What happened besides the phases, which `show` has from the journal, and their progress."""
    elsewhere = (PhaseBegan, PhaseEnded, PhaseFailed, CopyProgress, DiskProgress)
    told = [(_clock(e.wall_ns), e.kind, e.text) for e in events if not isinstance(e.what, elsewhere)]
    return rows("Meanwhile", ("at", "event", "what"), told)


def _clock(wall_ns: int) -> str:
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{rest // 1_000_000:03}"


def rows(heading: str, columns: Sequence[str], found: Sequence[Sequence[object]], note: str = "") -> Table:
    """A table to be shown."""
    return Table(heading, tuple(columns), tuple(tuple(r) for r in found), note)
