"""What a move needs that the hypervisors cannot do. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmacro.model.facts import PV, DomainFacts, HostFacts, HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.model.nouns import Compression, Policy
from vmacro.planning import compression, disks
from vmacro.planning.request import Request, blocker, source_view, target_view
from vmacro.wire.agent_verbs import DROP


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """Of both hosts what a guest needs there, of the source also what a migration's policy asks of it."""
    source = source_view(survey)
    if source is None or source.facts is None or source.domain is None:
        return
    moves_disks = bool(disks.local(source.domain, source.pools))
    for view in (source, target_view(request, survey)):
        if view is not None and view.facts is not None:
            for code, lack in _lacks(view.facts, moves_disks):
                yield blocker(code, f"host {view.host}", f"its {view.facts.hypervisor} {lack}")
    target = target_view(request, survey)
    yield from _copied_while_it_runs(source, source.facts, source.domain, request.policy)
    unheeded = _unheeded(source.facts, request.policy)
    if request.policy.compression == Compression.ZSTD and target is not None and target.facts is not None:
        unheeded += ["compression"] if compression.lacks(source, target) else []
    agent = survey.agent
    if request.policy.drop_page_cache and agent is not None and DROP.name not in agent.verbs:
        text = "its agent is older, and does not heed this of the policy: drop_page_cache"
        hint = "vmacro provision guests"
        yield Finding("policy-unheeded", Severity.WARNING, f"guest {request.guest.name}", text, hint)
    if request.policy.drop_page_cache and not source.domain.reports_free_pages:
        text = "its domain has no balloon that reports free pages: those that it lets go are sent, if not cleared"
        hint = "<memballoon model='virtio' freePageReporting='on'/>; or init_on_free=1 for the guest's kernel"
        yield Finding("free-pages-sent", Severity.WARNING, f"guest {request.guest.name}", text, hint)
    if unheeded:
        text = f"its {source.facts.hypervisor} does not heed these of the policy: {', '.join(unheeded)}"
        yield Finding("policy-unheeded", Severity.WARNING, f"host {source.host}", text)


def _lacks(facts: HostFacts, moves_disks: bool) -> Iterator[tuple[str, str]]:
    """(code, what it cannot do)."""
    can = facts.capabilities
    if not can.live_migration:
        yield "no-live-migration", "migrates no running guest"
    if not can.encrypted_copy:
        yield "copy-unencrypted", "sends a guest's memory without encryption"
    if not can.agent_channel:
        yield "no-agent-channel", "gives a guest's agent no channel"
    if moves_disks and not can.local_disks:
        yield "disks-stay", "cannot freeze and send the disks of a running guest"


def _copied_while_it_runs(view: HostView, facts: HostFacts, domain: DomainFacts, policy: Policy) -> Iterator[Finding]:
    """Xen follows what a PV guest writes by shadow paging alone; Debian's since 4.17.7 is built without."""
    if domain.machine != PV or facts.shadow_paging:
        return
    subject, hint = f"host {view.host}", "make it a PVH guest; or policy allow_standstill: it stands still all through"
    if facts.shadow_paging is None:
        text = "nobody knows whether its Xen has shadow paging, without which a PV guest is not copied while it runs"
        yield Finding("live-pv-unknown", Severity.WARNING, subject, text, "xl info there: `shadow` in virt_caps")
        return
    text = f"its Xen has no shadow paging: {domain.name}, a PV guest, is not copied while it runs"
    if policy.allow_standstill:
        yield Finding("stands-still", Severity.WARNING, subject, f"{text}; it stands still all through its copy", "")
    else:
        yield blocker("live-pv-impossible", subject, text, hint)


def _unheeded(facts: HostFacts, policy: Policy) -> list[str]:
    can = facts.capabilities
    heeded = {
        "bandwidth_mib_s": can.bandwidth_cap or not policy.bandwidth_mib_s,
        "max_downtime_ms": can.max_downtime,
        "auto_converge": can.auto_converge or not policy.auto_converge,
        "copy_timeout_s": can.abort,
        "downtime_limit_ms": can.abort_standing,
    }
    return [name for name, is_heeded in heeded.items() if not is_heeded]
