"""DHCP on the migrating interface, by pyroute2's client.

After a move the guest asks everybody (DISCOVER, RFC 2131 section 3.1): a unicast renewal would go
to the server of the site it left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any, Optional

from pyroute2.dhcp import fsm
from pyroute2.dhcp.client import AsyncDHCPClient, ClientConfig
from pyroute2.dhcp.dhcp4socket import AsyncDHCP4Socket
from pyroute2.dhcp.enums import dhcp
from pyroute2.dhcp.leases import Lease as DHCPLease

from guest_agent import resolver
from guest_agent.ports import NoLeaseError
from vmacro.wire.agent_verbs import Lease
from vmacro.wire.names import DHCP_BORROWER

LOG = logging.getLogger(__name__)
ETHERNET = 1  # an identifier of this type is a MAC, which pyroute2 takes as text
DOWN_AGAIN_S = 0.2
CARDS = Path("/sys/class/net")


class _InMemoryLease(DHCPLease):  # type: ignore[misc]
    """A lease of the site that the guest left must not come back from a file."""

    def dump(self) -> None:
        pass

    @classmethod
    def load(cls, interface: str) -> None:
        return None


class _Identified(AsyncDHCP4Socket):  # type: ignore[misc]
    """Sends a client identifier of any type; pyroute2 knows 0 and 1, systemd's has type 255 (RFC 4361)."""

    def __init__(self, interface: str, client_id: bytes) -> None:
        super().__init__(interface)
        self._client_id = client_id

    async def put(self, msg: Any) -> None:
        msg.dhcp["options"]["client_id"] = identifier_option(self._client_id)
        await super().put(msg)


class _Declining(AsyncDHCP4Socket):  # type: ignore[misc]
    """Does not hear offers of some addresses. To ask for one would be too much: a server that has it reserved for the
    card takes it from whoever has the lease now, under another client identifier."""

    def __init__(self, interface: str, unwanted: Collection[str]) -> None:
        super().__init__(interface)
        self._unwanted = unwanted
        self.declined: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def get(self) -> Any:
        while True:
            message = await super().get()
            offered = message.dhcp["yiaddr"]
            if message.message_type != dhcp.MessageType.OFFER or offered not in self._unwanted:
                return message
            if not self.declined.done():
                self.declined.set_result(offered)


def identifier_option(client_id: bytes) -> dict[str, Any]:
    """As pyroute2 takes it: a type, and the rest."""
    kind, key = client_id[0], client_id[1:]
    return {"type": kind, "key": key.hex(":") if kind == ETHERNET else key}


def _impatient() -> Iterator[float]:
    """Seconds between retransmissions: the link may come up a moment after the guest runs."""
    delay = 0.15
    while True:
        yield delay
        delay = min(delay * 1.5, 4.0)


class LeaseKeeper:
    """Implements ports.Leases. Gets a lease and keeps it, in one place at a time; never releases one.

    The lease of the old site is left to expire: the guest may still use that address, and may
    come back for it.
    """

    def __init__(self, interface: str, client_id: bytes = b"") -> None:
        self._interface = interface
        self._client_id = client_id
        self._client: Optional[AsyncDHCPClient] = None
        self._naming: Optional[asyncio.Task[None]] = None

    async def acquire(self, timeout_s: float) -> Lease:
        """A fresh lease from whoever serves this link now. Raises NoLeaseError."""
        until_s = time.monotonic() + timeout_s
        while True:
            await self._drop_client()
            client = AsyncDHCPClient(_config(self._interface))
            if self._client_id:
                client._sock = _Identified(self._interface, self._client_id)
            try:
                await client.__aenter__()
                self._client = client
                lease = await _bound(client, self._interface, max(until_s - time.monotonic(), 0.0))
                break
            except OSError as error:  # a card of Xen's is away for a moment after a move
                if time.monotonic() > until_s:
                    raise NoLeaseError(f"DHCP on {self._interface}: {error}") from None
                LOG.info("DHCP on %s: %s; again", self._interface, error)
                await asyncio.sleep(DOWN_AGAIN_S)
        servers = resolver.usable(client.lease.ack["options"].get("name_server") or ())
        self._naming = asyncio.ensure_future(resolver.use(self._interface, servers))  # nobody waits for it
        return lease

    @contextlib.asynccontextmanager
    async def borrowed(self, timeout_s: float, had: Collection[str]) -> AsyncIterator[Lease]:
        """A second lease of this site, given back at the end. Raises NoLeaseError; also where the server has nothing
        for this card but one of those addresses, that the guest `had` already."""
        config = _config(self._interface)
        config.client_id, config.release = borrower(self._interface), True
        client = AsyncDHCPClient(config)
        client._sock = sock = _Declining(self._interface, had)
        async with client:
            binding = asyncio.ensure_future(_bound(client, self._interface, timeout_s))
            try:
                await asyncio.wait((binding, sock.declined), return_when=asyncio.FIRST_COMPLETED)
                if not binding.done():
                    address = sock.declined.result()
                    raise NoLeaseError(f"DHCP on {self._interface} has {address} reserved for its card, and no other")
                lease = binding.result()
            finally:
                binding.cancel()
            yield lease

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(client.__aexit__(None, None, None), timeout=1.0)


def borrower(interface: str) -> bytes:
    """The client identifier of a second lease: a server takes two that send the same for one, whatever their cards."""
    return DHCP_BORROWER + bytes.fromhex((CARDS / interface / "address").read_text().strip().replace(":", ""))


def _config(interface: str) -> ClientConfig:
    return ClientConfig(
        interface=interface,
        lease_type=_InMemoryLease,
        retransmission=_impatient,
        release=False,
        handle_signals=False,
        vendor_id="vmacro",
    )


async def _bound(client: AsyncDHCPClient, interface: str, timeout_s: float) -> Lease:
    """Raises NoLeaseError; OSError where the interface went down, of which the client itself only makes a note."""
    await client.bootstrap()
    bound = asyncio.ensure_future(client.wait_for_state(fsm.State.BOUND))
    working = [task for task in (client._sender_task, client._receiver_task) if task is not None]
    try:
        await asyncio.wait([bound, *working], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not bound.done():
            if any(task.done() for task in working):
                raise OSError(errno.ENETDOWN, "the interface is down")
            raise NoLeaseError(f"no DHCP lease on {interface} within {timeout_s:.3g} s")
    finally:
        bound.cancel()
    lease = client.lease
    return Lease(lease.ip, lease.prefixlen, lease.default_gateway, lease.server_id, lease.lease_time)
