"""Whether a guest's destination has what the guest's domain names on its host: files, networks, filters, secrets,
addresses to listen at; by the live definition, and by the persistent one, which the guest starts by anew. Pure.

Cards on a network or bridge that the running guest has are cards.py's, its own disks are disks.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address

from vmacro.errors import without_subject
from vmacro.model.definitions import (
    ADDRESS,
    DEVICE,
    FILE,
    FILTER,
    NETWORK,
    PORT_GROUP,
    SECRET,
    VOLUME,
    Definition,
    Need,
)
from vmacro.model.facts import DomainFacts, HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.planning.request import Request, blocker, destination_host, source_view, target_view
from vmacro.wire.host_verbs import ABSENT, LONGEST_DEVICE

_CODES = {
    FILTER: "filter-missing",
    SECRET: "secret-missing",
    VOLUME: "volume-missing",
    PORT_GROUP: "port-group-missing",
}
_NAMES = {FILTER: "network filter", SECRET: "secret", VOLUME: "volume", PORT_GROUP: "port group"}
_FIXES = {
    FILTER: "virsh nwfilter-dumpxml where the guest is, nwfilter-define there",
    SECRET: "virsh secret-define and secret-set-value there, with the same UUID",
    VOLUME: "the same volume in a pool of the same name there: virsh vol-list",
    PORT_GROUP: "the same <portgroup> in the network of the same name there: virsh net-dumpxml, net-define",
}
_PUT = "put it there, at the same path; or take it out of the domain"


def paths(definition: Definition | None, domain: DomainFacts) -> tuple[str, ...]:
    """At which hosts are to look: what the domain names, and what lies below its own disks' bases."""
    named = (need.name for need in definition.named(FILE)) if definition is not None else ()
    below = (path for disk in domain.disks for path in (disk.backing, *disk.chain))
    return tuple(dict.fromkeys(path for path in (*named, *below) if path.startswith("/")))


def devices(definition: Definition | None) -> tuple[str, ...]:
    """Bridges and interfaces of its cards, of names that a kernel can have: no other is anywhere."""
    named = definition.named(DEVICE) if definition is not None else ()
    return tuple(need.name for need in named if len(need.name) <= LONGEST_DEVICE)


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """What the destination lacks, and what nobody could ask it about."""
    source, target, wanted = source_view(survey), target_view(request, survey), survey.definition
    if source is None or target is None or target.site == source.site:
        return
    if wanted is None:
        if survey.definition_trouble:
            yield _unread(f"host {source.host}", survey.definition_trouble)
        return
    if wanted.unread:
        names = "; ".join(wanted.unread[:4])
        more = f"; and {len(wanted.unread) - 4} more" if len(wanted.unread) > 4 else ""
        yield _unread(f"guest {request.guest.name}", f"it has what nobody can be asked for by its name: {names}{more}")
    yield from _files(wanted, source, target)
    yield from _looked_up(wanted, target)
    yield from _networks(wanted, source, target)
    yield from _addresses(request, survey, wanted, source, target)
    if target.fit is None and target.fit_trouble:
        yield _unread(f"host {target.host}", target.fit_trouble)


def _unread(subject: str, trouble: str) -> Finding:
    hint = "what the domain names is not compared: the copy may be refused"
    return Finding("definition-unread", Severity.WARNING, subject, trouble, hint)


def _files(wanted: Definition, source: HostView, target: HostView) -> Iterator[Finding]:
    subject, unknown = f"host {target.host}", []
    for need in wanted.named(FILE):
        here, there = source.file(need.name), target.file(need.name)
        if there is None:
            unknown += [need] if not target.links_trouble else []  # else another rule speaks
        elif there.kind == ABSENT:
            yield _absent(need, subject, nowhere=not need.live and here is not None and here.kind == ABSENT)
        elif here is not None and (here.kind, here.bytes) != (there.kind, there.bytes):
            text = f"its {need.name} ({_what(need)}) is another: {there.bytes} bytes, and {here.bytes} at {source.host}"
            hint = "the guest would read what is not its own: the same file at both hosts"
            severity = Severity.BLOCKER if need.live and need.read else Severity.WARNING
            yield Finding("file-differs", severity, subject, text, hint)
    if unknown:
        why = f": {without_subject(target.files_trouble, subject)}" if target.files_trouble else ""
        text = f"nobody has looked whether it has {_some(unknown)}{why}"
        hint = "its host side looks: hosts.*.ssh, vmacro provision hosts --tags host_side; or ls there"
        yield Finding("file-unknown", Severity.WARNING, subject, text, hint)


def _absent(need: Need, subject: str, nowhere: bool) -> Finding:
    """`nowhere`: where the guest is it could not be started anew either, so that the move makes nothing worse."""
    text = f"has no {need.name} ({_what(need)})"
    if need.optional:
        return _missing("file-missing", subject, text, "libvirt takes the medium out (startupPolicy)", need)
    if nowhere:
        text = f"neither it nor the guest's host has {need.name} ({_what(need)})"
    return _missing("file-missing", subject, text, _PUT, replace(need, optional=nowhere))


def _looked_up(wanted: Definition, target: HostView) -> Iterator[Finding]:
    """What libvirt itself has by a name."""
    fit, subject = target.fit, f"host {target.host}"
    if fit is None:
        return
    for need in fit.absent:
        text = f"has no {_NAMES[need.kind]} {need.name!r} ({_what(need)})"
        yield _missing(_CODES[need.kind], subject, text, _FIXES[need.kind], need)
    if fit.unasked:
        text = f"its libvirt cannot be asked whether it has {_some(fit.unasked)}"
        hint = "are all its daemons there? systemctl list-units 'virt*' there"
        yield Finding("definition-unread", Severity.WARNING, subject, text, hint)


def _networks(wanted: Definition, source: HostView, target: HostView) -> Iterator[Finding]:
    """Those of cards that the guest gets when it is started anew, and those that its graphics listen at."""
    assert source.domain is not None
    subject = f"host {target.host}"
    known = {card.network for card in source.domain.cards} | {card.device for card in source.domain.cards}
    for need in wanted.named(NETWORK):
        if need.name not in known and need.name not in target.networks:
            text = f"has no active libvirt network {need.name!r} ({_what(need)})"
            yield blocker("network-missing", subject, text, "virsh net-start it there; or take it out of the domain")
    for need in wanted.named(DEVICE):
        if need.name in known:
            continue
        if target.links is None:
            text, hint = f"nobody has looked whether it has {need.name} ({_what(need)})", "ip link show there"
            yield Finding("bridge-unknown", Severity.WARNING, subject, text, hint)
        elif need.name not in target.links.devices:
            hint = "make it there; or take that card out of the domain"
            yield blocker("bridge-missing", subject, f"has no {need.name} ({_what(need)})", hint)


def _addresses(
    request: Request, survey: Survey, wanted: Definition, source: HostView, target: HostView
) -> Iterator[Finding]:
    """QEMU listens at an address of its host, which another host does not have."""
    host, subject = destination_host(request, survey), f"host {target.host}"
    theirs = {h.address for h in survey.hosts if host is not None and h.name != host.name}
    theirs |= {v.network.gateway for v in survey.views if v.network is not None and v.host != target.host}
    mine = {host.address if host is not None else "", target.network.gateway if target.network is not None else ""}
    for need in wanted.named(ADDRESS):
        if need.name in mine or _is_everywhere(need.name):
            continue
        if need.name in theirs - mine:
            text = f"{_what(need)} of the guest listens at {need.name}, which is another host's"
            hint = "listen at 0.0.0.0 or 127.0.0.1, or at a network's: <listen type='network'/> (virsh update-device)"
            yield blocker("listen-address", subject, text, hint)
        else:
            text = f"nobody knows whether it has {need.name}, where {_what(need)} of the guest listens"
            hint = "ip address show there: without it QEMU does not start, and libvirt refuses the guest"
            yield Finding("listen-unknown", Severity.WARNING, subject, text, hint)


def _is_everywhere(address: str) -> bool:
    """Of any host: all of its addresses, or its loopback."""
    try:
        found = ip_address(address)
    except ValueError:
        return address == "localhost"
    return found.is_unspecified or found.is_loopback


def _missing(code: str, subject: str, text: str, hint: str, need: Need) -> Finding:
    severity = Severity.WARNING if need.optional else Severity.BLOCKER
    return Finding(code, severity, subject, text, hint)


def _what(need: Need) -> str:
    return need.what if need.live else f"{need.what}, at its next start"


def _some(found: Iterable[Need], most: int = 4) -> str:
    names = [f"{need.name} ({_what(need)})" for need in found]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
