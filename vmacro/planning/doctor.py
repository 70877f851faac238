"""What is missing at hosts before any guest is to move, and its fix. Pure: views in, findings out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from vmacro.model.facts import HostView
from vmacro.model.moves import Finding
from vmacro.model.nouns import Inventory
from vmacro.planning import checks, seamless
from vmacro.planning.request import blocker

# Of a guest that is asked about as if it were to move: what only says where it is.
_NO_ILLNESS = ("already-there",)


def examine(inventory: Inventory, views: Iterable[HostView]) -> list[Finding]:
    """Of hosts alone, each and two by two."""
    seen = list(views)
    found = [f for view in seen for f in _of_host(inventory, view)]
    for one, other in itertools.combinations(seen, 2):
        if one.site != other.site:
            found += seamless.pair_findings(one, other)
    return found


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Each once, blockers first: several guests, and several ways of theirs, meet the same obstacles."""
    once = dict.fromkeys(f for f in findings if f.code not in _NO_ILLNESS)
    return sorted(once, key=lambda f: not checks.blockers([f]))


def _of_host(inventory: Inventory, view: HostView) -> Iterator[Finding]:
    host = inventory.host(view.host)
    assert host is not None
    if view.trouble:
        hint = f"{view.trouble_hint}; a bare host: vmacro provision hosts".removeprefix("; ")
        yield blocker("host-unreachable", f"host {view.host}", view.trouble, hint)
        return
    yield from checks.certificate_findings(view)
    yield from checks.network_findings(view, host.network)
    site = inventory.site(view.site)
    if view.network is not None and site is not None and site.subnet and view.network.subnet != site.subnet:
        text = f"network {view.network.name!r} has subnet {view.network.subnet}, the inventory says {site.subnet}"
        yield blocker("subnet-differs", f"host {view.host}", text, "correct the one that is wrong")
    yield from seamless.host_findings(view)
