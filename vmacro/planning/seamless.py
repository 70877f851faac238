"""Reasons against the handoff `seamless`: what it asks of tunnels, host sides, the guest and its addresses. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vmacro.model import marks
from vmacro.model.facts import Flows, HostView, Reservation, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.planning import cards
from vmacro.planning.addresses import claims, next_address
from vmacro.planning.handoffs import MOST_ADDRESSES, SEAMLESS, best_tunnel, can_be_carried, that_go_along
from vmacro.planning.request import Request, blocker, destination_host, source_view, target_view
from vmacro.planning.standing import standing, told
from vmacro.wire.host_verbs import MOST_FLOWS, USERSPACE, VXLAN, WIREGUARD

LEAST_WAY = 1280  # which every IPv6 link takes (RFC 8200 section 5)
LEAST_PATH_MTU = LEAST_WAY + 70  # and a tunnel's headers
_FALL_BACK = "or --handoff renumber, which needs no host side"


def _both(request: Request, survey: Survey) -> tuple[HostView, HostView] | None:
    source, target = source_view(survey), target_view(request, survey)
    if request.handoff != SEAMLESS or source is None or target is None or source.host == target.host:
        return None
    return source, target


def host_findings(view: HostView) -> Iterator[Finding]:
    """What a host lacks by itself."""
    if view.links is None:
        if not view.trouble:
            hint = f"{view.links_hint}; {_FALL_BACK}" if view.links_hint else _FALL_BACK.removeprefix("or ")
            why = ": its libvirt has no network for guests" if view.network is None else ""
            text = view.links_trouble or f"its host side was not asked{why}"
            yield blocker("no-host-side", f"host {view.host}", text, hint)
        return
    if not view.links.forwarding:
        hint = "sysctl net.ipv4.ip_forward=1; or vmacro provision hosts --tags system"
        yield blocker("no-forwarding", f"host {view.host}", "does not forward IPv4", hint)
    if not view.links.filters:
        text = "has no nft, by which legs are kept from carrying what is not theirs"
        yield blocker("no-filter", f"host {view.host}", text, f"vmacro provision hosts --tags packages; {_FALL_BACK}")
    if view.guard and not view.links.guarded:
        text = "does not hold its guests to their own addresses, although the inventory says so (guard)"
        hint = "systemctl status vmacro-guard there; or vmacro provision hosts --tags guard"
        yield Finding("guests-unguarded", Severity.WARNING, f"host {view.host}", text, hint)
    if not view.links.resolves_own_name:
        text = "its own name is not resolved within 1 s, and libvirt asks for it while the guest is paused, too"
        hint = "write it into its /etc/hosts; or vmacro provision hosts --tags system"
        yield Finding("own-name", Severity.WARNING, f"host {view.host}", text, hint)
    if view.links.path_mtu < LEAST_PATH_MTU:
        text = f"its way to the other host takes packets of {view.links.path_mtu} bytes, {LEAST_PATH_MTU} are needed"
        yield blocker("tunnel-mtu", f"host {view.host}", text, f"raise the MTU of that path; {_FALL_BACK}")
    if view.network is not None and view.network.forward in ("nat", "route", "isolated"):
        text = f"libvirt's filter of network {view.network.name!r} ({view.network.forward}) drops foreign addresses"
        yield blocker("network-filters", f"host {view.host}", text, "<forward mode='open'/>, with rules of your own")


def pair_findings(one: HostView, other: HostView) -> Iterator[Finding]:
    """What two hosts lack in common."""
    if one.links is None or other.links is None:
        return
    kind, subject = best_tunnel(one, other), f"hosts {one.host} and {other.host}"
    if not kind:
        yield _no_tunnel(one, other, subject)
    elif kind == VXLAN:
        text = f"both say plain_tunnel: the tunnel is {kind}, which neither encrypts nor authenticates"
        hint = "only over a path between the sites that does; else take plain_tunnel out of the inventory"
        yield Finding("tunnel-plain", Severity.WARNING, subject, text, hint)
    else:
        yield from _slow_tunnels(one, other)
    here, there = one.links.bridge_mac, other.links.bridge_mac
    if here != there:
        text = f"their gateways have different MACs ({here}, {there})"
        hint = "give all sites' networks one <mac address='…'/>: else the guest is mute until its agent has acted"
        yield Finding("gateway-mac", Severity.WARNING, subject, text, hint)


def tunnel_between(request: Request, survey: Survey) -> str:
    """Which kind of tunnel a move would use, and why, for people; '' where it uses none."""
    both = _both(request, survey)
    kind = best_tunnel(*both) if both is not None else ""
    if both is None or not kind:
        return ""
    if kind == VXLAN:
        return "vxlan: both hosts say plain_tunnel"
    links = [(view.host, view.links) for view in both if view.links is not None]
    why = {found.wireguard: f" ({found.wireguard_why})" for _, found in links if found.wireguard_why}
    ends = (f"{found.wireguard} at {host}{why.get(found.wireguard, '')}" for host, found in links)
    return f"wireguard: {', '.join(ends)}"


def _no_tunnel(one: HostView, other: HostView, subject: str) -> Finding:
    """What they would have to have, and what is in the way of it."""
    if one.plain_tunnel and other.plain_tunnel:
        lacking = " and ".join(v.host for v in (one, other) if v.links and VXLAN not in v.links.tunnels)
        text = f"both say plain_tunnel, and {lacking} cannot do VXLAN"
        return blocker("no-tunnel", subject, text, f"modprobe vxlan there; {_FALL_BACK}")
    reasons = [
        f"{v.host}: {v.links.wireguard_why or 'no reason was given'}"
        for v in (one, other)
        if v.links and WIREGUARD not in v.links.tunnels
    ]
    text = f"have no WireGuard in common ({'; '.join(reasons)})"
    said = [v.host for v in (one, other) if v.plain_tunnel]
    alone = f"; only {said[0]} says plain_tunnel, and both must" if said else ""
    hint = "vmacro provision hosts --tags packages; over a private path plain_tunnel = true for both hosts"
    return blocker("no-tunnel", subject, f"{text}{alone}", f"{hint}; {_FALL_BACK}")


def _slow_tunnels(*views: HostView) -> Iterator[Finding]:
    for view in views:
        if view.links is not None and view.links.wireguard == USERSPACE:
            text = f"its legs are encrypted by {USERSPACE}, which costs processor time: {view.links.wireguard_why}"
            hint = "a kernel with WireGuard (Linux 5.6 or later) makes them faster; nothing else changes"
            yield Finding("tunnel-userspace", Severity.WARNING, f"host {view.host}", text, hint)


def _hosts_are_fit(request: Request, survey: Survey) -> Iterator[Finding]:
    for view in _both(request, survey) or ():
        yield from host_findings(view)


def _hosts_fit_together(request: Request, survey: Survey) -> Iterator[Finding]:
    both = _both(request, survey)
    if both is not None:
        yield from pair_findings(*both)


def _path_takes_whole_packets(request: Request, survey: Survey) -> Iterator[Finding]:
    """Where nothing comes back at all, nobody knows: hosts may drop pings. Some drop large ones alone, or many; no way
    takes less than LEAST_WAY."""
    both, there = _both(request, survey), destination_host(request, survey)
    if both is None or there is None:
        return
    heard = next((h for h in both[0].paths if h.address == there.address), None)
    if heard is None or not 0 < heard.answered < heard.tried:
        return
    subject = f"host {both[0].host}"
    if heard.answered < LEAST_WAY:
        text = (
            f"{there.name} ({there.address}) answers its pings of {heard.answered} bytes, and none of {LEAST_WAY} or "
            "more: whether large packets pass is not known"
        )
        hint = f"does a firewall drop large pings? else the copy stands still: ping -M do -s 1400 {there.address} there"
        yield Finding("path-mtu", Severity.WARNING, subject, text, hint)
    else:
        text = (
            f"its way to {there.name} ({there.address}) loses packets of {heard.tried} bytes without a word, and "
            f"passes those of {heard.answered}: the copy would stand still"
        )
        hint = (
            "let ICMP through there (IPv4: fragmentation needed; IPv6: packet too big), or have both hosts send "
            f"smaller ones: ip route change … mtu {heard.answered}"
        )
        yield blocker("path-mtu", subject, text, hint)


def _address_is_free(request: Request, survey: Survey) -> Iterator[Finding]:
    both, mac = _both(request, survey), cards.mac(survey)
    if both is None or both[1].network is None or survey.agent is None or not mac:
        return
    target, network = both[1], both[1].network
    address = next_address(network, mac, survey.agent.claimed)
    if not address:
        pinned = any(r.mac == mac for r in network.reserved)  # which _reservations_fit() tells
        if not pinned and (network.dhcp_free or network.address_of(mac)):  # else the rule for every handoff speaks
            text = f"all addresses left on {network.name!r} are the guest's own, held since an earlier stay"
            yield blocker("dhcp-exhausted", f"host {target.host}", text, "widen the DHCP range")
        return
    used_by = target.links.used_by if target.links is not None else ""
    if used_by == mac:
        text = f"{address} is answered for by {mac}, the MAC of guest {request.guest.name}, which is at {both[0].host}"
        hint = "a machine there has the guest's MAC: find it, and give it another"
        yield blocker("mac-shared", f"host {target.host}", text, hint)
    elif used_by:
        text = f"{address}, which guest {request.guest.name} would get, is used by {used_by}"
        yield blocker("address-used", f"host {target.host}", text, "find out who; or reserve another for the guest")


def _reservations_fit(request: Request, survey: Survey) -> Iterator[Finding]:
    """What DHCP keeps already is for its owner to change: it fits, or it is named."""
    both, mac = _both(request, survey), cards.mac(survey)
    if both is None or both[0].domain is None or survey.agent is None or not mac:
        return
    source, target = both
    if target.network is not None and not next_address(target.network, mac, survey.agent.claimed):
        for found in (r for r in target.network.reserved if r.mac == mac and not _is_under_way(r, request, survey)):
            text = f"its DHCP keeps {found.told}, the guest's card, which then gets no other address; "
            others = [m for a, m in target.network.taken if a == found.address and m != mac]
            uses, hint = "the guest cannot use that one now", ""
            if others:
                uses = f"{found.address} is leased to {others[0]}"
            elif found.address in survey.agent.claimed:
                uses = "the guest still holds that one since it was there: it lingers, or is in use"
                hint = (
                    "vmacro carry closes it as soon as nothing needs it; then try again (vmacro carried: what does); "
                    "or take the entry out"
                )
            yield _collides(target.host, text + uses, found, hint)
    ours = standing(survey, both[0].domain, request.take_over).ours
    homes = {homed.address: homed.home.name for homed in claims(survey, ours).homed}
    for address, home in {survey.agent.address: source.host, **homes}.items():
        network = survey.view(home).network
        for found in network.reserved if network is not None else ():
            # What a move keeps of an address that it carries is kept for nobody's card.
            fits = found.mac in (mac, "") or (address in homes and found.mac == marks.placeholder_mac(address))
            if found.address == address and not fits and not _is_under_way(found, request, survey):
                text = f"its DHCP keeps {found.told}, and connections of guest {request.guest.name} use that address"
                yield _collides(home, text, found)


def _is_under_way(found: Reservation, request: Request, survey: Survey) -> bool:
    """Whether it is of the move that has the guest just now, which stops this one by another rule."""
    claim = survey.agent.claim if survey.agent is not None else None
    if claim is None or request.take_over:
        return False
    return found.name == marks.mark(claim.move, found.address)


def _collides(host: str, text: str, found: Reservation, hint: str = "") -> Finding:
    hint = hint or "change or remove it there: virsh net-update … ip-dhcp-host"
    if marks.is_marked(found):
        hint = f"move {marks.move_in(found)} has left it: vmacro cleanup"
    elif found.mac == marks.placeholder_mac(found.address):
        hint = f"an older vmacro has left it: vmacro cleanup --release {found.address}"
    return blocker("reservation-collides", f"host {host}", text, hint)


def _addresses_go_along(request: Request, survey: Survey) -> Iterator[Finding]:
    """Only those that are known to be the guest's, and that a tunnel can carry."""
    both, there = _both(request, survey), destination_host(request, survey)
    if both is None or there is None or both[0].domain is None or survey.agent is None or not cards.mac(survey):
        return
    subject = f"guest {request.guest.name}"
    found = claims(survey, standing(survey, both[0].domain, request.take_over).ours)
    others = [address for address in found.others if address != survey.agent.address]
    if others:
        text = (
            f"its agent also names {_some(others)}: neither DHCP nor a move has given it that, and no tunnel carries it"
        )
        hint = "connections to it end; which one was configured in the guest, and by whom?"
        yield Finding("addresses-stay", Severity.WARNING, subject, text, hint)
    left = [h for h in found.homed if not can_be_carried(h, survey, there)]
    if left and best_tunnel(*both):
        homes = " and ".join(dict.fromkeys(h.home.name for h in left))
        text = f"no tunnel can carry {_some([h.address for h in left])} from {homes} to {there.name}"
        hint = f"connections to it end; does {homes} answer, with a subnet that is no other host's?"
        yield Finding("addresses-stay", Severity.WARNING, subject, text, hint)
    along = that_go_along(found.homed, survey, there)
    behind = [h.address for h in found.homed if h not in along and h not in left]
    if behind:
        text = f"it has {len(along) + len(behind)} addresses, and {MOST_ADDRESSES} go along: not {_some(behind)}"
        hint = "connections to those end; who has leased them?"
        yield Finding("addresses-stay", Severity.WARNING, subject, text, hint)


def _datagrams_are_known(request: Request, survey: Survey) -> Iterator[Finding]:
    """Where an address is at home, all that comes for it passes. A host of which nothing else is known, either, has
    findings enough."""
    both = _both(request, survey)
    if both is None or both[0].domain is None or survey.agent is None:
        return
    homes = [h.home.name for h in claims(survey, standing(survey, both[0].domain, request.take_over).ours).homed]
    for name in dict.fromkeys([both[0].host, *homes]):
        view = survey.view(name)
        if view.links is not None and (view.tracked is None or not view.tracked.tracking):
            text = "does not say which flows of datagrams there are: they are carried only as long as connections are"
            hint = "its kernel has to track them (conntrack): vmacro provision hosts --tags firewall,host_side"
            yield Finding("datagrams-unknown", Severity.WARNING, f"host {name}", text, hint)


def datagrams_told(request: Request, survey: Survey) -> str:
    """Which flows of datagrams there are, and what will become of them, for people; '' where there are none."""
    how = "are carried, as long as they are used" if request.handoff == SEAMLESS else "end with the move"
    found = "; ".join(f"{amount(flows)} of {flows.address}" for flows in survey.flows)
    return f"{found} {how}" if found else ""


def amount(flows: Flows) -> str:
    """How many, in words."""
    kinds = ((flows.udp, "UDP"), (flows.icmp, "ICMP"))
    many = [f"{n}{' or more' if n == MOST_FLOWS else ''} {kind}" for n, kind in kinds if n]
    return f"{' and '.join(many)} flow{'' if flows.udp + flows.icmp == 1 else 's'}"


def _legs_are_known(request: Request, survey: Survey) -> Iterator[Finding]:
    source = source_view(survey)
    if request.handoff != SEAMLESS or source is None or source.domain is None:
        return
    for text in told(standing(survey, source.domain, request.take_over).odd):
        hint = "`vmacro cleanup`, where its move is in the journal; where that is lost: --take-over"
        yield Finding("leg-unknown", Severity.WARNING, f"guest {request.guest.name}", text, hint)


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
    _path_takes_whole_packets,
    _address_is_free,
    _reservations_fit,
    _addresses_go_along,
    _datagrams_are_known,
    _legs_are_known,
    _agent_can,
)


def _some(addresses: list[str], most: int = 3) -> str:
    more = len(addresses) - most
    return " and ".join([", ".join(addresses[:most]), *([f"{more} more"] if more > 0 else [])])
