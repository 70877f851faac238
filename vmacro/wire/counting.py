"""Connections by what has become of them: counted where they are, as there may be too many to tell of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Optional

from vmacro.wire.agent_verbs import (
    MAX_CONNECTIONS,
    UNANSWERED,
    Beyond,
    Connection,
    CountArgs,
    Counts,
    Ended,
)

FOLLOWED, MUTE, CARRIED, JOINING, ELSEWHERE, NO_PATH = "followed", "mute", "carried", "joining", "elsewhere", "no path"
REST = 9  # times as long as a look took: a tenth of a guest's time goes into being looked at, however many there are


@dataclass(frozen=True)
class Began:
    """What a watch began with, by Connection.key: whether its client was willing, and the addresses that it used.
    `shown`: those that the watch's reply had room for."""

    watched: Mapping[str, tuple[bool, tuple[str, ...]]] = field(default_factory=dict)
    shown: frozenset[str] = frozenset()

    def first(self, found: list[Connection]) -> list[Connection]:
        """The same; of more than a reply has room for, those first that were shown when the watch began."""
        return found if len(found) <= MAX_CONNECTIONS else sorted(found, key=lambda c: c.key not in self.shown)


def began_with(found: Collection[Connection]) -> Began:
    """These, in the order of the reply."""
    watched = {c.key: (c.willing, tuple(s.local for s in c.subflows if s.established)) for c in found}
    return Began(watched, frozenset(list(watched)[:MAX_CONNECTIONS]))


def counted(args: CountArgs, began: Began, now: Iterable[Connection], ended: Mapping[str, Ended], told: bool) -> Counts:
    """Those that are there now, and what became of those watched. `ended`: of which the kernel has told, by key;
    `told`: it will soon tell of the others, too."""
    there = {c.key: c for c in now}
    wanted = set(args.addresses)
    joined = {key for key, c in there.items() if c.reaches(*args.addresses)}
    mptcp = {key for key, c in there.items() if c.mptcp}
    untold = began.watched.keys() - there.keys() - ended.keys() if told else set()
    expected = {
        key
        for key, (willing, used) in began.watched.items()
        if (willing if args.willing else not wanted.isdisjoint(used))
    }
    hidden = [key for key in began.watched if key not in began.shown]
    # Those that have ended by being lost are told of by name, before all others (Endings).
    verdicts = [_verdict(args, there.get(key), ended.get(key)) for key in hidden if not _is_told(key, there, ended)]
    return Counts(
        total=len(there),
        mptcp=len(mptcp),
        joined=len(joined),
        apart=len(mptcp - joined),
        awaited=len((expected - joined) & (there.keys() | untold)),
        untold=len(untold),
        beyond=Beyond(**Counter(verdicts)),
    )


def _is_told(key: str, there: Mapping[str, Connection], ended: Mapping[str, Ended]) -> bool:
    return key not in there and key in ended and ended[key].lost


def _verdict(args: CountArgs, new: Optional[Connection], end: Optional[Ended]) -> str:
    if new is None:
        return "ended" if end is not None else "unknown"
    return {FOLLOWED: "followed", CARRIED: "carried", NO_PATH: "lost"}.get(how_it_is(new, args), "unknown")


def how_it_is(connection: Connection, args: CountArgs) -> str:
    """One that is there: FOLLOWED, MUTE (its client does not answer at the new address), CARRIED, JOINING (its client
    has not answered there yet), ELSEWHERE (on another card of the guest's), or NO_PATH."""
    good = [s for s in connection.subflows if s.local in args.addresses and s.established]
    if good:
        return MUTE if all(s.unanswered >= UNANSWERED for s in good) else FOLLOWED
    if connection.uses(*args.carried):
        return CARRIED
    if connection.uses(*args.addresses):
        return JOINING
    # The other card's network may be one at both sites. Of IPv6 the agent does not know all that its own card has.
    used = [s.local for s in connection.subflows]
    elsewhere = args.known and used and all(a not in args.known and ":" not in a for a in used)
    return ELSEWHERE if elsewhere else NO_PATH
