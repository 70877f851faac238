"""A name server and an operator's executables, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vmacro.drivers.fake.state import Effect
from vmacro.errors import HookError, NamesError
from vmacro.model.facts import HookEnd
from vmacro.model.names import NameFacts, RecordSet

if TYPE_CHECKING:
    from vmacro.drivers.fake.world import FakeWorld


@dataclass
class FakeZone:
    """`names` by name; `key`: whether the server takes our key; `closed`: it answers, and changes nothing for us;
    `meddlers`: changes that others make, each just before one of ours."""

    names: dict[str, NameFacts] = field(default_factory=dict)
    up: bool = True
    key: bool = True
    closed: bool = False
    meddlers: list[NameFacts] = field(default_factory=list)

    def put(self, name: str, *addresses: str, ttl_s: int = 30) -> None:
        self.names[name] = _facts(name, addresses, ttl_s, ttl_s)


class FakeNames:
    """Implements ports.Names."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    def look(self, name: str) -> NameFacts:
        return self._reached("look").names.get(name, NameFacts(name))

    def replace(self, seen: NameFacts, wanted: tuple[str, ...]) -> bool:
        zone = self._reached("replace")
        if zone.closed:
            raise NamesError("name server 10.9.0.53: an update: refused: REFUSED", "what may our key update?")
        if zone.meddlers:
            other = zone.meddlers.pop(0)
            zone.names[other.name] = other
        found = zone.names.get(seen.name, NameFacts(seen.name))
        if (found.a.addresses, found.aaaa.addresses) != (seen.a.addresses, seen.aaaa.addresses):
            return False
        zone.names[seen.name] = _facts(seen.name, wanted, seen.a.ttl_s, seen.aaaa.ttl_s)
        return True

    def _reached(self, verb: str) -> FakeZone:
        self._world.before(Effect(f"names.{verb}"))
        zone = self._world.zone
        if not zone.up:
            raise NamesError("name server 10.9.0.53: no answer", "is it up?", "silent")
        if not zone.key:
            raise NamesError("name server 10.9.0.53: it does not take our key", "the key file?", "key")
        return zone


@dataclass
class FakeHooks:
    """Implements ports.Hooks. `ran`: which, and what it was told; `ends`: how those end that do not end well."""

    world: FakeWorld
    ran: list[tuple[str, str]] = field(default_factory=list)
    ends: dict[str, HookEnd] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    def run(self, path: str, told: str, deadline_s: float) -> HookEnd:
        self.world.before(Effect("hook"))
        if path in self.missing:
            raise HookError(f"{path}: there is no such file")
        self.ran.append((path, told))
        end = self.ends.get(path, HookEnd(0, 5, ""))
        return replace(end, took_ms=round(deadline_s * 1000)) if end.late else end


def _facts(name: str, addresses: tuple[str, ...], ttl_s: int, ttl6_s: int) -> NameFacts:
    def records(found: list[str], ttl: int) -> RecordSet:
        return RecordSet(tuple(sorted(found)), ttl) if found else RecordSet()

    four, six = [a for a in addresses if ":" not in a], [a for a in addresses if ":" in a]
    return NameFacts(name, records(four, ttl_s), records(six, ttl6_s))
