"""MPTCP of the guest's kernel: limits and endpoints, by the mptcp_pm netlink family."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator, Iterable

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic.mptcp import AsyncMPTCP

from guest_agent.link import collect

# include/uapi/linux/mptcp.h and mptcp_pm.h
FLAG_SIGNAL = 1 << 0
FLAG_BACKUP = 1 << 2
MAX_LIMIT = 8  # MPTCP_PM_ADDR_MAX


@contextlib.asynccontextmanager
async def _path_manager() -> AsyncIterator[AsyncMPTCP]:
    async with AsyncMPTCP() as netlink:
        await netlink.setup_endpoint()  # its requests need the family's id, which this asks for
        yield netlink


async def raise_limits() -> None:
    async with _path_manager() as netlink:
        await collect(await netlink.limits("set", subflows=MAX_LIMIT, rcv_add_addrs=MAX_LIMIT))


async def endpoints() -> dict[int, str]:
    """id to address."""
    found = {}
    async with _path_manager() as netlink:
        for message in await collect(await netlink.endpoint("show")):
            address = message.get("MPTCP_PM_ATTR_ADDR")
            if address is not None:
                found[int(address.get("MPTCP_PM_ADDR_ATTR_ID"))] = str(
                    address.get("MPTCP_PM_ADDR_ATTR_ADDR4") or address.get("MPTCP_PM_ADDR_ATTR_ADDR6")
                )
    return found


async def announce(address: str, endpoint_id: int, backup: bool = False) -> None:
    """ADD_ADDR (RFC 8684 section 3.4.1) on every connection."""
    flags = FLAG_SIGNAL | (FLAG_BACKUP if backup else 0)
    async with _path_manager() as netlink:
        await collect(await netlink.endpoint("add", addr=address, id=endpoint_id, flags=flags))


async def withdraw(endpoint_id: int, address: str = "") -> None:
    """REMOVE_ADDR (RFC 8684 section 3.4.2) and no more subflows there.

    id 0 means the initial subflow's address, which must then be given. Idempotent.
    """
    extra = {"addr": address} if address else {}
    async with _path_manager() as netlink:
        try:
            await collect(await netlink.endpoint("del", id=endpoint_id, **extra))
        except NetlinkError as error:
            if error.code not in (errno.EINVAL, errno.ENOENT):
                raise


def fresh_id(taken: Iterable[int], last: int) -> int:
    """The next endpoint id, 1 to 255: one used again would meet its own retransmissions."""
    used = set(taken)
    return next(i for i in ((last + step) % 255 + 1 for step in range(255)) if i not in used)
