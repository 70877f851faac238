"""All reasons against a move, found at once; seamless.py has those that concern its handoff alone. Pure: facts in,
findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address

from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.model.nouns import Host
from vmacro.planning import (
    capabilities,
    cards,
    clients,
    closed,
    definitions,
    disks,
    endpoints,
    filters,
    forecast,
    names,
    needs,
    seamless,
    states,
    taking,
)
from vmacro.planning.addresses import claims, contains, next_address, public_of, subnets
from vmacro.planning.handoffs import RENUMBER
from vmacro.planning.request import (
    Candidate,
    Request,
    blocker,
    choose,
    destination_host,
    source_view,
    target_view,
)
from vmacro.planning.standing import standing

CERTIFICATE_WARNING_DAYS = 30.0
# Of a host that could not be surveyed: whether its hypervisor is one that vmacro supports.
HOST_CODES = {True: "host-unreachable", False: "host-unsupported"}
DESTINATION_CODES = {True: "destination-unreachable", False: "destination-unsupported"}
SAFE_TCG = (9, 0, 0)  # older QEMU corrupts a guest that dirties memory while TCG migrates it


def check(request: Request, survey: Survey) -> list[Finding]:
    """All findings, blockers first. A rule whose facts are missing is silent: another rule reports what is missing."""
    placed = place(request, survey)
    found = [f for rule in (*_RULES, *seamless.RULES, *names.RULES) for f in rule(placed, survey)]
    return sorted(found, key=lambda f: f.severity != Severity.BLOCKER)


def place(request: Request, survey: Survey) -> Request:
    """The request with a host of its destination chosen; one that names a host stays as it is."""
    if request.host:
        return replace(request, because=request.because or "asked for by name")
    choice = choose([_candidate(replace(request, host=host.name), host, survey) for host in request.destination.hosts])
    return replace(request, host=choice.host.name, because=choice.because)


def _candidate(request: Request, host: Host, survey: Survey) -> Candidate:
    facts = survey.view(host.name).facts
    against = tuple(blockers(check(request, survey)))
    return Candidate(host, facts.available_mib if facts is not None else None, against)


def blockers(findings: Iterable[Finding]) -> list[Finding]:
    """Those that stop a move."""
    return [f for f in findings if f.severity == Severity.BLOCKER]


def _hosts_answer(request: Request, survey: Survey) -> Iterator[Finding]:
    for view in survey.views:
        if view.trouble:
            there = view.host == request.host
            needed = there or not survey.running_at
            code = DESTINATION_CODES[view.supported] if there else HOST_CODES[view.supported]
            severity = Severity.BLOCKER if needed else Severity.WARNING
            yield Finding(code, severity, f"host {view.host}", view.trouble, view.trouble_hint)


def certificate_findings(view: HostView) -> Iterator[Finding]:
    """Warns before a certificate expires. Once it has, the host cannot be reached, which is another finding."""
    left = view.facts.certificate_days_left if view.facts is not None else None
    if left is not None and left < CERTIFICATE_WARNING_DAYS:
        text = f"its certificate expires in {left:.1f} days; no guest moves from or to it after that"
        hint = "vmacro pki renew; vmacro provision hosts --tags tls"
        yield Finding("certificate-expires", Severity.WARNING, f"host {view.host}", text, hint)


def _certificates_are_valid(_request: Request, survey: Survey) -> Iterator[Finding]:
    for view in survey.views:
        yield from certificate_findings(view)


def _guest_is_elsewhere(request: Request, survey: Survey) -> Iterator[Finding]:
    source = source_view(survey)
    if source is not None and source.site == request.destination.name:
        yield blocker("already-there", f"guest {request.guest.name}", f"runs at {source.site} already ({source.host})")


def _name_is_free(request: Request, survey: Survey) -> Iterator[Finding]:
    source, target = source_view(survey), target_view(request, survey)
    if source is None or target is None or target.domain is None or target.host == source.host:
        return
    assert source.domain is not None
    if target.domain.uuid != source.domain.uuid:
        other = f"has another domain {target.domain.name} ({target.domain.uuid})"
        yield blocker("name-taken", f"host {target.host}", other, "rename or undefine it")


def _hypervisors_match(request: Request, survey: Survey) -> Iterator[Finding]:
    source, target = source_view(survey), target_view(request, survey)
    if source is None or target is None or source.facts is None or target.facts is None or source.domain is None:
        return
    here, there = source.facts, target.facts
    if here.hypervisor != there.hypervisor:
        text = f"runs {there.hypervisor}, the guest {here.hypervisor}"
        yield blocker("hypervisor-differs", f"host {target.host}", text)
        return
    if there.hypervisor_version < here.hypervisor_version:
        older, newer = _dotted(there.hypervisor_version), _dotted(here.hypervisor_version)
        text = f"{there.hypervisor} {older} is older than the source's {newer}"
        yield Finding("older-hypervisor", Severity.WARNING, f"host {target.host}", text, "the move may be refused")
    machine = source.domain.machine
    if there.machine_types and machine not in there.machine_types:
        yield blocker("machine-unknown", f"host {target.host}", f"does not know machine type {machine}")


def _emulation_is_safe(request: Request, survey: Survey) -> Iterator[Finding]:
    source = source_view(survey)
    if source is None or source.domain is None or source.domain.accelerator != "qemu":
        return
    for view in (source, target_view(request, survey)):
        if view is not None and view.facts is not None and view.facts.hypervisor_version < SAFE_TCG:
            version = _dotted(view.facts.hypervisor_version)
            text = f"QEMU {version} corrupts guests that live-migrate under TCG (no KVM)"
            yield blocker("tcg-corrupts", f"host {view.host}", text, "QEMU 9.0 or later, or hosts with KVM")


def _memory_suffices(request: Request, survey: Survey) -> Iterator[Finding]:
    source, host = source_view(survey), destination_host(request, survey)
    if source is None or source.domain is None or host is None:
        return
    facts = survey.view(host.name).facts
    assert facts is not None
    huge = survey.definition.huge_mib if survey.definition is not None else 0
    ordinary = max(0, source.domain.memory_mib - huge)  # huge pages are counted apart
    if huge and not ordinary:
        return
    needed = ordinary + host.memory_reserve_mib
    if facts.available_mib < needed:
        others = f" and {facts.reserved_mib} MiB of it for guests on their way here" if facts.reserved_mib else ""
        text = (
            f"{facts.free_memory_mib} MiB free{others}, {needed} MiB needed ({ordinary} for the guest, "
            f"{host.memory_reserve_mib} in reserve)"
        )
        yield blocker("memory-short", f"host {host.name}", text, "choose another site, or lower memory_reserve_mib")


def network_findings(view: HostView, wanted: str) -> Iterator[Finding]:
    """Whether a host's network can take a guest that attaches to `wanted`."""
    subject, network = f"host {view.host}", view.network
    if network is None or not network.active:
        state = "is not active" if network else "does not exist"
        hint = f"virsh net-start {wanted}; or vmacro provision hosts --tags network"
        yield blocker("network-missing", subject, f"libvirt network {wanted!r} {state}", hint)
        return
    if network.stp or network.forward_delay_s:
        text = f"bridge {network.bridge} has spanning tree on: it forwards nothing for seconds after an arrival"
        yield blocker("bridge-stp", subject, text, "set <bridge stp='off' delay='0'/> and restart the network")
    if network.dhcp_free is None:
        yield blocker("dhcp-missing", subject, f"network {network.name!r} serves no DHCP", "add <dhcp><range/></dhcp>")


def _network_is_ready(request: Request, survey: Survey) -> Iterator[Finding]:
    source, target, host = source_view(survey), target_view(request, survey), destination_host(request, survey)
    if source is None or host is None or target is None or source.site == target.site:
        return
    yield from network_findings(target, host.network)
    subject, network, mac = f"host {target.host}", target.network, cards.mac(survey)
    if network is None or not network.active or not mac:
        return
    if network.dhcp_free == 0 and not network.address_of(mac):
        if network.dhcp_range is None:
            text = f"DHCP of network {network.name!r} serves reserved cards alone, and {mac} is none of them"
            hint = f"reserve an address: <host mac='{mac}' ip='…'/>; or add a <range/> to its <dhcp>"
        else:
            text = f"no DHCP address is free on network {network.name!r} ({' to '.join(network.dhcp_range)})"
            hint = "widen the range, or free leases: virsh net-dhcp-leases"
        yield blocker("dhcp-exhausted", subject, text, hint)


def _subnet_is_its_own(request: Request, survey: Survey) -> Iterator[Finding]:
    """The destination's, as its libvirt says, is no other site's: as the inventory says, or as the source does."""
    source, target = source_view(survey), target_view(request, survey)
    if source is None or target is None or source.site == target.site:
        return
    subject, hint = f"host {target.host}", "each site needs a subnet of its own"
    for other in (host for host in survey.hosts if host.site != target.site):
        theirs = subnets(other.subnet, other.subnet6)
        if other.name == source.host and source.network is not None:
            theirs += subnets(source.network.subnet, source.network.subnet6)
        for mine in subnets(target.network.subnet, target.network.subnet6) if target.network is not None else ():
            shared = next((s for s in theirs if s.version == mine.version and s.overlaps(mine)), None)
            if shared is not None:
                also = "is also" if shared == mine else f"overlaps {shared}, which is"
                text = f"subnet {mine} {also} {other.name}'s: the guest could not tell the sites apart"
                yield blocker("subnet-occupied", subject, text, hint)
            elif contains(mine, other.address):
                yield blocker("subnet-occupied", subject, f"subnet {mine} has host {other.name} in it", hint)


def subnet_findings(host: Host, view: HostView) -> Iterator[Finding]:
    """Whether libvirt's network is as the inventory says, if it says something."""
    network = view.network
    pairs = ((network.subnet, host.subnet), (network.subnet6, host.subnet6)) if network is not None else ()
    for said, written in pairs:
        if network is not None and written and said != written:
            text = f"network {network.name!r} has subnet {said or 'none'}, the inventory says {written}"
            yield blocker("subnet-differs", f"host {view.host}", text, "correct the one that is wrong")


def _subnets_are_as_written(request: Request, survey: Survey) -> Iterator[Finding]:
    views = (source_view(survey), target_view(request, survey))
    for host in survey.hosts:
        for view in views:
            if view is not None and view.host == host.name:
                yield from subnet_findings(host, view)


def _agent_answers(request: Request, survey: Survey) -> Iterator[Finding]:
    source, subject = source_view(survey), f"guest {request.guest.name}"
    if source is None or source.domain is None:
        return
    if not source.domain.has_agent_channel:
        text = "the domain has no channel org.vmacro.agent.0"
        yield blocker("no-channel", subject, text, "add a virtio-serial <channel> of that name, and the agent")
    elif not source.domain.running:
        return  # nobody asks the agent of a guest that is paused
    elif survey.agent is None:
        yield blocker("no-agent", subject, survey.agent_trouble, survey.agent_hint)
    elif not survey.agent.address:
        yield blocker("no-lease", subject, "its agent has no DHCP lease yet", "does its site serve DHCP?")


def _address_is_its_own(request: Request, survey: Survey) -> Iterator[Finding]:
    source, agent, mac = source_view(survey), survey.agent, cards.mac(survey)
    if source is None or source.domain is None or agent is None or not agent.address or not mac:
        return
    ours = standing(survey, source.domain, request.take_over).ours
    if agent.address in claims(survey, ours).others:
        leased = source.network.address_of(mac) if source.network is not None else ""
        text = f"its agent says that it has {agent.address}; DHCP at {source.host} has given it {leased or 'none'}"
        hint = "restart its agent, which asks DHCP again; if it still says so, the guest is not to be trusted"
        if leased == agent.address:
            text = f"it has {agent.address}, which DHCP at {source.host} has given to, or keeps for, another card"
            hint = "whose is it? virsh net-dhcp-leases; virsh net-dumpxml"
        yield blocker("address-unknown", f"guest {request.guest.name}", text, hint)


def _nobody_else_moves_it(request: Request, survey: Survey) -> Iterator[Finding]:
    if survey.agent is None:
        return
    subject, claim = f"guest {request.guest.name}", survey.agent.claim
    if "claim" not in survey.agent.verbs:
        text = f"its agent ({survey.agent.version}) cannot tell whether somebody else moves it"
        yield blocker("agent-too-old", subject, text, "install the agent of this vmacro in the guest")
    elif claim is not None:
        text = f"move {claim.move} of {claim.by or 'somebody'} has had it for {claim.age_s:.0f} s"
        severity = Severity.WARNING if request.take_over else Severity.BLOCKER
        hint = "wait, or there: `vmacro resume` or `abort`; if its orchestrator is lost for good: --take-over"
        yield Finding("guest-claimed", severity, subject, text, hint)


def _agent_tells_of_ends(request: Request, survey: Survey) -> Iterator[Finding]:
    agent = survey.agent
    if agent is not None and "claim" in agent.verbs and not {"watch", "endings", "count"} <= set(agent.verbs):
        text = f"its agent ({agent.version}) cannot count connections, and tell how they end"
        hint = "install the agent of this vmacro in the guest"
        yield blocker("agent-too-old", f"guest {request.guest.name}", text, hint)


def _clients_can_reach_it(request: Request, survey: Survey) -> Iterator[Finding]:
    """An address that is announced to a client is of no use where its network does not lead there."""
    source, target, there = source_view(survey), target_view(request, survey), destination_host(request, survey)
    if source is None or target is None or target.network is None or there is None or source.site == target.site:
        return
    mac = cards.mac(survey)
    if survey.agent is None or not mac:
        return
    address = next_address(target.network, mac, survey.agent.claimed)
    public = public_of(there, address) if address and request.handoff != RENUMBER else ""
    if not address or public or ip_address(address).is_global:
        return
    beyond = sorted({s.remote for c in survey.connections for s in c.subflows if ip_address(s.remote).is_global})
    if beyond:
        some = ", ".join(beyond[:3]) + (f" and {len(beyond) - 3} more" if len(beyond) > 3 else "")
        text = f"{address}, which will be announced, is not for the Internet, where it has clients: {some}"
        hint = f"is it translated there? networks: public_subnet; else [sites.{there.site}.public]; not with renumber"
        yield Finding("address-private", Severity.WARNING, f"guest {request.guest.name}", text, hint)


def _no_filter_in_the_way(request: Request, survey: Survey) -> Iterator[Finding]:
    if request.handoff == RENUMBER and request.destination.anti_spoofing:
        text = (
            "its network drops packets with sources of other sites (anti_spoofing, or guard): after `renumber` the "
            "guest sends from its old address until clients have joined the new one"
        )
        guarded = any(host.guard for host in request.destination.hosts)
        hint = "--handoff seamless" + ("; or guard = false in its networks (in a lab: its topology)" if guarded else "")
        yield blocker("anti-spoofing", f"site {request.destination.name}", text, hint)


Rule = Callable[[Request, Survey], Iterator[Finding]]
_RULES: tuple[Rule, ...] = (
    _hosts_answer,
    _certificates_are_valid,
    states.findings,
    closed.findings,
    _guest_is_elsewhere,
    _name_is_free,
    _hypervisors_match,
    _emulation_is_safe,
    _memory_suffices,
    _network_is_ready,
    _subnet_is_its_own,
    _subnets_are_as_written,
    capabilities.findings,
    forecast.findings,
    disks.findings,
    cards.findings,
    filters.findings,
    definitions.findings,
    needs.findings,
    taking.findings,
    _agent_answers,
    _address_is_its_own,
    _nobody_else_moves_it,
    _agent_tells_of_ends,
    endpoints.findings,
    clients.findings,
    _clients_can_reach_it,
    _no_filter_in_the_way,
)


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
