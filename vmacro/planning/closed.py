"""Hosts and sites that get no guests, since they are emptied or empty: maintenance. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vmacro.model.batches import Maintenance
from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding
from vmacro.planning.request import Request, blocker, source_view, target_view


def marked(views: tuple[HostView, ...], maintenance: tuple[Maintenance, ...]) -> tuple[HostView, ...]:
    """What was seen of hosts, with which of them are in maintenance. Idempotent."""
    return tuple(replace(view, closed=_why(view, maintenance)) for view in views)


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """Nobody is moved to a host that somebody wants empty."""
    source, target = source_view(survey), target_view(request, survey)
    if target is not None and target.closed and (source is None or source.host != target.host):
        hint = "another destination; once the work there is done: vmacro restore"
        yield blocker("in-maintenance", f"host {target.host}", target.closed, hint)


def _why(view: HostView, maintenance: tuple[Maintenance, ...]) -> str:
    of_it = (m for m in maintenance if m.subject == (view.site if m.is_site else view.host))
    return next((m.text for m in of_it), "")
