"""Legs of a guest that stand at hosts, and which of them are ours. Pure.

A host can say that it has any leg. One is acted on only if both its ends say the same, each is at another host of the
inventory and names the other as its peer, and a move of this journal has planned it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from vmacro.model.facts import DomainFacts, FoundLegEnd, Leg, Survey
from vmacro.model.nouns import Host
from vmacro.planning.addresses import routes


@dataclass(frozen=True)
class Odd:
    """What hosts say of a leg that is not acted on: `at` which of them, and `why` not."""

    move_id: str
    address: str
    at: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Standing:
    """All that stands of one guest."""

    ours: tuple[Leg, ...]
    odd: tuple[Odd, ...]


class _End(NamedTuple):
    host: Host
    said: FoundLegEnd


def standing(survey: Survey, domain: DomainFacts, take_over: bool) -> Standing:
    """`take_over`: the journal of the guest's last move is lost, so its legs need not be in ours."""
    found: dict[tuple[str, str], list[_End]] = {}
    for host in survey.hosts:
        links = survey.view(host.name).links
        for end in links.legs if links is not None else ():
            if end.domain == domain.name:
                found.setdefault((end.move, end.address), []).append(_End(host, end))
    planned = {_named(leg) for leg in survey.past.legs}
    ours, odd = [], []
    for (move_id, address), ends in sorted(found.items()):
        leg, why = _put_together(ends, domain, survey)
        if leg is not None and not take_over and _named(leg) not in planned:
            leg, why = None, "no move of this journal has opened it"
        if leg is not None:
            ours.append(leg)
        used = (leg.home, leg.away) if leg is not None else ()
        left = tuple(end.host.name for end in ends if end.host not in used)
        if left:
            odd.append(Odd(move_id, address, left, why or "its ends are elsewhere"))
    return Standing(tuple(ours), tuple(odd))


def _put_together(ends: list[_End], domain: DomainFacts, survey: Survey) -> tuple[Leg | None, str]:
    """The one leg that these ends make, or why they make none."""
    times = Counter(end.host.name for end in ends)
    credible = [end for end in ends if times[end.host.name] == 1]
    pairs = [(home, away) for home in credible for away in credible if _agree(home, away, domain)]
    if len(pairs) != 1:
        return None, "its other end is at no host that answers" if len(ends) == 1 else "its ends do not agree"
    ((home, away),) = pairs
    if not routes(home.host, survey.view(home.host.name).network, home.said.address):
        return None, f"{home.host.name} has no such address to route"
    near, far = home.said, away.said
    return Leg(
        near.move, near.domain, near.mac, near.address, near.kind, home.host, away.host, near.bridge, far.bridge
    ), ""


def _agree(home: _End, away: _End, domain: DomainFacts) -> bool:
    near, far = home.said, away.said
    return (
        (near.side, far.side) == ("home", "away")
        and home.host.name != away.host.name
        and (near.peer, far.peer) == (away.host.address, home.host.address)
        and near.kind == far.kind
        and near.mac == far.mac
        and near.mac in {card.mac for card in domain.cards}
    )


def _named(leg: Leg) -> tuple[str, ...]:
    """What of a leg must be as it was planned; hosts may have changed otherwise since."""
    return leg.move_id, leg.domain, leg.mac, leg.address, leg.kind, leg.home.name, leg.away.name


def told(odd: Iterable[Odd], most: int = 5) -> list[str]:
    """Each of them for people, at most so many; the last says how many more there are."""
    found = list(odd)
    lines = [
        f"a leg of {o.address} (move {o.move_id}, at {' and '.join(o.at)}): {o.why}; it is left alone" for o in found
    ]
    more = len(lines) - most
    return lines if more <= 0 else [*lines[: most - 1], f"{more + 1} more legs that are left alone"]
