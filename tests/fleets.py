"""Fleets for tests of placement: sites around the world, whose prices and carbon follow the sun."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

from vmacro.fleet.nouns import (
    Apart,
    Fleet,
    GuestNeeds,
    Horizon,
    HostRoom,
    Level,
    Link,
    Region,
    Rules,
    SiteOutlook,
    Weights,
)

START = datetime(2026, 6, 1, tzinfo=UTC)
WEIGHTS = Weights(price=1.0, carbon_per_kg=0.05, rtt_per_ms_hour=0.00002, pause_per_s=0.01)


def outlook(number: int, sites: int, slots: int, chance: random.Random, **more: object) -> SiteOutlook:
    phase = 24 * number / sites
    sun = [math.sin(2 * math.pi * (t + phase) / 24) for t in range(slots)]
    price = tuple(round(0.12 - 0.09 * s + chance.uniform(-0.02, 0.02), 4) for s in sun)
    carbon = tuple(round(300 - 200 * s + chance.uniform(-30, 30), 1) for s in sun)
    labels = ("eu",) if number % 2 else ("us",)
    return SiteOutlook(f"s{number}", price, carbon, chance.uniform(1.05, 1.4), labels, (("db", 3),), **more)  # type: ignore[arg-type]


def links(names: list[str], mib_s: float = 1000.0) -> tuple[Link, ...]:
    return tuple(Link(a, b, mib_s, 0.0005, 0.001) for a in names for b in names if a != b)


def fleet(
    guests: int,
    sites: int,
    hosts: int = 2,
    slots: int = 24,
    fullness: float = 0.5,
    seed: int = 1,
    rules: Rules | None = None,
    mib_s: float = 1000.0,
) -> Fleet:
    """`hosts` each site; guests take `fullness` of the memory in all, and are spread over all hosts at random."""
    chance = random.Random(seed)
    names = [f"s{n}" for n in range(sites)]
    memory = [chance.choice((2048, 4096, 8192, 16384)) for _ in range(guests)]
    each = max(max(memory), int(sum(memory) / fullness / (sites * hosts)))
    rooms = [HostRoom(f"{s}h{n}", s, each, each / 2048, each / 50) for s in names for n in range(hosts)]
    free = {r.name: each for r in rooms}
    needs = []
    for n, mib in enumerate(memory):
        fitting = [name for name, left in free.items() if left >= mib] or [max(free, key=lambda h: free[h])]
        at = chance.choice(fitting)
        free[at] -= mib
        clients = tuple((f"r{k}", chance.random()) for k in chance.sample(range(3), 2))
        where = chance.choice([(), (), (), ("eu",), ("us",)])
        home_label = "eu" if int(at[1 : at.index("h")]) % 2 else "us"
        needs.append(
            GuestNeeds(
                f"g{n}",
                at,
                mib,
                cpus=mib / 4096,
                disk_gib=chance.choice((0.0, 10.0, 20.0)),
                dirty_mib_s=chance.uniform(0, 50),
                watts=chance.uniform(20, 120),
                clients=clients,
                residency=where if home_label in where else (),
            )
        )
    regions = tuple(
        Region(f"r{k}", tuple((s, chance.uniform(5, 200)) for s in names), tuple(1.0 for _ in range(slots)))
        for k in range(3)
    )
    outlooks = tuple(outlook(n, sites, slots, chance) for n in range(sites))
    return Fleet(
        Horizon(START, 3600, slots),
        tuple(needs),
        tuple(rooms),
        outlooks,
        links(names, mib_s),
        regions,
        rules or Rules(),
        WEIGHTS,
    )


def with_apart(base: Fleet, groups: int, size: int, level: Level, seed: int = 1) -> tuple[Apart, ...]:
    """Rules for guests that keep to them already."""
    chance = random.Random(seed)
    at = {h.name: h.site if level is Level.SITE else h.name for h in base.hosts}
    found = []
    for _ in range(groups):
        chosen: dict[str, str] = {}
        for guest in chance.sample(base.guests, len(base.guests)):
            if len(chosen) < size:
                chosen.setdefault(at[guest.host], guest.name)
        found.append(Apart(tuple(chosen.values()), level))
    return tuple(found)
