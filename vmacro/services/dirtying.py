"""How fast a guest changes its memory, measured before a move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vmacro.errors import HostError
from vmacro.model.facts import HostView, Survey
from vmacro.model.nouns import Guest, Host
from vmacro.ports import World

_LONGEST_S = 600.0


def measured_meanwhile(look: Callable[[], Survey], host: Host, guest: Guest, world: World) -> Survey:
    """What is seen, with what was measured while it was looked at, since that takes a second, and a check is to take
    less than three. What the guest's agent does for us meanwhile counts, which under emulation is some MiB. A forecast
    does without where the measurement fails: no move depends on it."""
    rates: list[float | None] = []

    def measure() -> None:
        try:
            rates.append(world.hypervisor_beside(host).dirty_mib_s(guest.domain))
        except HostError:
            rates.append(None)

    _, seen = world.side_by_side([measure, look], _LONGEST_S)
    assert seen is not None, "looked at for ten minutes"
    rate = rates[0] if rates else None
    return replace(seen, views=tuple(_with(rate, host.name, view) for view in seen.views))


def _with(rate: float | None, host: str, view: HostView) -> HostView:
    return replace(view, dirty_mib_s=rate) if view.host == host else view
