"""All connections of one moment, page by page: who reads thousands of them misses none, and sees none twice."""

from __future__ import annotations

import secrets
from typing import Callable

from guest_agent.guest import Guest
from vmacro.wire.agent_verbs import MAX_CONNECTIONS, MOST_LISTED, Connection, Page, PageArgs
from vmacro.wire.messages import ProtocolError

KEPT_FOR_S = 60.0


class Pages:
    """Keeps the last snapshot, of MOST_LISTED connections at most, for KEPT_FOR_S seconds."""

    def __init__(self, guest: Guest, connections: Callable[[], list[Connection]]) -> None:
        self._guest, self._connections = guest, connections
        self._name, self._total = "", 0
        self._found: list[Connection] = []

    def page(self, args: PageArgs) -> Page:
        """Raises ProtocolError (no-snapshot) where that one is not kept any more; OSError."""
        if not args.snapshot:
            self._take()
        elif args.snapshot != self._name:
            raise ProtocolError("no-snapshot", f"snapshot {args.snapshot} is not kept any more: begin anew")
        return Page(tuple(self._found[args.at : args.at + MAX_CONNECTIONS]), self._total, self._name)

    def _take(self) -> None:
        found = self._connections()
        self._name, self._total, self._found = secrets.token_hex(8), len(found), found[:MOST_LISTED]
        self._guest.later(self._forget(self._name))

    async def _forget(self, name: str) -> None:
        await self._guest.clock.sleep(KEPT_FOR_S)
        if self._name == name:
            self._name, self._total, self._found = "", 0, []
