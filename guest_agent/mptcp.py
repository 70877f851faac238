"""MPTCP of the guest's kernel: limits and endpoints, by the mptcp_pm netlink family."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from socket import AF_INET, AF_INET6

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic.mptcp import MPTCP_PM_CMD_SET_FLAGS, AsyncMPTCP, mptcp_msg

from guest_agent.endpoint_ids import fresh_id
from guest_agent.link import collect
from guest_agent.netlink import GENERIC, NETLINK_GENERIC, attributes, dump, generic_family, integer

# include/uapi/linux/mptcp.h and mptcp_pm.h
FAMILY, CTRL_ATTR_FAMILY_ID, MPTCP_PM_CMD_GET_ADDR = "mptcp_pm", 1, 3
ATTR_ADDR, ATTR_ID, ATTR_ADDR4, ATTR_ADDR6 = 1, 2, 3, 4
FLAG_SIGNAL = 1 << 0
FLAG_BACKUP = 1 << 2
MAX_LIMIT = 8  # MPTCP_PM_ADDR_MAX
NLA_F_NESTED = 0x8000


@contextlib.asynccontextmanager
async def _path_manager() -> AsyncIterator[AsyncMPTCP]:
    async with AsyncMPTCP() as netlink:
        await netlink.setup_endpoint()  # its requests need the family's id, which this asks for
        yield netlink


async def raise_limits() -> None:
    """See ports.Endpoints."""
    async with _path_manager() as netlink:
        await collect(await netlink.limits("set", subflows=MAX_LIMIT, rcv_add_addrs=MAX_LIMIT))


async def endpoints() -> dict[int, str]:
    """id to address."""
    family = integer(generic_family(FAMILY)[CTRL_ATTR_FAMILY_ID])
    found = {}
    for payload in dump(NETLINK_GENERIC, family, GENERIC.pack(MPTCP_PM_CMD_GET_ADDR, 1, 0)):
        told = attributes(attributes(payload[GENERIC.size :]).get(ATTR_ADDR, b""))
        raw = told.get(ATTR_ADDR4) or told.get(ATTR_ADDR6)
        if raw:
            found[integer(told.get(ATTR_ID, b""))] = socket.inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)
    return found


async def announce(address: str, endpoint_id: int, backup: bool = False) -> None:
    """ADD_ADDR (RFC 8684 section 3.4.1) on every connection."""
    flags = FLAG_SIGNAL | (FLAG_BACKUP if backup else 0)
    async with _path_manager() as netlink:
        await collect(await netlink.endpoint("add", **_named(address), id=endpoint_id, flags=flags))


async def hold(address: str, endpoint_id: int, backup: bool = False) -> None:
    """An endpoint for joins that arrive translated. Without it the kernel makes an implicit one, which no id removes:
    clients would never get their slots back."""
    async with _path_manager() as netlink:
        flags = FLAG_BACKUP if backup else 0
        await collect(await netlink.endpoint("add", **_named(address), id=endpoint_id, flags=flags))


async def prefer(address: str, preferred: bool) -> None:
    """Tell all peers that subflows on an address are backup, or no longer (MP_PRIO, RFC 8684 section 3.3.8).

    The kernel finds subflows by endpoint. The initial subflow's address need not have one: then it gets
    a silent one, which is neither announced nor used for anything else.
    """
    async with _path_manager() as netlink:
        known = await endpoints()
        if address not in known.values():
            silent = fresh_id(known, max(known, default=0))
            await collect(await netlink.endpoint("add", **_named(address), id=silent, flags=0))
        flags = 0 if preferred else FLAG_BACKUP
        # mptcp_pm_nl_set_flags() looks the address up itself; only the backup flag may change.
        info = {"attrs": [*_named_address(address), ("MPTCP_PM_ADDR_ATTR_FLAGS", flags)]}
        message = mptcp_msg()
        message["cmd"], message["version"] = MPTCP_PM_CMD_SET_FLAGS, 1
        message["attrs"] = [("MPTCP_PM_ATTR_ADDR", info, NLA_F_NESTED)]
        await collect(await netlink.nlm_request(message, msg_type=netlink.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK))


def _named(address: str) -> dict[str, str]:
    return {"addr6" if ":" in address else "addr4": address}


def _named_address(address: str) -> list[tuple[str, object]]:
    if ":" in address:
        return [("MPTCP_PM_ADDR_ATTR_FAMILY", AF_INET6), ("MPTCP_PM_ADDR_ATTR_ADDR6", address)]
    return [("MPTCP_PM_ADDR_ATTR_FAMILY", AF_INET), ("MPTCP_PM_ADDR_ATTR_ADDR4", address)]


async def withdraw(endpoint_id: int, address: str = "") -> None:
    """REMOVE_ADDR (RFC 8684 section 3.4.2) and no more subflows there.

    id 0 means the initial subflow's address, which must then be given. Idempotent.
    """
    extra = _named(address) if address else {}
    async with _path_manager() as netlink:
        try:
            await collect(await netlink.endpoint("del", id=endpoint_id, **extra))
        except NetlinkError as error:
            if error.code not in (errno.EINVAL, errno.ENOENT):
                raise
