"""What is missing at hosts, before any guest is to move, and how to mend it. Pure: views in, findings out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from vmacro.model.facts import HostView
from vmacro.model.moves import Finding
from vmacro.model.nouns import Inventory
from vmacro.planning import checks, seamless
from vmacro.planning.request import blocker

# Every guest is checked as if it moved to every site; that it is at one of them already is no fault.
_NO_FAULT = ("already-there",)
# By code of what a host's silence is called: whether it is the silence of one that vmacro supports.
_OF_A_HOST = {
    code: supported for codes in (checks.HOST_CODES, checks.DESTINATION_CODES) for supported, code in codes.items()
}


def examine(inventory: Inventory, views: Iterable[HostView]) -> list[Finding]:
    """Findings about each host, and about each pair of hosts at different sites."""
    seen = list(views)
    found = [f for view in seen for f in _of_host(inventory, view)]
    for one, other in itertools.combinations(seen, 2):
        if one.site != other.site:
            found += seamless.pair_findings(one, other)
    return found


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, blockers first: several guests and destinations meet the same obstacles. So is a host that
    does not answer, for whatever it was asked."""
    once: dict[object, Finding] = {}
    for found in sorted(findings, key=lambda f: not checks.blockers([f])):
        if found.code not in _NO_FAULT:
            once.setdefault((_OF_A_HOST[found.code], found.subject) if found.code in _OF_A_HOST else found, found)
    return [*once.values()]


def _of_host(inventory: Inventory, view: HostView) -> Iterator[Finding]:
    host = inventory.host(view.host)
    assert host is not None
    if view.trouble:
        bare = "; a bare host: vmacro provision hosts" if view.supported else ""
        hint = f"{view.trouble_hint}{bare}".removeprefix("; ")
        yield blocker(checks.HOST_CODES[view.supported], f"host {view.host}", view.trouble, hint)
        return
    yield from checks.certificate_findings(view)
    yield from checks.network_findings(view, host.network)
    yield from checks.subnet_findings(host, view)
    yield from seamless.host_findings(view)
