"""Waits that a signal ends at once.

Python runs a signal's handler in its main thread, as soon as that runs. But any thread may take the signal from the
kernel: libvirt's client does, which changes its mask around each poll (recalc_sigpending), and then nothing wakes a
main thread that waits without limit: Ctrl-C was heeded when the move was over. So nobody waits for longer than this.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")
LOOK_EVERY_S = 0.2


def until_done(
    future: Future[Result], timeout_s: float = math.inf, unless: Callable[[], None] = lambda: None
) -> Future[Result]:
    """The same, which has ended then, or goes on after `timeout_s` seconds. Raises what `unless` raises meanwhile."""
    until = time.monotonic() + timeout_s
    while not future.done() and (left_s := until - time.monotonic()) > 0:
        unless()
        wait((future,), min(left_s, LOOK_EVERY_S))
    return future


def each(acts: Sequence[Callable[[], Result]], at_once: int) -> list[Result]:
    """What each returns, in their order; raises what one raised. So many run at once, in threads that keep no process
    from ending: who is interrupted waits for none of them, and those that have not begun never do."""
    found: list[Future[Result]] = [Future() for _ in acts]
    todo = iter([*zip(acts, found, strict=True)])
    taking, given_up = threading.Lock(), threading.Event()

    def work() -> None:
        while not given_up.is_set():
            with taking:
                act, future = next(todo, (None, None))
            if act is None or future is None:
                return
            try:
                future.set_result(act())
            except BaseException as error:
                future.set_exception(error)

    for _ in range(min(at_once, len(found))):
        threading.Thread(target=work, name="awaited", daemon=True).start()
    try:
        return [until_done(future).result() for future in found]
    finally:
        given_up.set()


def call(act: Callable[[], Result], unless: Callable[[], None] = lambda: None) -> Result:
    """What `act` returns or raises; it runs in a thread of its own, which is left behind where `unless` raises."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="awaited", daemon=True).start()
    return until_done(future, unless=unless).result()
