"""Whether clients follow a guest that moves without legs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmacro.model.facts import Survey
from vmacro.model.moves import Finding, Severity
from vmacro.planning import seamless
from vmacro.planning.handoffs import RENUMBER
from vmacro.planning.outcome import measures
from vmacro.planning.request import Request


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """Connections and datagrams that would end."""
    yield from _connections_follow(request, survey)
    yield from _datagrams_follow(request, survey)


def _connections_follow(request: Request, survey: Survey) -> Iterator[Finding]:
    """Only with `renumber`, which has no legs that could carry connections on the old address."""
    if request.handoff != RENUMBER:
        return
    severity = Severity.WARNING if request.policy.allow_connection_loss else Severity.BLOCKER
    clients = [c for c in survey.connections if not measures(c, request.guest.probe)]
    if survey.unasked and any(c.mptcp and not c.willing for c in clients):
        text = f"whether its clients would follow is not known: {survey.unasked}"
        hint = "--handoff seamless, which need not ask; --allow-connection-loss moves all the same"
        yield Finding("clients-unasked", severity, f"guest {request.guest.name}", text, hint)
    for connection in clients:
        if connection.willing or (connection.mptcp and survey.unasked):
            continue
        subject = f"client {connection.client}"
        hint = "it will be cut; --allow-connection-loss moves all the same"
        if not connection.mptcp:
            text = "speaks plain TCP: its connection cannot follow the guest to a new address"
            yield Finding("client-plain-tcp", severity, subject, text, hint)
        elif all(":" in s.remote for s in connection.subflows):
            text = (
                f"MPTCP connection {connection.key}: its client uses IPv6, and did not join the IPv4 address that it "
                "was asked to; `renumber` announces no other"
            )
            yield Finding(
                "client-ipv6-only", severity, subject, text, f"IPv4 at the client; --handoff seamless; {hint}"
            )
        elif any(s.joined for s in connection.subflows):
            text = (
                f"MPTCP connection {connection.key}: its client has joined an address before, and did not join "
                "another: its slots are taken (add_addr_accepted)"
            )
            free = "`vmacro carry`, which withdraws old addresses that nobody needs" if _has_old(survey) else ""
            fix = "; ".join(filter(None, (free, f"more of them at the client; --handoff seamless; {hint}")))
            yield Finding("client-slots-taken", severity, subject, text, fix)
        else:
            text = (
                f"MPTCP connection {connection.key}: refuses ADD_ADDR (asked to join an announced address, it did "
                "not): it cannot follow the guest. The kernel's default add_addr_accepted is 0; iOS ignores ADD_ADDR"
            )
            fix = f"on the client: ip mptcp limits set add_addr_accepted 4; else {hint}"
            yield Finding("client-refuses-add-addr", severity, subject, text, fix)


def _has_old(survey: Survey) -> bool:
    return survey.agent is not None and bool(survey.agent.extra_addresses)


def _datagrams_follow(request: Request, survey: Survey) -> Iterator[Finding]:
    """As _connections_follow(), but UDP has no end that anybody could see: those that are over are among them."""
    if request.handoff == RENUMBER and survey.flows:
        text = f"{seamless.datagrams_told(request, survey)}: `renumber` has no legs"
        hint = "clients have to ask at the new address; --handoff seamless carries them"
        yield Finding("datagrams-end", Severity.WARNING, f"guest {request.guest.name}", text, hint)
