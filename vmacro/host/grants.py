"""An address that came to a guest with a leg is written down as a permanent neighbour on the guests' bridge: the host
finds its card without asking, no other card can claim it, and the guard lets the guest send from it.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Iterator
from socket import AF_INET, AF_INET6

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import tunnels

PROTOCOL = 118  # of our routes and neighbours, so that `ip` can tell them apart
_PROXY = 0x08  # NTF_PROXY


def family(address: str) -> int:
    """AF_INET or AF_INET6."""
    return int(AF_INET if ipaddress.ip_address(address).version == 4 else AF_INET6)


def grant(ip: IPRoute, bridge: int, address: str, mac: str) -> None:
    """Idempotent. Raises NetlinkError. `bridge` is an interface's index, here as in the others."""
    written = {"dst": address, "lladdr": mac, "ifindex": bridge, "state": "permanent", "family": family(address)}
    ip.neigh("replace", protocol=PROTOCOL, **written)


def answer(ip: IPRoute, bridge: int, address: str) -> None:
    """The host answers for it on the bridge, to neighbours who ask for a guest that is away. Idempotent."""
    ip.neigh("replace", dst=address, ifindex=bridge, flags=_PROXY, protocol=PROTOCOL, family=family(address))


def answer_not(ip: IPRoute, bridge: int, address: str) -> None:
    """Undo answer(). Idempotent."""
    _delete(ip, bridge, address, flags=_PROXY)


def revoke(ip: IPRoute, bridge: int, address: str) -> None:
    """Undo grant() and answer(). Idempotent. Raises NetlinkError."""
    answer_not(ip, bridge, address)
    _delete(ip, bridge, address)


def _delete(ip: IPRoute, bridge: int, address: str, flags: int = 0) -> None:
    try:
        ip.neigh("del", dst=address, ifindex=bridge, family=family(address), flags=flags)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise


def sweep(ip: IPRoute, needed: Callable[[str, str, str], bool]) -> None:
    """Take back what belongs to no leg that stands, unless it is `needed` (bridge, address, MAC) all the same."""
    legs = {(end.bridge, end.address) for end in tunnels.ends(ip)}
    for link in ip.get_links():
        name, index = str(link.get("IFLA_IFNAME")), link["index"]
        for address, mac in [*granted(ip, index)]:
            if (name, address) not in legs:
                answer_not(ip, index, address)
                if not needed(name, address, mac):
                    revoke(ip, index, address)


def granted(ip: IPRoute, bridge: int) -> Iterator[tuple[str, str]]:
    """(address, MAC) of each."""
    return ((address, mac) for index, address, mac in everywhere(ip, ifindex=bridge) if index == bridge)


def everywhere(ip: IPRoute, **chosen: int) -> Iterator[tuple[int, str, str]]:
    """(index of the bridge, address, MAC) of each; `chosen`: of which the kernel is asked."""
    for version in (AF_INET, AF_INET6):
        for found in ip.get_neighbours(family=version, **chosen):
            if found.get("NDA_PROTOCOL") == PROTOCOL and found.get("NDA_LLADDR"):
                yield int(found["ifindex"]), str(found.get("NDA_DST")), str(found.get("NDA_LLADDR"))
