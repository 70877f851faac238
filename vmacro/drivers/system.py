"""Time as it is, and threads."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_NETWORKS = Path("/var/run/netns")
_LOOK_EVERY_S = 0.2
_CLONE_NEWNET = 0x40000000  # linux/sched.h


class SystemClock:
    """Implements ports.Clock."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def side_by_side(questions: Sequence[Callable[[], Result]], within_s: float) -> list[Result | None]:
    """Implements ports.SideBySide with a thread per question. One that is late is left behind: it is a daemon, and
    ends when its driver gives up, or with the process."""
    answers, until = [_asked(ask) for ask in questions], time.monotonic() + within_s
    # A signal that one of libvirt's threads has taken wakes nobody who waits for longer (services/waiting.py).
    while wait(answers, min(max(until - time.monotonic(), 0.0), _LOOK_EVERY_S)).not_done:
        if time.monotonic() >= until:
            break
    return [answer.result() if answer.done() else None for answer in answers]


def _asked(ask: Callable[[], Result]) -> Future[Result]:
    answer: Future[Result] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="question", daemon=True).start()
    return answer


def enter_network(name: str) -> None:
    """The calling thread, and those that it starts later, work in a network namespace that `ip netns` has named:
    setns(2), which Python has as of 3.12. Raises OSError; FileNotFoundError where there is none."""
    with (_NETWORKS / name).open("rb") as there:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(there.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}", str(_NETWORKS / name))
