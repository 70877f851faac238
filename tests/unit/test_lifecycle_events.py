"""Lifecycle events, of libvirt's own test driver."""

from __future__ import annotations

import libvirt

from tests.support import eventually
from vmacro.drivers.libvirt.connection import start_event_loop
from vmacro.drivers.libvirt.events import LifecycleEvents


def test_any_number_of_watchers_and_a_connection_that_can_be_closed() -> None:
    start_event_loop()
    connection = libvirt.open("test:///default")
    events, domain = LifecycleEvents(connection), connection.lookupByName("test")
    one: list[tuple[str, str]] = []
    two: list[tuple[str, str]] = []
    with events.watched(lambda name, event, _: one.append((name, event))):
        with events.watched(lambda name, event, _: two.append((name, event))):
            domain.suspend()
            eventually(lambda: one == two == [("test", "suspended")], "both to see it")
        domain.resume()
        eventually(lambda: one[1:] == [("test", "resumed")], "the one that is left to see it")
    with events.watched(lambda name, event, _: two.append((name, event))):
        domain.suspend()
        eventually(lambda: len(two) == 2, "a watcher after the last one")
    assert len(one) == 2
    del domain
    assert connection.close() == 0, "nothing holds it"
