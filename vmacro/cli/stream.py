"""Events as they happen: on a terminal, as plain lines, or as JSON lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from vmacro.cli import render
from vmacro.model.events import CopyProgress, DiskProgress, Event, PhaseBegan, PhaseEnded
from vmacro.services.event_json import as_plain
from vmacro.wire.text import escaped


@contextmanager
def stream(json_lines: bool) -> Iterator[Callable[[Event], None]]:
    """Where events go while something long runs."""
    if json_lines:
        yield lambda event: render.as_json(as_plain(event))
    elif render.out.is_terminal:
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
            console=render.out,
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
            render.out.print(Text.assemble(stamp, (text, "green")))
        elif isinstance(event.what, CopyProgress | DiskProgress):
            self._progress.update(self._task, completed=event.what.percent, detail=text)
        else:
            render.out.print(Text.assemble(stamp, (text, "dim")))
