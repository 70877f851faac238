"""MPTCP of the guest's kernel: limits and endpoints (mptcp_pm netlink), connections (sock_diag)."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass, field
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.netlink.diag import SS_CLOSE_WAIT, SS_CONN, SS_ESTABLISHED, DiagSocket
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic.mptcp import AsyncMPTCP

from guest_agent.link import collect

# include/uapi/linux/mptcp.h and mptcp_pm.h
FLAG_SIGNAL = 1 << 0
FLAG_BACKUP = 1 << 2
MAX_LIMIT = 8  # MPTCP_PM_ADDR_MAX
# include/uapi/linux/inet_diag.h, mptcp.h: INET_ULP_INFO_MPTCP holds MPTCP_SUBFLOW_ATTR_*
ULP_INFO_MPTCP = 3
# The kernel gives INET_DIAG_ULP_INFO to those who ask for INET_DIAG_INFO (2), as a bit of a mask.
EXTENSIONS = 1 << (2 - 1)
ATTR_TOKEN_LOC, ATTR_FLAGS, ATTR_ID_LOC = 2, 8, 10
SUBFLOW_JOINED = 1 << 2 | 1 << 3  # MPTCP_SUBFLOW_FLAG_JOIN_REM | _JOIN_LOC
SUBFLOW_BACKUP = 1 << 4 | 1 << 5
SUBFLOW_ESTABLISHED = 1 << 6  # MPTCP_SUBFLOW_FLAG_FULLY_ESTABLISHED


@dataclass(frozen=True)
class Subflow:
    """One TCP connection below an MPTCP one, or a plain TCP connection (token 0)."""

    local: str
    local_port: int
    remote: str
    remote_port: int
    local_id: int = 0
    joined: bool = False
    backup: bool = False
    established: bool = True


@dataclass
class Connection:
    """`token` as in RFC 8684 section 3.2, this end's; 0 for plain TCP."""

    token: int
    subflows: list[Subflow] = field(default_factory=list)

    @property
    def first(self) -> Subflow:
        """The initial subflow while it lives."""
        return min(self.subflows, key=lambda s: (s.joined, s.local_id))

    @property
    def followed(self) -> bool:
        """Whether the client has ever joined an address announced to it, as far as it still shows."""
        return any(s.joined for s in self.subflows)

    def as_wire(self) -> dict[str, Any]:
        return {"token": self.token, "subflows": [asdict(s) for s in self.subflows]}


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


def connections() -> list[Connection]:
    """All established connections of the guest but loopback's, MPTCP ones with all subflows.

    Blocks, and wants a thread without an event loop: pyroute2's diag socket brings its own.
    """
    mptcp: dict[int, Connection] = {}
    plain = []
    for token, subflow in _sockets():
        if token:
            mptcp.setdefault(token, Connection(token)).subflows.append(subflow)
        else:
            plain.append(Connection(0, [subflow]))
    return [*mptcp.values(), *plain]


def has_sockets(address: str) -> bool:
    """Whether any TCP socket still needs an address, closing ones too. Blocks, as connections() does."""
    return any(subflow.local == address for _, subflow in _sockets(SS_CONN))


def _sockets(states: int = 1 << SS_ESTABLISHED | 1 << SS_CLOSE_WAIT) -> Iterable[tuple[int, Subflow]]:
    with DiagSocket() as diag:
        diag.bind()
        for family in (AF_INET, AF_INET6):
            for message in diag.get_sock_stats(family=family, states=states, extensions=EXTENSIONS):
                if "idiag_src" not in message:
                    continue
                local, remote = _plain(message["idiag_src"]), _plain(message["idiag_dst"])
                if ipaddress.ip_address(local).is_loopback:
                    continue
                token, flags, local_id = _ulp_info(message.get("INET_DIAG_ULP_INFO"))
                yield (
                    token,
                    Subflow(
                        local,
                        message["idiag_sport"],
                        remote,
                        message["idiag_dport"],
                        local_id,
                        joined=bool(flags & SUBFLOW_JOINED),
                        backup=bool(flags & SUBFLOW_BACKUP),
                        established=not token or bool(flags & SUBFLOW_ESTABLISHED),
                    ),
                )


def _plain(address: str) -> str:
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return str(mapped or address)


def _ulp_info(attribute: object) -> tuple[int, int, int]:
    """(token, flags, local id) out of INET_DIAG_ULP_INFO; zeros where the socket is plain TCP."""
    if not attribute:
        return 0, 0, 0
    raw = bytes.fromhex(str(attribute).replace(":", ""))
    inner = _attributes(_attributes(raw).get(ULP_INFO_MPTCP, b""))
    return (
        int.from_bytes(inner.get(ATTR_TOKEN_LOC, b""), "little"),
        int.from_bytes(inner.get(ATTR_FLAGS, b""), "little"),
        int.from_bytes(inner.get(ATTR_ID_LOC, b""), "little"),
    )


def _attributes(raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = defaultdict(bytes)
    while len(raw) >= 4:
        length, kind = struct.unpack_from("=HH", raw)
        if length < 4:
            break
        found[kind & 0x3FFF] = raw[4:length]
        raw = raw[(length + 3) & ~3 :]
    return found
