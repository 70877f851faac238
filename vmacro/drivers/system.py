"""Time as it is."""

from __future__ import annotations

import time


class SystemClock:
    """Implements ports.Clock."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
