"""How fast a guest changes its memory, measured before a move."""

from __future__ import annotations

from dataclasses import replace

from vmacro.errors import HostError
from vmacro.model.facts import Survey
from vmacro.model.nouns import Guest, Host
from vmacro.ports import World

_LONGEST_S = 20.0


def measured(seen: Survey, host: Host, guest: Guest, world: World) -> Survey:
    """Once all else has been looked at: what its agent does for us changes more than an idle guest itself. A forecast
    does without where that fails, or takes too long: no move depends on it."""

    def measure() -> float | None:
        try:
            return world.hypervisor(host).dirty_mib_s(guest.domain)
        except HostError:
            return None

    (rate,) = world.side_by_side([measure], _LONGEST_S)
    views = (replace(view, dirty_mib_s=rate) if view.host == host.name else view for view in seen.views)
    return replace(seen, views=tuple(views))
