"""Where events go while a command works: into the log, and to whoever looks on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmacro import wiring
from vmacro.cli import render
from vmacro.cli.stream import stream
from vmacro.inventory import Settings
from vmacro.model.events import Event
from vmacro.services.event_log import DatabaseEventLog


def event_log(settings: Settings) -> DatabaseEventLog:
    """To be read; and, inside `with`, to be appended to."""
    return wiring.event_log(settings, render.warn)


@contextmanager
def told(settings: Settings, json: bool) -> Iterator[tuple[DatabaseEventLog, Callable[[Event], None]]]:
    """The log, and what publishes to it and to the terminal."""
    with event_log(settings) as log, stream(json) as show:

        def publish(event: Event) -> None:
            log.append(event)
            show(event)

        yield log, publish
