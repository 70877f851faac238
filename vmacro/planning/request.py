"""What an operator asked for, and which of the surveyed hosts it concerns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.model.nouns import Guest, Host, Policy, Site


@dataclass(frozen=True)
class Request:
    """A move that is asked for. `operator` is USER@MACHINE; `take_over`: ignore the claim of another move, whose
    orchestrator is lost for good. `host` is the one of the destination's that the guest is to go to, '' until one is
    chosen, and `because` says why that one; `source`: the host that it is to leave, '' whichever has it."""

    guest: Guest
    destination: Site
    handoff: str
    policy: Policy
    operator: str = ""
    take_over: bool = False
    host: str = ""
    because: str = ""
    source: str = ""


@dataclass(frozen=True)
class Candidate:
    """A host that a guest may go to: memory that nobody counts on (None: it did not answer), and what stands against
    it."""

    host: Host
    available_mib: int | None
    blockers: tuple[Finding, ...]


@dataclass(frozen=True)
class Choice:
    """A host, and in a sentence why it is this one and none of the others."""

    host: Host
    because: str


def choose(candidates: Sequence[Candidate]) -> Choice:
    """The host with the most available memory, of those that least stands against: nothing, if there is one. `because`
    says why it is this one, and why none of the others."""
    best, *others = sorted(candidates, key=lambda c: (len(c.blockers), -(c.available_mib or 0)))
    if not others:
        return Choice(best.host, f"the only host of site {best.host.site}")
    if best.blockers:
        reason = f"no host of site {best.host.site} can take it; the least stands against {best.host.name}"
    else:
        reason = f"the most memory available of the hosts that can take it: {best.available_mib} MiB"
    return Choice(best.host, "; ".join([reason, *(_why_not(other) for other in others)]))


def _why_not(candidate: Candidate) -> str:
    if candidate.blockers:
        return f"not {candidate.host.name}: {candidate.blockers[0].message}"
    return f"not {candidate.host.name}: {candidate.available_mib} MiB"


def destination_host(request: Request, survey: Survey) -> Host | None:
    """The host that was chosen, if it answers."""
    found = next((h for h in request.destination.hosts if h.name == request.host), None)
    return found if found is not None and survey.view(found.name).facts is not None else None


def source_view(survey: Survey) -> HostView | None:
    """The one host on which the guest is active; None where it is on none, or on several."""
    return survey.running_at[0] if len(survey.running_at) == 1 else None


def may_be_of(site: str, survey: Survey) -> bool:
    """Whether the guest runs at a site; or it runs nowhere, as far as is known, and a host of that site has its domain,
    or cannot be asked."""
    if survey.running_at:
        return any(v.site == site for v in survey.running_at)
    return any(v.site == site and (v.domain is not None or v.trouble) for v in survey.views)


def target_view(request: Request, survey: Survey) -> HostView | None:
    """What was seen of the destination host; None where no host of that site answers."""
    host = destination_host(request, survey)
    return survey.view(host.name) if host else None


def blocker(code: str, subject: str, message: str, hint: str = "") -> Finding:
    """A finding that stops the move."""
    return Finding(code, Severity.BLOCKER, subject, message, hint)
