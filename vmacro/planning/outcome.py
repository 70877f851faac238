"""What became of the connections. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vmacro.model.facts import Connection
from vmacro.model.moves import ConnectionOutcome


def compare(
    before: Iterable[Connection], after: Iterable[Connection], present: tuple[str, ...], carried: Iterable[str]
) -> list[ConnectionOutcome]:
    """Each connection seen before, as it is after; one that is gone was not kept."""
    now = {c.key: c for c in after}
    outcomes = []
    for old in before:
        new = now.get(old.key)
        followed = new is not None and new.reaches(*present)
        held = new is not None and not followed and any(new.reaches(a) for a in carried)
        # A plain TCP connection still stands in the guest's table, but nobody reaches it there.
        kept = followed or held or (new is not None and new.mptcp)
        outcomes.append(ConnectionOutcome(old.key, old.client, old.mptcp, kept, followed, held))
    return outcomes


def all_followed(expected: Iterable[str], after: Iterable[Connection], present: tuple[str, ...]) -> bool:
    """Whether every expected connection that still exists uses one of the guest's present addresses."""
    wanted = set(expected)
    return all(c.reaches(*present) for c in after if c.key in wanted)
