"""The agent's watch over connections: it listens to the kernel from the moment that a move asks for it until the move
lets the guest go. Otherwise nothing is listened to, as a busy guest would pay for it all day."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import Callable

from guest_agent.endings import NOT_YET, Endings
from guest_agent.guest import Guest
from guest_agent.ports import Ends
from vmacro.wire import agent_verbs
from vmacro.wire.agent_verbs import MAX_CONNECTIONS, MOST_MS, Connection, CountArgs, Counts, Ended
from vmacro.wire.counting import REST, Began, began_with, counted

LOG = logging.getLogger(__name__)
LOOK_EVERY_S = 0.2  # what comes meanwhile waits in the kernel
SWEEP_EVERY_S = 5.0
UNASKED_FOR_S = 60.0  # without a claim it ends then


class Watch:
    """At most one is under way. `name` is '' while none is, or where the kernel does not tell of ends; `began`: what
    its last reply was about. `arrived_s`: when the guest was last seen to have arrived somewhere."""

    def __init__(self, guest: Guest, arrived_s: Callable[[], float]) -> None:
        self._guest, self._arrived_s = guest, arrived_s
        self._endings = Endings(0.0)
        self._asked_at_s = self._began_at_s = 0.0
        self.name = ""
        self.began = Began()

    def begin(self) -> list[Connection]:
        """Watch those that are there now, which are returned: on a busy guest others come until one looks again. A
        watch that is under way goes on, and has more to watch. Raises OSError where connections cannot be seen."""
        self._asked_at_s = self._guest.clock.now_s()
        if not self.name:
            try:
                self._guest.events.listen()
            except OSError as error:
                LOG.warning("it will not be known how connections end: %s", error)
                return self._guest.sockets.look()[0]
            self.name, self._began_at_s = secrets.token_hex(8), self._asked_at_s
            self._guest.cut.clear()
            self._endings = Endings(self._asked_at_s, cut=self._guest.cut)
            self._guest.later(self._go_on(self.name))
            self._guest.later(self._sweep(self.name))
        self._look()
        found, closing = self._guest.sockets.look()
        self._endings.watch(found, closing)
        return found

    def endings(self) -> agent_verbs.Endings:
        """What became of them."""
        if not self.name:
            return agent_verbs.Endings("", False, (), 0)
        _, found = self._now()
        shown = self.began.shown
        found.sort(key=lambda ended: (not ended.lost, ended.key not in shown))  # of many, those matter
        missed = self._endings.missed
        return agent_verbs.Endings(self.name, missed, tuple(found[:MAX_CONNECTIONS]), len(found))

    def answered(self, found: list[Connection]) -> None:
        """begin() has been answered with these, with who is willing."""
        self.began = began_with(found) if self.name else Began()

    def count(self, args: CountArgs) -> Counts:
        """Those that are there, and what became of those watched. Raises OSError."""
        clock = self._guest.clock
        from_s = clock.now_s()
        connections, ended = self._now()
        told = bool(self.name) and not self._endings.missed
        counts = counted(args, self.began, connections, {e.key: e for e in ended}, told)
        took_ms = min(round((clock.now_s() - from_s) * 1000), MOST_MS)
        return replace(counts, watch=self.name, took_ms=took_ms)

    def _now(self) -> tuple[list[Connection], list[Ended]]:
        """Connections that are there, and those that have ended since the watch began."""
        guest = self._guest
        self._asked_at_s = guest.clock.now_s()
        connections, closing = guest.sockets.look()
        if self.name:
            self._look()
        return connections, self._told(connections, closing) if self.name else []

    def _told(self, connections: list[Connection], closing: set[Ends]) -> list[Ended]:
        arrived_s = self._arrived_s()
        since_s = arrived_s if arrived_s >= self._began_at_s else NOT_YET  # else it is another move's
        return self._endings.told(connections, closing, self._guest.clock.now_s(), since_s)

    async def _go_on(self, name: str) -> None:
        while self.name == name:
            await self._guest.clock.sleep(LOOK_EVERY_S)
            unasked_s = self._guest.clock.now_s() - self._asked_at_s
            if self.name == name and self._guest.state.claim is None and unasked_s > UNASKED_FOR_S:
                self._stop()
            elif self.name == name:
                self._look()

    async def _sweep(self, name: str) -> None:
        """Of a reset that no application looks at the kernel does not tell: the connection is only missing. When is
        known as far as one looks, and what was missing long before the arrival was not lost by it."""
        guest, rest_s = self._guest, SWEEP_EVERY_S
        while True:
            await guest.clock.sleep(rest_s)
            if self.name != name:
                return
            began_s = guest.clock.now_s()
            try:
                connections, closing = guest.sockets.look()
            except OSError as error:
                LOG.warning("connections cannot be seen just now: %s", error)
            else:
                self._look()
                self._told(connections, closing)
            rest_s = max(SWEEP_EVERY_S, REST * (guest.clock.now_s() - began_s))

    def _look(self) -> None:
        try:
            heard, missed = self._guest.events.heard()
        except OSError as error:
            LOG.warning("it is no longer known how connections end: %s", error)
            self._stop()
            return
        self._endings.missed |= missed
        self._endings.hear(heard, self._guest.clock.now_s())

    def _stop(self) -> None:
        self._guest.events.stop()
        self.name, self._endings, self.began = "", Endings(0.0), Began()
