"""Whether a guest runs, once, and is nobody else's to work on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmacro.model.facts import CRASHED, SUSPENDED, DomainFacts, HostView, Survey
from vmacro.model.moves import Finding
from vmacro.model.nouns import Guest
from vmacro.planning.request import Request, blocker, source_view

_AWAKENED = {
    "paused": "resume it first",
    SUSPENDED: "wake it up first: virsh dompmwakeup",
    CRASHED: "look at it, then: virsh destroy; virsh start",
    "shutting down": "wait until it is off, then: virsh start",
}


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """What its state, at all hosts, is in the way of. A state or a job that we do not know is told as it is."""
    yield from runs_once(request.guest, survey)
    yield from _is_where_it_was(request, survey)
    yield from _nobody_is_at_work_on_it(request, survey)


def runs_once(guest: Guest, survey: Survey) -> Iterator[Finding]:
    """A blocker, unless it runs at one host, and at no other."""
    subject, running = f"guest {guest.name}", survey.running_at
    if not running:
        yield _runs_nowhere(subject, survey)
    elif len(running) > 1:
        yield _runs_twice(subject, running)
    elif running[0].domain is not None and not running[0].domain.running:
        domain, code = running[0].domain, "guest-paused" if running[0].domain.state == "paused" else "guest-not-running"
        hint = _AWAKENED.get(domain.state, "why? virsh domstate --reason")
        yield blocker(code, subject, f"is {_state(domain)} on {running[0].host}", hint)


def _runs_twice(subject: str, running: Sequence[HostView]) -> Finding:
    """Who is told so stops it at one of them: not where they may be one host."""
    places = " and ".join(view.host for view in running)
    uuids = {view.facts.uuid if view.facts is not None else "" for view in running}
    if len(uuids) > 1 or "" in uuids:
        return blocker("guest-twice", subject, f"is active on {places}", "stop one by hand before anything else")
    text = f"has the same host UUID as {running[0].host}, and both say that {subject} is active there"
    hint = "one host by two names? hosts.*.uri; else host_uuid in libvirtd.conf or virtqemud.conf of one"
    return blocker("host-twin", f"host {running[1].host}", text, hint)


def _is_where_it_was(request: Request, survey: Survey) -> Iterator[Finding]:
    """Who has moved it since had a reason, which the plan does not know."""
    source = source_view(survey)
    if request.source and source is not None and source.host != request.source:
        text = f"runs at {source.host}: it was moved there from {request.source} by somebody else, and not by this plan"
        yield blocker("moved-since", f"guest {request.guest.name}", text, f"vmacro migrate {request.guest.name}")


def _runs_nowhere(subject: str, survey: Survey) -> Finding:
    """Nobody is told to start it while a host that does not answer may run it."""
    known = [(v.host, v.domain) for v in survey.views if v.domain is not None]
    if not known or any(v.trouble for v in survey.views):
        seen = ", ".join(v.host for v in survey.views if not v.trouble) or "no host"
        also = "".join(f"; is {_state(domain)} on {host}" for host, domain in known)
        return blocker("guest-not-running", subject, f"runs on none of the hosts that answered ({seen}){also}")
    text = " and ".join(f"is {_state(domain)} on {host}" for host, domain in known)
    hint = "wait until that is over" if any(domain.job for _, domain in known) else "start it there: virsh start"
    return blocker("guest-not-running", subject, text, hint)


def _state(domain: DomainFacts) -> str:
    if domain.job:
        return f"busy ({domain.job})"
    return f"{domain.state} ({domain.reason})" if domain.reason else domain.state


def _nobody_is_at_work_on_it(request: Request, survey: Survey) -> Iterator[Finding]:
    """libvirt does one thing at a time with a domain, and refuses the copy meanwhile."""
    source = source_view(survey)
    if source is not None and source.domain is not None and source.domain.job:
        text = f"{source.host}'s libvirt is at work on it: {source.domain.job}"
        hint = f"wait until that is over, whoever asked for it: virsh domjobinfo {source.domain.name}"
        yield blocker("guest-busy", f"guest {request.guest.name}", text, hint)
    elif source is not None and survey.definition is not None and survey.definition.block_jobs:
        busy = " and ".join(survey.definition.block_jobs)
        text = f"{source.host}'s libvirt is at work on it: block job of disk {busy}"
        hint = f"wait until that is over, or end it: virsh blockjob {request.guest.domain} DISK"
        yield blocker("guest-busy", f"guest {request.guest.name}", text, hint)
