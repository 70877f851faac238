"""The kernel's part of a switchover: implements switchover.Network."""

from __future__ import annotations

import libvirt
from pyroute2.iproute.linux import IPRoute

from vmacro.host import fence, rescue, routing, tunnels
from vmacro.host.hold import Hold, Holding
from vmacro.host.legs import LegEnd


class KernelNetwork:
    """The kernel, by netlink. `ip` must be used from one thread only."""

    def __init__(self, ip: IPRoute) -> None:
        self._ip = ip

    def ends(self, domain: str) -> list[LegEnd]:
        """See switchover.Network."""
        return [end for end in tunnels.ends(self._ip) if end.domain == domain]

    def point(self, end: LegEnd, to: str) -> None:
        """See switchover.Network."""
        routing.point(self._ip, end, to)

    def overhear(self, tap: str) -> Watched:
        """See switchover.Network."""
        return Watched(rescue.Overheard(tap))

    def hold(self, bridge: str, mac: str) -> Holding:
        """See switchover.Network."""
        return Holding(Hold(bridge, mac))

    def put_up_fence(self, tap: str) -> None:
        """See switchover.Network."""
        fence.put_up(self._ip, tap)

    def take_down_fence(self, tap: str) -> None:
        """See switchover.Network."""
        fence.take_down(self._ip, tap)

    def fence_stands(self, tap: str) -> bool:
        """See switchover.Network."""
        return fence.stands(self._ip, tap)


class Watched:
    """A tap that is read in libvirt's event loop, as packets come."""

    def __init__(self, overheard: rescue.Overheard) -> None:
        self._overheard = overheard
        self._watch = libvirt.virEventAddHandle(
            overheard.fileno(), libvirt.VIR_EVENT_HANDLE_READABLE, lambda *_: overheard.listen(), None
        )

    def send_on(self, legs: list[LegEnd]) -> int:
        """See switchover.Overheard."""
        return self._overheard.send_on(legs)

    def close(self) -> None:
        """See switchover.Overheard."""
        libvirt.virEventRemoveHandle(self._watch)
        self._overheard.close()
