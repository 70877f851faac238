"""What libvirt's network filters (nwfilter) hold a domain's cards to; with bounds, as all that others say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from vmacro.model.domains import MaybeMac, Name
from vmacro.wire.fields import Address, Choice, Items, Text

LIVE, STORED = "live", "stored"  # the domain as it runs; what it will be at its next start
MOST_FILTERS = 256
MOST_PINNED = 64


@dataclass(frozen=True)
class Filter:
    """A filter of one card, by name, in the definition that `where` says. `versions`: of IP, in which it passes some
    addresses alone: those `allowed`; of IPv4, where none of that is, the one that libvirt learns. `known`: somebody
    could say what it does. `reference`: by what the card names it, with its parameters, as XML: another host may have
    another one of that name."""

    mac: MaybeMac
    name: Name
    where: Annotated[str, Choice((LIVE, STORED))]
    versions: Annotated[tuple[int, ...], Items(2)] = ()
    allowed: Annotated[tuple[Annotated[str, Address()], ...], Items(MOST_PINNED)] = ()
    known: bool = True
    reference: Annotated[str, Text(1 << 16)] = field(default="", compare=False)


Filters = Annotated[tuple[Filter, ...], Items(MOST_FILTERS)]
