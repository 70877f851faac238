"""Whether libvirt's network filters let a guest use the addresses that it has after a move. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import ip_address

from vmacro.model.definitions import FILTER
from vmacro.model.facts import HostView, Survey
from vmacro.model.filters import LIVE, Filter
from vmacro.model.moves import Finding, Severity
from vmacro.planning import cards
from vmacro.planning.addresses import next_address, next_address6
from vmacro.planning.request import Request, source_view, target_view


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """Of the card that moves. What it cannot send from after the move would be lost without a word."""
    source, target, card = source_view(survey), target_view(request, survey), cards.card(survey)
    if source is None or target is None or card is None or source.site == target.site or survey.definition is None:
        return  # where it could not be read, another rule speaks
    needed = _needed(survey, target, card.mac)
    here, there = survey.definition.filters, target.fit.filters if target.fit is not None else ()
    absent = {need.name for need in (target.fit.absent if target.fit is not None else ()) if need.kind == FILTER}
    new = (found for found in there if found not in here and found.name not in absent)
    also = [(found, f", as {target.host} has it,") for found in new]
    for found, whose in [*((found, "") for found in here), *also]:
        lost = _lost(found, needed)
        if found.mac == card.mac and (lost or not found.known):
            yield _finding(request, found, lost, target, whose)


def dropped(found: Iterable[Filter], mac: str, has: Iterable[str], but: Collection[str] = ()) -> list[str]:
    """By which filters a guest that runs is not let send from addresses that it has, in words; [] where it may from
    all, or nobody can say; `but` for those that somebody knows better. One that learns lets all pass until it has
    learnt: that packets pass now proves nothing."""
    needed = [address for address in has if address not in but]
    lost = ((held, _lost(held, needed)) for held in found if held.mac == mac and held.where == LIVE)
    return [f"{_named(held)} {_holds(held, some, 'has', 'is')}" for held, some in lost if some]


def unknown(found: Iterable[Filter], mac: str) -> list[str]:
    """Of which filters nobody can say what they let pass, in words."""
    return [f"what {_named(held)} lets pass" for held in found if held.mac == mac and not held.known]


def _needed(survey: Survey, target: HostView, mac: str) -> list[str]:
    """The new addresses first, then those that the guest has."""
    claimed = survey.agent.claimed if survey.agent is not None else ()
    network = target.network
    new = (next_address(network, mac, claimed), next_address6(network, mac, claimed)) if network is not None else ()
    return [address for address in dict.fromkeys((*new, *claimed)) if address]


def _finding(request: Request, found: Filter, lost: list[str], target: HostView, whose: str) -> Finding:
    severity = Severity.BLOCKER if lost and found.where == LIVE else Severity.WARNING
    filter_ = f"{_named(found)}{whose}"
    if not lost:
        text = f"nobody knows what {filter_} lets pass: its libvirt does not show it, or it has addresses of its own"
        hint = f"virsh nwfilter-dumpxml {found.name} there: does it hold the guest to addresses ($IP)?"
        return Finding("anti-spoofing", severity, f"guest {request.guest.name}", text, hint)
    if found.where != LIVE:
        filter_ += ", from its next start on,"
    text = f"{filter_} {_holds(found, lost, 'is to have', 'would be')}"
    instead = " (the guard of its hosts holds it to its addresses)" if target.guard else ""
    hint = (
        f"take the <filterref> out, live and stored{instead}: virsh update-device --live --config; "
        f"or a <parameter name='IP' value='…'/> in it for each address"
    )
    return Finding("anti-spoofing", severity, f"guest {request.guest.name}", text, hint)


def _lost(held: Filter, needed: Iterable[str]) -> list[str]:
    return [a for a in needed if ip_address(a).version in held.versions and a not in held.allowed]


def _named(held: Filter) -> str:
    return f"the filter {held.name!r} of its card {held.mac}"


def _holds(held: Filter, lost: Sequence[str], has: str, are: str) -> str:
    if held.allowed:
        return f"holds it to {_some(held.allowed)}: what it sends from {_some(lost)} {are} dropped"
    return f"holds it to one address, which libvirt learns, and it {has} {_some(lost)}"


def _some(addresses: Sequence[str], most: int = 3) -> str:
    more = len(addresses) - most
    return " and ".join([", ".join(addresses[:most]), *([f"{more} more"] if more > 0 else [])])
