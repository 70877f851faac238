"""Names that lead to a guest, and how long its old address goes on taking new connections. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from vmacro.model.facts import HomedAddress, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.model.names import NameFacts, NameView
from vmacro.model.nouns import Host, Policy
from vmacro.planning.addresses import seen_as
from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.planning.request import Request

LINGER_S = 60.0  # where the policy says nothing: many resolvers keep a name so long at least, whatever its TTL
LONGEST_FOLLOWED_S = 3600.0  # a longer TTL makes the old address linger only where the policy says so
_CODES = {"silent": "name-server", "key": "name-key"}
_REFUSED = "name-refused"


def linger_s(policy: Policy, names: Iterable[NameView]) -> float:
    """How long the old address takes new connections: as the policy says, else as long as others may keep the names."""
    if policy.linger_s is not None:
        return policy.linger_s
    ttls = [view.facts.ttl_s for view in names if view.facts is not None]
    return min(float(max([LINGER_S, *ttls])), LONGEST_FOLLOWED_S)


def addresses_wanted(seen: NameFacts, old: Collection[str], present: Collection[str]) -> tuple[str, ...] | None:
    """To which addresses a name is to lead once its guest has moved from `old` addresses to the `present` ones. None
    where it leads to somebody else: of a family that the guest has, there are records, and none is the guest's; or the
    name would not lead to the guest at all.

    Records of others beside the guest's stay. A family without records gets none; one that the guest has no address of
    any more loses the guest's.
    """
    wanted: list[str] = []
    for records, version6 in ((seen.a.addresses, False), (seen.aaaa.addresses, True)):
        new = [address for address in present if (":" in address) == version6]
        others = [address for address in records if address not in old and address not in new]
        if records and new and len(others) == len(records):
            return None
        wanted += [*others, *new] if records else []
    return tuple(sorted(wanted)) if set(wanted) & set(present) else None


def led(
    seen: NameFacts, old: Collection[HomedAddress], at: Host, present: Sequence[str]
) -> tuple[set[str], tuple[str, ...]]:
    """Old and present addresses by which a name is to be judged (addresses_wanted): as clients elsewhere know them
    (seen_as) where it leads to such a one, else as the guest itself does: a name of the inside of a site that
    translates its addresses stays one. `at`: where the guest has its `present` addresses."""
    known = {seen_as(homed.home, homed.address) for homed in old}
    there = tuple(seen_as(at, address) for address in present)
    inside = {homed.address for homed in old}
    if not {*known, *there}.isdisjoint(seen.addresses):
        return known | inside, there
    return inside, tuple(present)


def _names_lead_here(request: Request, survey: Survey) -> Iterator[Finding]:
    for view in survey.names:
        subject = f"name {view.name}"
        if view.code:
            code = _CODES.get(view.code, _REFUSED)
            hint = f"{view.hint}; without it the move ends with exit code 5".removeprefix("; ")
            yield Finding(code, Severity.WARNING, subject, view.trouble, hint)
        at = next((h for v in survey.running_at for h in survey.hosts if h.name == v.host), None)
        if view.facts is None or at is None or survey.agent is None or not survey.agent.address:
            continue
        own = [address for address in (survey.agent.address, survey.agent.address6) if address]
        _, present = led(view.facts, (), at, own)
        if addresses_wanted(view.facts, (), present) is None:
            there = ", ".join(view.facts.addresses) or "nothing"
            text = f"leads to {there}, and guest {request.guest.name} has {' and '.join(present)}"
            hint = "set it to that: what somebody else has changed is not touched, and the move ends with exit code 5"
            earlier = {seen_as(homed.home, homed.address) for homed in survey.past.carried}
            if request.handoff == SEAMLESS and addresses_wanted(view.facts, earlier, present) is not None:
                hint = "an earlier move could not lead it: vmacro resume; or this move leads it"
            yield Finding("name-differs", Severity.WARNING, subject, text, hint)


def _old_address_lingers(request: Request, survey: Survey) -> Iterator[Finding]:
    if request.handoff == RENUMBER:
        if request.guest.names or request.policy.linger_s:
            text = "`renumber` has no leg: who still has the old address gets no answer there after the move"
            subject = f"guest {request.guest.name}"
            yield Finding("linger-missing", Severity.WARNING, subject, text, "--handoff seamless")
        return
    lasts = min(linger_s(request.policy, survey.names), request.policy.carry_deadline_s)
    for view in survey.names:
        if view.facts is not None and view.facts.ttl_s > lasts:
            text = (
                f"others may keep it for {view.facts.ttl_s} s (its TTL), and the old address takes new connections for "
                f"{lasts:g} s after the move"
            )
            hint = "lower its TTL, and wait for the old one to pass; or raise linger_s (carry_deadline_s comes first)"
            yield Finding("name-ttl", Severity.WARNING, f"name {view.name}", text, hint)


Rule = Callable[[Request, Survey], Iterator[Finding]]
RULES: tuple[Rule, ...] = (_names_lead_here, _old_address_lingers)
