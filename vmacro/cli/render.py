"""Events and tables on a terminal, as plain lines, or as JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from vmacro.model.events import CopyProgress, DiskProgress, Event, PhaseBegan, PhaseEnded, PhaseFailed
from vmacro.rtt.report import Table, cell
from vmacro.services.event_json import as_plain
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


@contextmanager
def stream(json_lines: bool) -> Iterator[Callable[[Event], None]]:
    """Where events go while something long runs."""
    if json_lines:
        yield lambda event: as_json(as_plain(event))
    elif out.is_terminal:
        with _LiveView() as live:
            yield live.show
    else:
        yield _plain_lines()


def _plain_lines() -> Callable[[Event], None]:
    began = time.monotonic()
    last_progress = -10.0

    def show(event: Event) -> None:
        nonlocal last_progress
        now = time.monotonic()
        if isinstance(event.what, CopyProgress | DiskProgress):
            if now - last_progress < 2:
                return
            last_progress = now
        if not isinstance(event.what, PhaseEnded):
            print(f"{now - began:7.2f} s  {event.kind:14} {escaped(event.text)}", flush=True)

    return show


class _LiveView:
    """Phases as lines, the copy as a bar."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=out,
            transient=True,
        )
        self._task = self._progress.add_task("survey", total=100, detail="")
        self._began = time.monotonic()

    def __enter__(self) -> _LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        text, stamp = escaped(event.text), (f"{time.monotonic() - self._began:7.2f} s  ", "dim")
        if isinstance(event.what, PhaseBegan):
            self._progress.update(self._task, description=text, completed=0, detail="")
        elif isinstance(event.what, PhaseEnded):
            out.print(Text.assemble(stamp, (text, "green")))
        elif isinstance(event.what, CopyProgress | DiskProgress):
            self._progress.update(self._task, completed=event.what.percent, detail=text)
        else:
            out.print(Text.assemble(stamp, (text, "dim")))


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
