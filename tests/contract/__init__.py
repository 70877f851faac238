"""What services rely on, verb by verb, held against the world in memory and against the real drivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])
CERTIFIED: dict[str, list[str]] = {}


def certifies(*verbs: str) -> Callable[[Test], Test]:
    """Marks a test as holding a verb, named as in `Agent.retire`, to what vmacro/ports.py promises of it."""

    def marked(test: Test) -> Test:
        for verb in verbs:
            CERTIFIED.setdefault(verb, []).append(test.__name__)
        return test

    return marked
