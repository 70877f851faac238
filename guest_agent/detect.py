"""How a guest learns that it runs somewhere else if no orchestrator tells it through the channel.

A detector is an asynchronous iterator of sightings. QEMU's is below; Xen's, a watch in xenstore, is in xen.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.rtnl import RTMGRP_LINK

NOTIFY_PEERS = 4  # IFLA_EVENT_NOTIFY_PEERS, include/uapi/linux/if_link.h


@dataclass(frozen=True)
class Sighting:
    """Something that a guest sees after a move, and perhaps at other times too. `stood_still_s`: for how long it was
    suspended just before, as its clocks say; 0 where they say nothing."""

    detector: str
    stood_still_s: float = 0.0


class Detector(Protocol):
    """Sees signs of a move without being told."""

    def sightings(self) -> AsyncIterator[Sighting]:
        """Signs as they are seen, for as long as the guest runs."""
        ...


class AnnounceDetector:
    """QEMU asks the virtio card to announce itself on the new link (VIRTIO_NET_S_ANNOUNCE).

    The kernel passes that on as RTM_NEWLINK with IFLA_EVENT, five times in 0.8 s.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface

    async def sightings(self) -> AsyncIterator[Sighting]:
        """See Detector."""
        async with AsyncIPRoute() as netlink:
            await netlink.bind(RTMGRP_LINK)
            while True:
                async for message in netlink.get():
                    if message.get("IFLA_IFNAME") != self._interface:
                        continue
                    if message.get("IFLA_EVENT") == NOTIFY_PEERS:
                        yield Sighting("announce")
