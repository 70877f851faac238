"""Checks as use cases: what stands against moves. They change nothing, and load nothing that only moves need.

Several guests may be looked at at once, in threads of one process, each in a world of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from vmacro.model.batches import Maintenance
from vmacro.model.events import Event
from vmacro.model.facts import Past, Survey
from vmacro.model.moves import Finding
from vmacro.model.nouns import Guest, Inventory
from vmacro.planning import checks, compression, forecast, seamless
from vmacro.planning.request import Request, may_be_of
from vmacro.ports import World
from vmacro.services import measured, waiting
from vmacro.services.archive import Archive
from vmacro.services.reservations import Reservations

Part = TypeVar("Part")
Publish = Callable[[Event], None]
LOOKED_AT_ONCE = 8  # guests, each by two connections of its own: a libvirtd greets 20 at a time (max_anonymous_clients)


class Worlds(Protocol):
    """Opens a world for one move, on what all moves of the process share."""

    def __call__(self, publish: Publish, cancelled: Callable[[], bool]) -> AbstractContextManager[World]:
        """The world is closed with the context."""


@dataclass(frozen=True)
class Tools:
    """What checks need of the process that they run in. `maintenance`: the hosts that get no guests."""

    inventory: Inventory
    worlds: Worlds
    archive: Callable[[], AbstractContextManager[Archive]]
    maintenance: Callable[[], tuple[Maintenance, ...]]


@dataclass(frozen=True)
class Checked:
    """What stands against a move, blockers first; `host` is where it would go, and `because` says why there. `legs`:
    by which tunnels, and why; '' where it would use none. `datagrams`: which flows of them there are, and what will
    become of them; '' where there are none. `copy`: whether it is compressed, and why; `forecast`: what it will send
    and take, '' where nobody can tell."""

    host: str
    because: str
    findings: tuple[Finding, ...]
    legs: str = ""
    datagrams: str = ""
    copy: str = ""
    forecast: str = ""

    @property
    def blocked(self) -> bool:
        """Whether a finding stops the move."""
        return bool(checks.blockers(self.findings))


class Checker:
    """The use cases, on the tools of one process."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._reservations = Reservations(tools.maintenance)

    def check(self, request: Request) -> Checked:
        """Everything that stands against a move, all at once. Changes nothing."""
        return _checked(request, self._seen(request))

    def check_all(self, requests: Iterable[Request], at: str = "") -> list[tuple[Request, Checked]]:
        """check() of many requests of one handoff, guests side by side, each of them looked at once. Left out are those
        of guests that are not of site `at`, if one is named, and those to the one site where the guest runs already."""
        by_guest: dict[Guest, list[Request]] = {}
        for request in requests:
            by_guest.setdefault(request.guest, []).append(request)
        surveys = self.look_at(wanted[0] for wanted in by_guest.values())
        return [
            (request, _checked(request, seen))
            for wanted, (_, seen) in zip(by_guest.values(), surveys, strict=True)
            for request in wanted
            if not at or may_be_of(at, seen)
            if request.destination.name != at and {view.site for view in seen.running_at} != {request.destination.name}
        ]

    def look_at(self, requests: Iterable[Request]) -> list[tuple[Request, Survey]]:
        """What there is to know of each guest before a move, guests side by side. Changes nothing."""
        wanted, same = [*requests], _Same()
        with self._tools.archive() as archive:  # one for all: each would open a connection of its own
            looking = [partial(lambda asked: same.of(self._seen(asked, archive)), r) for r in wanted]
            return [*zip(wanted, waiting.each(looking, LOOKED_AT_ONCE), strict=True)]

    def _seen(self, request: Request, archive: Archive | None = None) -> Survey:
        """As it is now, less what moves under way count on."""
        past = archive.past(request.guest) if archive is not None else self._past(request.guest)
        with self._tools.worlds(_nobody, _never) as world:
            return measured.look(self._tools.inventory, request, world, True, self._reservations.counted, past)

    def _past(self, guest: Guest) -> Past:
        with self._tools.archive() as archive:
            return archive.past(guest)


class _Same:
    """Thousands of surveys have the same to say of hosts, with all their leases: what is equal is kept once."""

    def __init__(self) -> None:
        self._known: dict[object, Any] = {}

    def of(self, survey: Survey) -> Survey:
        """The same survey. Safe to use from any thread."""
        views = (
            replace(v, facts=self._once(v.facts), network=self._once(v.network), pools=self._once(v.pools))
            for v in survey.views
        )
        return replace(survey, views=tuple(views))

    def _once(self, found: Part) -> Part:
        same: Part = self._known.setdefault(found, found)
        return same


def _checked(request: Request, seen: Survey) -> Checked:
    placed = checks.place(request, seen)
    legs, told = seamless.tunnel_between(placed, seen), seamless.datagrams_told(placed, seen)
    chosen, expected = compression.between(placed, seen), None
    if chosen is not None:
        expected = forecast.forecast(placed, seen, chosen.method)
    copy = f"{chosen.method}: {chosen.because}" if chosen is not None else ""
    found = tuple(checks.check(placed, seen))
    if any(finding.code == "already-there" for finding in found):
        legs, told, copy, expected = "", "", "", None  # there is nothing to copy or carry
    return Checked(placed.host, placed.because, found, legs, told, copy, expected.text if expected else "")


def _nobody(_event: Event) -> None:
    pass  # looking publishes nothing


def _never() -> bool:
    return False
