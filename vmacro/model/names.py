"""Names of guests in DNS, as an authoritative server has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vmacro.wire.fields import Address, Items, Number, Text

MOST_RECORDS = 64  # of a name and a family
_Address = Annotated[str, Address()]


@dataclass(frozen=True)
class RecordSet:
    """All addresses of one family that a name server has for a name, in order; none: it has no such record. `ttl_s`:
    how long others may keep them (RFC 2181 section 8)."""

    addresses: Annotated[tuple[_Address, ...], Items(MOST_RECORDS)] = ()
    ttl_s: Annotated[int, Number(0, (1 << 31) - 1)] = 0


@dataclass(frozen=True)
class NameFacts:
    """What the authoritative server says of a name: its records A and AAAA."""

    name: Annotated[str, Text(253)]
    a: RecordSet = RecordSet()
    aaaa: RecordSet = RecordSet()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of both families."""
        return self.a.addresses + self.aaaa.addresses

    @property
    def ttl_s(self) -> int:
        """The longer one."""
        return max(self.a.ttl_s, self.aaaa.ttl_s)


@dataclass(frozen=True)
class NameView:
    """A name of a guest as the survey found it; without `facts`, `code` (NamesError), `trouble` and `hint` say why."""

    name: str
    facts: NameFacts | None = None
    code: str = ""
    trouble: str = ""
    hint: str = ""
