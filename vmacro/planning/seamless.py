"""Reasons against a `seamless` handoff: what tunnels, host side, guest and addresses must be like. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.planning.handoffs import SEAMLESS, best_tunnel, next_address
from vmacro.planning.request import Request, blocker, source_view, target_view

LEAST_PATH_MTU = 1350  # 1280, which every IPv6 link takes (RFC 8200 section 5), and a tunnel's headers
_FALL_BACK = "or --handoff renumber, which needs no host side"


def _both(request: Request, survey: Survey) -> tuple[HostView, HostView] | None:
    source, target = source_view(survey), target_view(request, survey)
    if request.handoff != SEAMLESS or source is None or target is None or source.host == target.host:
        return None
    return source, target


def host_findings(view: HostView) -> Iterator[Finding]:
    """What one host must be like."""
    if view.links is None:
        if not view.trouble:
            hint = f"{view.links_hint}; {_FALL_BACK}" if view.links_hint else _FALL_BACK
            yield blocker("no-host-side", f"host {view.host}", view.links_trouble, hint)
        return
    if not view.links.forwarding:
        hint = "sysctl net.ipv4.ip_forward=1; or vmacro provision hosts --tags system"
        yield blocker("no-forwarding", f"host {view.host}", "does not forward IPv4", hint)
    if not view.links.knows_itself:
        text = "its own name has no address within 1 s, and libvirt asks for it also while the guest is paused"
        hint = "write it into its /etc/hosts; or vmacro provision hosts --tags system"
        yield Finding("own-name", Severity.WARNING, f"host {view.host}", text, hint)
    if view.links.path_mtu < LEAST_PATH_MTU:
        text = f"its way to the other host takes packets of {view.links.path_mtu} bytes, {LEAST_PATH_MTU} are needed"
        yield blocker("tunnel-mtu", f"host {view.host}", text, f"raise the MTU of that path; {_FALL_BACK}")
    if view.network is not None and view.network.forward in ("nat", "route", "isolated"):
        text = f"libvirt's filter of network {view.network.name!r} ({view.network.forward}) drops foreign addresses"
        yield blocker("network-filters", f"host {view.host}", text, "<forward mode='open'/>, with rules of your own")


def pair_findings(one: HostView, other: HostView) -> Iterator[Finding]:
    """What two hosts must have in common."""
    if one.links is None or other.links is None:
        return
    kind, subject = best_tunnel(one, other), f"hosts {one.host} and {other.host}"
    if not kind:
        can = " and ".join(f"{v.host}: {', '.join(v.links.tunnels) or 'none'}" for v in (one, other) if v.links)
        text = f"have no kind of tunnel in common ({can})"
        yield blocker("no-tunnel", subject, text, f"modprobe wireguard (and its tools) or vxlan; {_FALL_BACK}")
    elif kind != "wireguard":
        text = f"have no WireGuard in common: the tunnel is {kind}, which neither encrypts nor authenticates"
        hint = "only over a path between the sites that does; else install WireGuard on both"
        yield Finding("tunnel-plain", Severity.WARNING, subject, text, hint)
    here, there = one.links.bridge_mac, other.links.bridge_mac
    if here != there:
        text = f"their gateways have different MACs ({here}, {there})"
        hint = "give all sites' networks one <mac address='…'/>: else the guest is mute until its agent has acted"
        yield Finding("gateway-mac", Severity.WARNING, subject, text, hint)


def _hosts_are_fit(request: Request, survey: Survey) -> Iterator[Finding]:
    for view in _both(request, survey) or ():
        yield from host_findings(view)


def _hosts_fit_together(request: Request, survey: Survey) -> Iterator[Finding]:
    both = _both(request, survey)
    if both is not None:
        yield from pair_findings(*both)


def _address_is_free(request: Request, survey: Survey) -> Iterator[Finding]:
    both = _both(request, survey)
    if both is None or both[0].domain is None or both[1].network is None or survey.agent is None:
        return
    target, network, mac = both[1], both[1].network, both[0].domain.mac
    address = next_address(network, mac, survey.agent.held)
    if not address:
        if network.dhcp_free or network.address_of(mac):  # else the rule for every handoff speaks
            text = f"all addresses left on {network.name!r} are the guest's own, held since an earlier stay"
            yield blocker("dhcp-exhausted", f"host {target.host}", text, "widen the DHCP range")
        return
    used_by = target.links.used_by if target.links is not None else ""
    if used_by and used_by.lower() != mac.lower():
        text = f"{address}, which guest {request.guest.name} would get, is used by {used_by}"
        yield blocker("address-used", f"host {target.host}", text, "find out who; or reserve another for the guest")


def _agent_can(request: Request, survey: Survey) -> Iterator[Finding]:
    if request.handoff != SEAMLESS or survey.agent is None:
        return
    subject, agent = f"guest {request.guest.name}", survey.agent
    if "prepare" not in agent.verbs:
        text = f"its agent ({agent.version}) cannot prepare an address"
        yield blocker("agent-too-old", subject, text, f"install the agent of this vmacro; {_FALL_BACK}")
    if agent.rp_filter == 1:
        text = "its reverse-path filter is strict (rp_filter=1): it would drop what comes for one site's address"
        yield blocker("guest-rp-filter", subject, text, "in the guest: sysctl net.ipv4.conf.all.rp_filter=2")


Rule = Callable[[Request, Survey], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    _hosts_are_fit,
    _hosts_fit_together,
    _address_is_free,
    _agent_can,
)
