"""How fast a guest changes its memory, looked at before a move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vmacro.errors import HostError
from vmacro.model.facts import HostView
from vmacro.model.nouns import Host
from vmacro.ports import World


def at(host: Host, domain: str, world: World) -> Callable[[HostView], HostView]:
    """What was measured, for the view of the host where the guest runs. A forecast does without, where that fails: no
    move depends on it."""
    try:
        rate = world.hypervisor(host).dirty_mib_s(domain)
    except HostError:
        rate = None
    return lambda view: replace(view, dirty_mib_s=rate)
