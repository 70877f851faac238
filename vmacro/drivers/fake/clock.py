"""Time in memory: it passes only for who sleeps."""

from __future__ import annotations

import threading


class FakeClock:
    """Implements ports.Clock. Each thread has a time of its own, so that no move waits on behalf of another; a thread
    that is new begins at the latest time there is."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self._began_s = now_s
        self._by_thread: dict[int, float] = {}

    @property
    def now_s(self) -> float:
        me = threading.get_ident()
        if me not in self._by_thread:
            self._by_thread[me] = max([self._began_s, *self._by_thread.values()])
        return self._by_thread[me]

    def wall_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self._by_thread[threading.get_ident()] = self.now_s + seconds
