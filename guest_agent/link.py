"""Addresses, routes and neighbours of the migrating interface (rtnetlink)."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from guest_agent.netlink import attributes, dump, integer
from vmacro.wire.agent_verbs import Lease

# include/uapi/linux/if_addr.h, rtnetlink.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_DEPRECATED, IFA_F_NOPREFIXROUTE = 0x02, 0x20, 0x200
RTM_GETADDR, RT_SCOPE_UNIVERSE = 22, 0
ALL_ROUTERS = "ff02::2"
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index


@dataclass(frozen=True)
class KernelLink:
    """Implements ports.Link."""

    name: str
    index: int
    mac: str

    def rp_filter(self) -> int:
        """The higher of the interface's own and that of all counts (Documentation/networking/ip-sysctl.rst)."""
        folders = (Path("/proc/sys/net/ipv4/conf") / which for which in ("all", self.name))
        return max(int((folder / "rp_filter").read_text()) for folder in folders)

    async def bring_up(self) -> None:
        async with AsyncIPRoute() as netlink:
            await netlink.link("set", index=self.index, state="up")

    async def forget_neighbours(self, but: str = "") -> None:
        """See ports.Link."""
        async with AsyncIPRoute() as netlink:
            for message in await collect(await netlink.neigh("dump", ifindex=self.index, family=AF_INET)):
                if message.get("NDA_DST") == but:
                    continue
                with _ignoring(errno.ENOENT):
                    await netlink.neigh("del", ifindex=self.index, dst=message.get("NDA_DST"), family=AF_INET)

    async def move_in(self, lease: Lease, old: str) -> None:
        """Make the lease the interface's main address; keep `old`, if any, as a /32 that new
        connections do not choose. Its sockets can still send: an address that is gone could not.
        """
        async with AsyncIPRoute() as netlink:
            await netlink.addr(
                "replace", index=self.index, address=lease.address, prefixlen=lease.prefix_length, family=AF_INET
            )
            # Back where it was before, the guest may still keep this address as a /32.
            with _ignoring(errno.EADDRNOTAVAIL):
                await netlink.addr("del", index=self.index, address=lease.address, prefixlen=32, family=AF_INET)
            if old and old != lease.address:
                await _keep_as_host_address(netlink, self, old)
            await netlink.route("replace", dst="default", gateway=lease.gateway, oif=self.index, prefsrc=lease.address)

    async def borrow(self, address: str) -> None:
        """Answer for one more address, which nothing new is sent from, until move_out."""
        async with AsyncIPRoute() as netlink:
            if ":" in address:
                await _set6(netlink, self, address, preferred=False)
            else:
                await netlink.addr("replace", index=self.index, address=address, prefixlen=32, family=AF_INET)

    async def extra_addresses(self, but: set[str]) -> list[str]:
        """Addresses kept besides the present ones."""
        old = {found.address for found in _addresses(self, AF_INET) if found.prefix_length == 32}
        return sorted(old - but) + sorted((await self.addresses6()).keys() - but)

    async def addresses6(self) -> dict[str, bool]:
        """Global IPv6 addresses, and whether the kernel prefers them."""
        return {found.address: not found.flags & IFA_F_DEPRECATED for found in _addresses(self, AF_INET6)}

    async def move_in6(self, new: str, old: str) -> None:
        """Make `new`, if any, the address that is sent from; keep `old` for its sockets, without its subnet."""
        async with AsyncIPRoute() as netlink:
            if new:
                await _set6(netlink, self, new, preferred=True)
            if old and old != new:
                await _set6(netlink, self, old, preferred=False)
                subnet = str(ipaddress.IPv6Interface(f"{old}/64").network)
                with _ignoring(errno.ESRCH):
                    await collect(await netlink.route("del", dst=subnet, oif=self.index, family=AF_INET6))
        _solicit_router(self)

    async def move_out(self, address: str) -> None:
        """Remove an address kept by move_in or borrowed; one that is gone already is fine."""
        async with AsyncIPRoute() as netlink:
            family, lengths = AF_INET, [32]
            if ":" in address:
                known = _addresses(self, AF_INET6)
                family, lengths = AF_INET6, [found.prefix_length for found in known if found.address == address]
            for length in lengths:
                with _ignoring(errno.EADDRNOTAVAIL):
                    gone = await netlink.addr("del", index=self.index, address=address, prefixlen=length, family=family)
                    await collect(gone)


async def find_link(name: str) -> KernelLink:
    """Raises LookupError."""
    async with AsyncIPRoute() as netlink:
        for index in await netlink.link_lookup(ifname=name):
            (message,) = await collect(await netlink.link("get", index=index))
            return KernelLink(name, index, str(message.get("IFLA_ADDRESS")))
    raise LookupError(f"no interface {name}")


async def collect(answer: Any) -> list[Any]:
    """What the kernel says to a request, its errors too: pyroute2 raises them only as one reads.

    Some answers are lists, others asynchronous iterators.
    """
    return [m async for m in answer] if hasattr(answer, "__aiter__") else list(answer)


async def _keep_as_host_address(netlink: AsyncIPRoute, link: KernelLink, address: str) -> None:
    # The /32 comes before the old prefix goes, so that the address is never missing.
    await netlink.addr(
        "replace",
        index=link.index,
        address=address,
        prefixlen=32,
        family=AF_INET,
        IFA_CACHEINFO={"ifa_preferred": 0, "ifa_valid": 0xFFFFFFFF, "cstamp": 0, "tstamp": 0},
    )
    for found in _addresses(link, AF_INET):
        if found.address == address and found.prefix_length != 32:
            with _ignoring(errno.EADDRNOTAVAIL):
                await netlink.addr(
                    "del", index=link.index, address=address, prefixlen=found.prefix_length, family=AF_INET
                )


async def _set6(netlink: AsyncIPRoute, link: KernelLink, address: str, preferred: bool) -> None:
    """Without duplicate detection, which would take a second: these addresses are made of MACs."""
    forever = 0xFFFFFFFF
    lifetimes = {"ifa_preferred": forever if preferred else 0, "ifa_valid": forever, "cstamp": 0, "tstamp": 0}
    known = {found.address: found.prefix_length for found in _addresses(link, AF_INET6)}
    await netlink.addr(
        "replace",
        index=link.index,
        address=address,
        prefixlen=known.get(address, 128),
        family=AF_INET6,
        IFA_FLAGS=IFA_F_NODAD | IFA_F_NOPREFIXROUTE,
        IFA_CACHEINFO=lifetimes,
    )


@dataclass(frozen=True)
class _Address:
    address: str
    prefix_length: int
    flags: int


def _addresses(link: KernelLink, family: int) -> list[_Address]:
    """All of IPv4; of IPv6 the global ones. Raises OSError."""
    found = []
    for payload in list(dump(socket.NETLINK_ROUTE, RTM_GETADDR, _IFADDRMSG.pack(family, 0, 0, 0, 0))):
        _, prefix_length, flags, scope, index = _IFADDRMSG.unpack_from(payload)
        told = attributes(payload[_IFADDRMSG.size :])
        raw = told.get(IFA_LOCAL) or told.get(IFA_ADDRESS)
        if raw and index == link.index and (family == AF_INET or scope == RT_SCOPE_UNIVERSE):
            flags = integer(told.get(IFA_FLAGS, b"")) or flags
            found.append(_Address(socket.inet_ntop(family, raw), prefix_length, flags))
    return found


def _solicit_router(link: KernelLink) -> None:
    """Router Solicitation (RFC 4861 section 4.1): the kernel sends one only as a link comes up."""
    with socket.socket(AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.sendto(bytes([133, 0, 0, 0, 0, 0, 0, 0]), (ALL_ROUTERS, 0, 0, link.index))


@contextlib.contextmanager
def _ignoring(code: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise
