"""The fence: the tap of a guest that has left is down, until an orchestrator that has asked both hosts lifts it.

libvirt resumes a guest at its source if it does not hear that the destination took over, although it may have
(qemuMigrationSrcConfirmPhase). Its copy then runs without a network, and can be told from the guest at the destination.
"""

from __future__ import annotations

import errno

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

MARK = "vmacro fence"  # what the tap carries (IFLA_IFALIAS)


def put_up(ip: IPRoute, tap: str) -> None:
    """Fence a tap; one that is gone needs no fence. Raises NetlinkError."""
    for index in ip.link_lookup(ifname=tap):
        try:
            ip.link("set", index=index, state="down", ifalias=MARK)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise


def take_down(ip: IPRoute, tap: str) -> None:
    """Lift the fence. Idempotent. Raises NetlinkError."""
    if stands(ip, tap):
        (index,) = ip.link_lookup(ifname=tap)
        ip.link("set", index=index, state="up", ifalias="")


def stands(ip: IPRoute, tap: str) -> bool:
    """Whether a tap is fenced."""
    return any(ip.get_links(index)[0].get("IFLA_IFALIAS") == MARK for index in ip.link_lookup(ifname=tap))
