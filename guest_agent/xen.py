"""What an agent has of Xen: a detector, and its channel. Both are xenstore's, each by a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator
from typing import Callable, Optional

from guest_agent.channel import Handler, answer
from guest_agent.detect import Sighting
from guest_agent.ports import STOOD_STILL_S, Clock
from vmacro.wire.framing import LineReader
from vmacro.wire.mailbox import TO_GUEST, TO_HOST, Mailbox, OutOfStepError, session_of
from vmacro.wire.messages import MAX_REQUEST_BYTES
from vmacro.wire.xenbus import Xenbus
from vmacro.wire.xenstore import Event, Xenstore, XenstoreError

LOG = logging.getLogger(__name__)
DOMID, SHUTDOWN = "domid", "control/shutdown"
AGAIN_AFTER_S = 1.0


class XenstoreDetector:
    """A watch on the guest's own `domid`, as in the paper that this follows (section 6.3).

    A watch fires once as it is set, which says nothing, and again after each resume, since the guest's kernel sets its
    watches anew. Often the value is the same at both hosts: that it has fired is the sign. `control/shutdown` is
    written before the guest is suspended, and says that it may be about to leave.
    """

    def __init__(self, connect: Callable[[], Xenbus], clock: Clock) -> None:
        self._connect, self._clock = connect, clock
        self._seen_still_s = clock.stood_still_s()

    async def sightings(self) -> AsyncIterator[Sighting]:
        """See Detector."""
        while True:
            try:
                with contextlib.closing(self._connect()) as bus:
                    store = Xenstore(bus)
                    if self._grown_s() > STOOD_STILL_S:  # while nobody watched
                        yield self._sighting()
                    store.watch(DOMID, DOMID)
                    store.watch(SHUTDOWN, SHUTDOWN)
                    fired: set[str] = set()
                    while True:
                        for event in store.events():
                            if event.token in fired and self._is_sign(store, event):
                                yield self._sighting()
                            fired.add(event.token)
                        await _more(store, bus)
            except OSError as error:
                LOG.warning("xenstore: a move would not be seen by itself: %s", error)
            await asyncio.sleep(AGAIN_AFTER_S)

    def _is_sign(self, store: Xenstore, event: Event) -> bool:
        if event.token == SHUTDOWN and _said(store, SHUTDOWN) == "suspend":
            LOG.info("the host is about to suspend this guest")
        if event.token == DOMID:
            LOG.info("domid is %s", _said(store, DOMID))
        return event.token == DOMID

    def _sighting(self) -> Sighting:
        grown_s = self._grown_s()
        self._seen_still_s += grown_s
        return Sighting("xenstore", grown_s if grown_s > STOOD_STILL_S else 0.0)

    def _grown_s(self) -> float:
        return self._clock.stood_still_s() - self._seen_still_s


class XenstoreServer:
    """The agent's channel on Xen: as ChannelServer, on two nodes of xenstore."""

    def __init__(self, connect: Callable[[], Xenbus], handler: Handler) -> None:
        self._connect, self._handler = connect, handler
        self._reader = LineReader(MAX_REQUEST_BYTES)
        self._box: Optional[Mailbox] = None

    async def serve(self) -> None:
        """Answer until this is cancelled."""
        while True:
            try:
                with contextlib.closing(self._connect()) as bus:
                    store = Xenstore(bus)
                    store.watch(TO_GUEST, TO_GUEST)
                    while True:
                        if store.events():
                            await self._look(store)
                        await _more(store, bus)
            except OSError as error:
                LOG.warning("xenstore: nobody can talk to this agent: %s", error)
            self._end()
            await asyncio.sleep(AGAIN_AFTER_S)

    async def _look(self, store: Xenstore) -> None:
        try:
            record = store.read(TO_GUEST)
            session = session_of(record)
            if self._box is None or self._box.session != session:
                self._end()
                self._box = Mailbox(session)
            box, data = self._box, self._box.hear(record)
        except XenstoreError as error:
            if error.errno != errno.ENOENT:
                raise
            self._end()  # nobody is there, or the guest is at another host
            return
        except OutOfStepError as error:
            LOG.warning("ignored what the host has written: %s", error)
            self._end()
            return
        self._tell(store, box)
        for line in self._reader.feed(data):
            box.say(await answer(line, self._handler))
            self._tell(store, box)

    def _tell(self, store: Xenstore, box: Mailbox) -> None:
        record = box.record()
        if record is not None:
            store.write(TO_HOST, record)

    def _end(self) -> None:
        """Half a line of one orchestrator must not begin the next one's."""
        self._box = None
        self._reader.reset()


async def _more(store: Xenstore, bus: Xenbus) -> None:
    """Until there is something to read, or an event that came with a reply."""
    if store.pending:
        return
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(bus.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(bus.fileno())


def _said(store: Xenstore, path: str) -> str:
    """'' where there is no such node just now."""
    try:
        return store.read(path).decode("ascii", "replace")
    except XenstoreError:
        return ""
