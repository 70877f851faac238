"""MPTCP of the guest's kernel: limits and endpoints, by the mptcp_pm family of generic netlink."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from functools import lru_cache
from socket import AF_INET, AF_INET6

from guest_agent.endpoint_ids import fresh_id
from guest_agent.netlink import (
    CTRL_ATTR_FAMILY_ID,
    GENERIC,
    NETLINK_GENERIC,
    NLM_F_ACK,
    ask,
    attribute,
    attributes,
    dump,
    generic_family,
    integer,
)
from vmacro.wire.agent_verbs import MOST_ENDPOINTS

# include/uapi/linux/genetlink.h, mptcp.h and mptcp_pm.h: MPTCP_PM_CMD_*, _ATTR_* and _ADDR_ATTR_*
FAMILY = "mptcp_pm"
ADD_ADDR, DEL_ADDR, GET_ADDR, SET_LIMITS, SET_FLAGS = 1, 2, 3, 5, 7
ATTR_ADDR, ATTR_RCV_ADD_ADDRS, ATTR_SUBFLOWS = 1, 2, 3
ADDR_FAMILY, ADDR_ID, ADDR_ADDR4, ADDR_ADDR6, ADDR_FLAGS = 1, 2, 3, 4, 6
FLAG_SIGNAL = 1 << 0
FLAG_BACKUP = 1 << 2
NLA_F_NESTED = 0x8000
_U8, _U16, _U32 = struct.Struct("=B"), struct.Struct("=H"), struct.Struct("=I")


async def raise_limits() -> None:
    """See ports.Endpoints."""
    most = _U32.pack(MOST_ENDPOINTS)
    _tell(SET_LIMITS, attribute(ATTR_RCV_ADD_ADDRS, most) + attribute(ATTR_SUBFLOWS, most))


async def endpoints() -> dict[int, str]:
    """id to address."""
    found = {}
    for payload in dump(NETLINK_GENERIC, _family(), GENERIC.pack(GET_ADDR, 1, 0)):
        told = attributes(attributes(payload[GENERIC.size :]).get(ATTR_ADDR, b""))
        raw = told.get(ADDR_ADDR4) or told.get(ADDR_ADDR6)
        if raw:
            found[integer(told.get(ADDR_ID, b""))] = socket.inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)
    return found


async def announce(address: str, endpoint_id: int, backup: bool = False) -> None:
    """ADD_ADDR (RFC 8684 section 3.4.1) on every connection."""
    await _add(address, endpoint_id, FLAG_SIGNAL | (FLAG_BACKUP if backup else 0))


async def hold(address: str, endpoint_id: int, backup: bool = False) -> None:
    """An endpoint for joins that arrive translated. Without it the kernel makes an implicit one, which no id removes:
    clients would never get their slots back."""
    await _add(address, endpoint_id, FLAG_BACKUP if backup else 0)


async def prefer(address: str, preferred: bool) -> None:
    """Tell all peers that subflows on an address are backup, or no longer (MP_PRIO, RFC 8684 section 3.3.8).

    The kernel finds subflows by endpoint. The initial subflow's address need not have one: then it gets
    a silent one, which is neither announced nor used for anything else.
    """
    known = await endpoints()
    if address not in known.values():
        await _add(address, fresh_id(known, max(known, default=0)), flags=0)
    # mptcp_pm_nl_set_flags() looks the address up itself; only the backup flag may change.
    _tell(SET_FLAGS, _entry(_named(address) + _flagged(0 if preferred else FLAG_BACKUP)))


async def withdraw(endpoint_id: int, address: str = "") -> None:
    """REMOVE_ADDR (RFC 8684 section 3.4.2) and no more subflows there.

    id 0 means the initial subflow's address, which must then be given. Idempotent.
    """
    try:
        _tell(DEL_ADDR, _entry(attribute(ADDR_ID, _U8.pack(endpoint_id)) + (_named(address) if address else b"")))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


async def _add(address: str, endpoint_id: int, flags: int) -> None:
    """A join that comes where no endpoint is, or no longer, makes an implicit one. The kernel has another one take its
    place only if that is given no id (mptcp_pm_nl_append_new_local_addr), and it keeps the implicit one's."""
    named = attribute(ADDR_ID, _U8.pack(endpoint_id))
    try:
        _tell(ADD_ADDR, _entry(_named(address) + named + _flagged(flags)))
    except OSError as error:
        if error.errno != errno.EINVAL or address not in (await endpoints()).values():
            raise
        _tell(ADD_ADDR, _entry(_named(address) + _flagged(flags)))


def _tell(command: int, body: bytes) -> None:
    """Raises OSError where the kernel refuses."""
    ask(NETLINK_GENERIC, _family(), GENERIC.pack(command, 1, 0) + body, NLM_F_ACK)


@lru_cache(maxsize=1)
def _family() -> int:
    return integer(generic_family(FAMILY)[CTRL_ATTR_FAMILY_ID])


def _entry(inner: bytes) -> bytes:
    return attribute(ATTR_ADDR | NLA_F_NESTED, inner)


def _named(address: str) -> bytes:
    parsed = ipaddress.ip_address(address)
    family, kind = (AF_INET, ADDR_ADDR4) if parsed.version == 4 else (AF_INET6, ADDR_ADDR6)
    return attribute(ADDR_FAMILY, _U16.pack(family)) + attribute(kind, parsed.packed)


def _flagged(flags: int) -> bytes:
    return attribute(ADDR_FLAGS, _U32.pack(flags))
