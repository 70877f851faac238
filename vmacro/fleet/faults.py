"""What is wrong with a fleet as it was told: with any of it nothing is moved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from vmacro.fleet.nouns import Fleet, GuestNeeds, Level
from vmacro.model.moves import Finding, Severity

MOST = 1e12  # of any amount: sums of them stay exact enough


def check(fleet: Fleet) -> tuple[Finding, ...]:
    """All faults, of names and numbers first: rules are looked at once those are right."""
    found = tuple(_names(fleet)) or tuple(_numbers(fleet))
    return found or tuple(_rules(fleet))


def _fault(code: str, subject: str, message: str, hint: str = "") -> Finding:
    return Finding(code, Severity.BLOCKER, subject, message, hint)


def _names(fleet: Fleet) -> Iterator[Finding]:
    names = {
        "guest": [guest.name for guest in fleet.guests],
        "host": [host.name for host in fleet.hosts],
        "site": [site.name for site in fleet.sites],
        "region": [region.name for region in fleet.regions],
    }
    known = {kind: set(of) for kind, of in names.items()}
    for kind, of in names.items():
        if kind != "region" and not of:
            yield _fault("fleet-empty", "fleet", f"has no {kind}")
        for name, count in Counter(of).items():
            if count > 1:
                yield _fault("name-twice", f"{kind} {name}", f"is there {count} times")
    for subject, kind, name in _references(fleet):
        if name not in known[kind]:
            yield _fault("name-unknown", subject, f"names {kind} {name}, which there is not")


def _references(fleet: Fleet) -> Iterator[tuple[str, str, str]]:
    for guest in fleet.guests:
        yield f"guest {guest.name}", "host", guest.host
        yield from ((f"guest {guest.name}", "region", region) for region, _ in guest.clients)
    yield from ((f"host {host.name}", "site", host.site) for host in fleet.hosts)
    for link in fleet.links:
        yield from ((f"link {link.source} to {link.target}", "site", name) for name in (link.source, link.target))
    for region in fleet.regions:
        yield from ((f"region {region.name}", "site", site) for site, _ in region.rtt_ms)
    for names in (*fleet.rules.together, *(rule.guests for rule in fleet.rules.apart)):
        yield from (("a rule", "guest", name) for name in names)


def _numbers(fleet: Fleet) -> Iterator[Finding]:
    horizon, rules, weights = fleet.horizon, fleet.rules, fleet.weights
    if horizon.start.tzinfo is None:
        yield _fault("time-zone-missing", "horizon", f"starts at {horizon.start}, of no time zone")
    if not (60 <= horizon.slot_s <= 86_400 and 86_400 % horizon.slot_s == 0 and 1 <= horizon.slots <= 1000):
        hint = "slots of which a day has a whole number, 1000 at most"
        yield _fault("horizon-odd", "horizon", f"{horizon.slots} slots of {horizon.slot_s} s", hint)
    for subject, name, values in _amounts(fleet):
        for value in values:
            if not math.isfinite(value) or abs(value) > MOST or (value < 0 and name != "price"):
                yield _fault("number-odd", subject, f"{name} is {value}")
                break
    for subject, name, length in _series(fleet):
        if length not in (0, horizon.slots):
            yield _fault("series-length", subject, f"{name} has {length} values for {horizon.slots} slots")
    odd = rules.worth < 1 or not 0 <= rules.most_moves_a_day <= 24 or rules.shortest_stay_s < 0
    if odd or not all(math.isfinite(w) and w >= 0 for w in (rules.worth, rules.least_gain, *vars(weights).values())):
        yield _fault(
            "rules-odd", "rules", f"{rules.worth=}, {rules.most_moves_a_day=}, {weights}".replace("rules.", "")
        )
    for guest in fleet.guests:
        if any(when is not None and when.tzinfo is None for when in (guest.since, *guest.moved)):
            yield _fault("time-zone-missing", f"guest {guest.name}", "came or moved at a time of no time zone")


def _amounts(fleet: Fleet) -> Iterator[tuple[str, str, Iterable[float]]]:
    for g in fleet.guests:
        sizes = (g.memory_mib, g.cpus, g.disk_gib, g.dirty_mib_s, g.watts, *(share for _, share in g.clients))
        yield f"guest {g.name}", "one of its needs", sizes
    for h in fleet.hosts:
        yield f"host {h.name}", "its room", (h.memory_mib, h.cpus, h.disk_gib)
    for s in fleet.sites:
        yield f"site {s.name}", "price", s.price_per_kwh
        yield f"site {s.name}", "carbon", (*s.carbon_g_per_kwh, s.pue)
    for link in fleet.links:
        yield f"link {link.source} to {link.target}", "rate", (link.mib_s, link.price_per_gib, link.kwh_per_gib)
    for r in fleet.regions:
        yield f"region {r.name}", "round trip", (*(ms for _, ms in r.rtt_ms), *r.activity)


def _series(fleet: Fleet) -> Iterator[tuple[str, str, int]]:
    for s in fleet.sites:
        yield f"site {s.name}", "price", len(s.price_per_kwh)
        yield f"site {s.name}", "carbon", len(s.carbon_g_per_kwh)
    yield from ((f"region {r.name}", "activity", len(r.activity)) for r in fleet.regions)


def _rules(fleet: Fleet) -> Iterator[Finding]:
    guests = {guest.name: guest for guest in fleet.guests}
    for guest in fleet.guests:
        yield from _possible(fleet, guest)
    for rule in fleet.rules.apart:
        if len(set(rule.guests)) < len(rule.guests):
            yield _fault("rule-odd", "apart rule", f"names a guest twice: {', '.join(rule.guests)}")
    for names in fleet.rules.together:
        for rule in fleet.rules.apart:
            both = sorted(set(names) & set(rule.guests))
            if rule.level is Level.SITE and len(both) > 1:
                message = f"must be at one site, and must not be: {', '.join(both)}"
                yield _fault("rules-contradict", f"guest {both[0]}", message, "take one of the rules away")
        if names and not _common(fleet, [guests[name] for name in names]):
            message = f"must be at one site, and none takes all of them: {', '.join(names)}"
            yield _fault("rules-contradict", f"guest {names[0]}", message, "see their residency and licences")


def _possible(fleet: Fleet, guest: GuestNeeds) -> Iterator[Finding]:
    if not _common(fleet, [guest]):
        wants = ", ".join((*guest.residency, *guest.licences))
        hint = "a label or a licence of that name at some site"
        yield _fault("site-missing", f"guest {guest.name}", f"no site has what it must have: {wants}", hint)


def _common(fleet: Fleet, guests: list[GuestNeeds]) -> bool:
    return any(all(allowed(fleet, guest, n) for guest in guests) for n in range(len(fleet.sites)))


def allowed(fleet: Fleet, guest: GuestNeeds, site: int) -> bool:
    """Whether residency and licences let a guest be at a site."""
    outlook = fleet.sites[site]
    licensed = {name for name, count in outlook.licences if count > 0}
    return (not guest.residency or bool(set(guest.residency) & set(outlook.labels))) and licensed >= set(guest.licences)
