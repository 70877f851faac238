"""Time as it is, and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")


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
    answers = [_asked(ask) for ask in questions]
    wait(answers, within_s)
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
