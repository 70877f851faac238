"""Events and tables on a terminal, as plain lines, or as JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from vmacro.model.events import Event
from vmacro.rtt.report import Table, cell

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def table(shown: Table) -> None:
    drawn = RichTable(title=shown.heading or None, title_justify="left", show_header=any(shown.columns))
    for number, column in enumerate(shown.columns):
        drawn.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in shown.rows:
        drawn.add_row(*(cell(v) for v in row))
    # Piped output is read by programs and logs: give it the room that the columns want.
    (out if out.is_terminal else Console(highlight=False, width=200)).print(drawn)
    if shown.note:
        out.print(f"[dim]{shown.note}[/dim]")


def as_json(data: object) -> None:
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


@contextmanager
def stream(json_lines: bool) -> Iterator[Callable[[Event], None]]:
    """Where events go while something long runs."""
    if json_lines:
        yield lambda event: as_json(asdict(event))
    elif out.is_terminal:
        with _LiveView() as live:
            yield live.show
    else:
        yield _plain_lines()


PROGRESS = ("copy.progress", "disk.progress")


def _plain_lines() -> Callable[[Event], None]:
    began = time.monotonic()
    last_progress = -10.0

    def show(event: Event) -> None:
        nonlocal last_progress
        now = time.monotonic()
        if event.kind in PROGRESS:
            if now - last_progress < 2:
                return
            last_progress = now
        if event.kind != "phase.end":
            print(f"{now - began:7.2f} s  {event.kind:14} {event.text}", flush=True)

    return show


class _LiveView:
    """Phases as lines, the copy as a bar."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}"),
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
        stamp = f"[dim]{time.monotonic() - self._began:7.2f} s[/dim]"
        if event.kind == "phase.begin":
            self._progress.update(self._task, description=event.text, completed=0, detail="")
        elif event.kind == "phase.end":
            out.print(f"{stamp}  [green]{event.text}[/green]")
        elif event.kind in PROGRESS:
            self._progress.update(self._task, completed=float(event.data.get("percent") or 0), detail=event.text)
        else:
            out.print(f"{stamp}  [dim]{event.text}[/dim]")


def rows(heading: str, columns: Sequence[str], found: Sequence[Sequence[object]], note: str = "") -> Table:
    return Table(heading, tuple(columns), tuple(tuple(r) for r in found), note)
