"""The tap of a guest that has left is down, until somebody who has asked both hosts says otherwise.

libvirt resumes a guest at its source where it does not hear that the destination took over, though it may have:
qemuMigrationSrcConfirmPhase. Its copy then runs, but reaches nobody, and can be told from the other one.
"""

from __future__ import annotations

import errno

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

MARK = "vmacro fence"  # what the tap carries (IFLA_IFALIAS)


def put_up(ip: IPRoute, tap: str) -> None:
    """Raises NetlinkError; a tap that has gone needs none."""
    for index in ip.link_lookup(ifname=tap):
        try:
            ip.link("set", index=index, state="down", ifalias=MARK)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise


def take_down(ip: IPRoute, tap: str) -> None:
    if stands(ip, tap):
        (index,) = ip.link_lookup(ifname=tap)
        ip.link("set", index=index, state="up", ifalias="")


def stands(ip: IPRoute, tap: str) -> bool:
    return any(ip.get_links(index)[0].get("IFLA_IFALIAS") == MARK for index in ip.link_lookup(ifname=tap))
