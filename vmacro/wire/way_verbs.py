"""What the host side may be asked about its ways to other hosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vmacro.wire.fields import Number, Unicast, Word
from vmacro.wire.messages import Nothing, Verb

MOST_WIDE = 64  # one for each move
_DEADLINE_S = 15.0


@dataclass(frozen=True)
class WideWay:
    """A route by which connections to another host begin wide. `token`: whose it is (names.way_token)."""

    address: Annotated[str, Unicast()]
    token: Annotated[int, Number(0, (1 << 32) - 1)]


@dataclass(frozen=True)
class Widen:
    """For which move, and the other host, by the address to which guests' memory goes."""

    move: Annotated[str, Word()]
    address: Annotated[str, Unicast()]


@dataclass(frozen=True)
class Narrow:
    """All that was widened for a move."""

    move: Annotated[str, Word()]


WIDEN = Verb("widen", Widen, Nothing, _DEADLINE_S)
NARROW = Verb("narrow", Narrow, Nothing, _DEADLINE_S)
