"""Waits that a signal ends at once.

Python runs a signal's handler in its main thread, as soon as that runs. But any thread may take the signal from the
kernel: libvirt's client does, which changes its mask around each poll (recalc_sigpending), and then nothing wakes a
main thread that waits without limit: Ctrl-C was heeded when the move was over. So nobody waits for longer than this.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")
LOOK_EVERY_S = 0.2


def until_done(future: Future[Result], timeout_s: float = math.inf) -> Future[Result]:
    """The same, which has ended then, or goes on after `timeout_s` seconds."""
    until = time.monotonic() + timeout_s
    while not future.done() and (left_s := until - time.monotonic()) > 0:
        wait((future,), min(left_s, LOOK_EVERY_S))
    return future


def call(act: Callable[[], Result]) -> Result:
    """What `act` returns or raises; it runs in a thread of its own."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="awaited", daemon=True).start()
    return until_done(future).result()
