"""What was asked, and which of the surveyed hosts it concerns. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.model.nouns import Guest, Host, Policy, Site


@dataclass(frozen=True)
class Request:
    """`operator` is USER@MACHINE; `take_over`: from a move whose orchestrator is lost for good."""

    guest: Guest
    destination: Site
    handoff: str
    policy: Policy
    operator: str = ""
    take_over: bool = False


def destination_host(request: Request, survey: Survey) -> Host | None:
    """The site's host with the most free memory, of those that answer."""
    answering = [(h, survey.view(h.name)) for h in request.destination.hosts]
    usable = [(h, v.facts.free_memory_mib) for h, v in answering if v.facts is not None]
    return max(usable, key=lambda pair: pair[1])[0] if usable else None


def source_view(survey: Survey) -> HostView | None:
    return survey.running_at[0] if len(survey.running_at) == 1 else None


def target_view(request: Request, survey: Survey) -> HostView | None:
    host = destination_host(request, survey)
    return survey.view(host.name) if host else None


def blocker(code: str, subject: str, message: str, hint: str = "") -> Finding:
    return Finding(code, Severity.BLOCKER, subject, message, hint)
