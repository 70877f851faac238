"""How a session with the host side of a host of Xen becomes the way to a guest's agent. It stands alone: each such
session begins with this import, and to declare all other verbs takes longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vmacro.wire.fields import Word
from vmacro.wire.messages import Nothing, Verb

WITHIN_S = 15.0


@dataclass(frozen=True)
class AgentOf:
    """To whose agent this session leads from now on. `polite`: not if somebody else talks to it."""

    domain: Annotated[str, Word()]
    polite: bool = False


AGENT = Verb("agent", AgentOf, Nothing, WITHIN_S)
