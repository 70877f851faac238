"""How fast a guest changes its memory, measured before a move, while other things are looked at: that takes a second. A
forecast does without where it fails: no move depends on it.

What the guest's agent does for us meanwhile counts, which under emulation is some MiB.
"""

from __future__ import annotations

from contextlib import suppress

from vmacro.errors import HostError
from vmacro.model.nouns import Guest, Host
from vmacro.ports import World


def begin(host: Host, guest: Guest, world: World) -> bool:
    """Whether it is measured now, at the host where the guest runs."""
    with suppress(HostError):
        return world.hypervisor(host).measure(guest.domain)
    return False


def mib_s(host: Host, guest: Guest, world: World) -> float | None:
    """What has been measured since; None where that failed."""
    with suppress(HostError):
        return world.hypervisor(host).dirty_mib_s(guest.domain)
    return None
