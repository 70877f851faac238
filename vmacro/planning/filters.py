"""Whether libvirt's network filters let a guest use the addresses that it has after a move. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        lost = [a for a in needed if ip_address(a).version in found.versions and a not in found.allowed]
        if found.mac == card.mac and (lost or not found.known):
            yield _finding(request, found, lost, target, whose)


def _needed(survey: Survey, target: HostView, mac: str) -> list[str]:
    """The new addresses first, then those that the guest has."""
    claimed = survey.agent.claimed if survey.agent is not None else ()
    network = target.network
    new = (next_address(network, mac, claimed), next_address6(network, mac, claimed)) if network is not None else ()
    return [address for address in dict.fromkeys((*new, *claimed)) if address]


def _finding(request: Request, found: Filter, lost: list[str], target: HostView, whose: str) -> Finding:
    severity = Severity.BLOCKER if lost and found.where == LIVE else Severity.WARNING
    filter_ = f"the filter {found.name!r} of its card {found.mac}{whose}"
    if not lost:
        text = f"nobody knows what {filter_} lets pass: its libvirt does not show it, or it has addresses of its own"
        hint = f"virsh nwfilter-dumpxml {found.name} there: does it hold the guest to addresses ($IP)?"
        return Finding("anti-spoofing", severity, f"guest {request.guest.name}", text, hint)
    if found.where != LIVE:
        filter_ += ", from its next start on,"
    text = f"{filter_} holds it to one address, which libvirt learns, and it is to have {_some(lost)}"
    if found.allowed:
        text = f"{filter_} holds it to {_some(found.allowed)}: what it sends from {_some(lost)} would be dropped"
    instead = " (the guard of its hosts holds it to its addresses)" if target.guard else ""
    hint = (
        f"take the <filterref> out, live and stored{instead}: virsh update-device --live --config; "
        f"or a <parameter name='IP' value='…'/> in it for each address"
    )
    return Finding("anti-spoofing", severity, f"guest {request.guest.name}", text, hint)


def _some(addresses: Sequence[str], most: int = 3) -> str:
    more = len(addresses) - most
    return " and ".join([", ".join(addresses[:most]), *([f"{more} more"] if more > 0 else [])])
