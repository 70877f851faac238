"""What the agent's decisions need of the guest: the kernel, DHCP and time, each behind a small protocol."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from vmacro.wire.agent_verbs import Connection, Lease


class Link(Protocol):
    """The interface that migrates: its addresses, routes and neighbours."""

    @property
    def name(self) -> str:
        """As the kernel calls it."""
        ...

    @property
    def mac(self) -> str:
        """Its hardware address."""
        ...

    def rp_filter(self) -> int:
        """The reverse-path filter in force: 0 off, 1 strict, 2 loose."""

    async def bring_up(self) -> None:
        """Set it up. Idempotent."""

    async def forget_neighbours(self, but: str = "") -> None:
        """Forget all neighbours except one: those of the old site are not here."""

    async def move_in(self, lease: Lease, old: str) -> None:
        """Make the lease the main address; keep `old`, if any, as a /32 that new connections do not choose."""

    async def move_in6(self, new: str, old: str) -> None:
        """Make `new`, if any, the address that is sent from; keep `old` for its sockets."""

    async def borrow(self, address: str) -> None:
        """Answer for one more address, which nothing new is sent from, until move_out()."""

    async def move_out(self, address: str) -> None:
        """Remove an address kept by move_in() or borrowed. Idempotent."""

    async def extra_addresses(self, but: set[str]) -> list[str]:
        """Addresses kept besides the present ones."""

    async def addresses6(self) -> dict[str, bool]:
        """Global IPv6 addresses, and whether the kernel prefers them."""


class Endpoints(Protocol):
    """MPTCP's path manager in the kernel."""

    async def raise_limits(self) -> None:
        """Allow as many subflows and announced addresses as the kernel can."""

    async def endpoints(self) -> dict[int, str]:
        """id to address."""

    async def announce(self, address: str, endpoint_id: int, backup: bool = False) -> None:
        """ADD_ADDR on every connection."""

    async def prefer(self, address: str, preferred: bool) -> None:
        """Tell all peers that subflows on an address are backup, or no longer."""

    async def withdraw(self, endpoint_id: int, address: str = "") -> None:
        """REMOVE_ADDR, and no more subflows there. id 0: the initial subflows', of `address`. Idempotent."""


class Sockets(Protocol):
    """The guest's TCP and MPTCP connections."""

    def connections(self) -> list[Connection]:
        """All that are established, but loopback's. Raises OSError."""

    def has_sockets(self, address: str) -> bool:
        """Whether any TCP connection still needs an address, closing ones too. Raises OSError."""

    def cut(self, address: str, tokens: set[int]) -> None:
        """End the subflows on an address of some connections (token 0: plain TCP). Raises OSError."""


class Leases(Protocol):
    """DHCP on the interface."""

    async def acquire(self, timeout_s: float) -> Lease:
        """A fresh lease from whoever serves this link now. Raises NoLeaseError."""

    def borrowed(self, timeout_s: float) -> AbstractAsyncContextManager[Lease]:
        """A second lease of this site, given back at the end. Raises NoLeaseError."""


class Clock(Protocol):
    """Seconds of CLOCK_BOOTTIME, which goes on where the guest goes."""

    def now_s(self) -> float:
        """Seconds since the guest booted."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


class NoLeaseError(Exception):
    """No DHCP server answered in time."""
