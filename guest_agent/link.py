"""Addresses, routes and neighbours of the migrating interface (rtnetlink)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from socket import AF_INET
from typing import Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from guest_agent.lease import Lease


@dataclass(frozen=True)
class Link:
    name: str
    index: int
    mac: str


async def find_link(name: str) -> Link:
    """Raises LookupError."""
    async with AsyncIPRoute() as netlink:
        for index in await netlink.link_lookup(ifname=name):
            (message,) = await collect(await netlink.link("get", index=index))
            return Link(name, index, str(message.get("IFLA_ADDRESS")))
    raise LookupError(f"no interface {name}")


async def bring_up(link: Link) -> None:
    async with AsyncIPRoute() as netlink:
        await netlink.link("set", index=link.index, state="up")


async def forget_neighbours(link: Link, but: str = "") -> None:
    """Those of the old site are not here."""
    async with AsyncIPRoute() as netlink:
        for message in await collect(await netlink.neigh("dump", ifindex=link.index, family=AF_INET)):
            if message.get("NDA_DST") == but:
                continue
            with _ignoring(errno.ENOENT):
                await netlink.neigh("del", ifindex=link.index, dst=message.get("NDA_DST"), family=AF_INET)


async def move_in(link: Link, lease: Lease, old: str) -> None:
    """Make the lease the interface's main address; keep `old`, if any, as a /32 that new
    connections do not choose. Its sockets can still send: an address that is gone could not.
    """
    async with AsyncIPRoute() as netlink:
        await netlink.addr(
            "replace", index=link.index, address=lease.address, prefixlen=lease.prefix_length, family=AF_INET
        )
        # Back where it was before, the guest may still keep this address as a /32.
        with _ignoring(errno.EADDRNOTAVAIL):
            await netlink.addr("del", index=link.index, address=lease.address, prefixlen=32, family=AF_INET)
        if old and old != lease.address:
            await _keep_as_host_address(netlink, link, old)
        await netlink.route("replace", dst="default", gateway=lease.gateway, oif=link.index, prefsrc=lease.address)


async def borrow(link: Link, address: str) -> None:
    """Answer for one more address, until move_out."""
    async with AsyncIPRoute() as netlink:
        await netlink.addr("replace", index=link.index, address=address, prefixlen=32, family=AF_INET)


async def held(link: Link, but: str) -> list[str]:
    """Addresses kept as /32 besides the lease's."""
    async with AsyncIPRoute() as netlink:
        messages = await collect(await netlink.addr("dump", index=link.index, family=AF_INET))
    return sorted({str(m.get("IFA_LOCAL")) for m in messages if m["prefixlen"] == 32} - {but})


async def move_out(link: Link, address: str) -> None:
    """Remove an address kept by move_in or borrowed; one that is gone already is fine."""
    async with AsyncIPRoute() as netlink:
        with _ignoring(errno.EADDRNOTAVAIL):
            await netlink.addr("del", index=link.index, address=address, prefixlen=32, family=AF_INET)


async def collect(answer: Any) -> list[Any]:
    """What the kernel says to a request, its errors too: pyroute2 raises them only as one reads.

    Some answers are lists, others asynchronous iterators.
    """
    return [m async for m in answer] if hasattr(answer, "__aiter__") else list(answer)


async def _keep_as_host_address(netlink: AsyncIPRoute, link: Link, address: str) -> None:
    # The /32 comes before the old prefix goes, so that the address is never missing.
    await netlink.addr(
        "replace",
        index=link.index,
        address=address,
        prefixlen=32,
        family=AF_INET,
        IFA_CACHEINFO={"ifa_preferred": 0, "ifa_valid": 0xFFFFFFFF, "cstamp": 0, "tstamp": 0},
    )
    for message in await collect(await netlink.addr("dump", index=link.index, family=AF_INET)):
        if message.get("IFA_LOCAL") == address and message["prefixlen"] != 32:
            with _ignoring(errno.EADDRNOTAVAIL):
                await netlink.addr(
                    "del", index=link.index, address=address, prefixlen=message["prefixlen"], family=AF_INET
                )


@contextlib.contextmanager
def _ignoring(code: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise
