"""Ctrl-C and SIGTERM as a wish that work under way honours, so that it ends in good order."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmacro.model.events import Event, Interrupted


@contextmanager
def heeded(publish: Callable[[Event], None], cancel: Callable[[], None]) -> Iterator[None]:
    """While this is open, a signal cancels instead of ending the process, and is told of."""
    asked = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal asked
        text = "interrupted: leaving in good order, please wait"
        if asked:
            text = "still leaving in good order; whoever kills it now goes on with `vmacro resume`"
        publish(Event("", time.time_ns(), Interrupted(text)))
        asked = True
        cancel()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
