"""What became of the connections, from how they were before and after a move. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vmacro.model.facts import Connection
from vmacro.model.moves import ConnectionOutcome


def compare(
    before: Iterable[Connection], after: Iterable[Connection], present: tuple[str, ...], carried: Iterable[str]
) -> list[ConnectionOutcome]:
    """Each connection that was there before, and what became of it. `present`: the guest's addresses at the new site;
    `carried`: its old ones that are still reached."""
    now = {c.key: c for c in after}
    outcomes = []
    for old in before:
        new = now.get(old.key)
        followed = new is not None and new.reaches(*present)
        is_carried = new is not None and not followed and any(new.reaches(a) for a in carried)
        # A plain TCP connection still stands in the guest's table, but nobody reaches it there.
        kept = followed or is_carried or (new is not None and new.mptcp)
        outcomes.append(ConnectionOutcome(old.key, old.client, old.mptcp, kept, followed, is_carried))
    return outcomes


def all_followed(expected: Iterable[str], after: Iterable[Connection], present: tuple[str, ...]) -> bool:
    """Whether every expected connection that still exists uses one of the guest's present addresses."""
    wanted = set(expected)
    return all(c.reaches(*present) for c in after if c.key in wanted)
