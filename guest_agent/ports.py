"""What the agent's decisions need of the guest: the kernel, DHCP and time, each behind a small protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, Tuple, Union  # noqa: UP035 Python 3.9 evaluates it

from vmacro.wire.agent_verbs import Connection, Lease

# Less is no pause: two clocks are not read at the same moment.
STOOD_STILL_S = 0.02
Ends = Tuple[str, int, str, int]  # noqa: UP006 evaluated by Python 3.9; address and port, the guest's first


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

    async def hold(self, address: str, endpoint_id: int, backup: bool = False) -> None:
        """An endpoint for subflows on an address that is announced as another one: it is not announced itself."""

    async def prefer(self, address: str, preferred: bool) -> None:
        """Tell all peers that subflows on an address are backup, or no longer."""

    async def withdraw(self, endpoint_id: int, address: str = "") -> None:
        """REMOVE_ADDR, and no more subflows there. id 0: the initial subflows', of `address`. Idempotent."""


class Sockets(Protocol):
    """The guest's TCP and MPTCP connections."""

    def connections(self) -> list[Connection]:
        """All that are established, but those of the guest with itself. Raises OSError."""

    def has_sockets(self, address: str) -> bool:
        """Whether any TCP connection still needs an address, closing ones too. Raises OSError."""

    def look(self) -> tuple[list[Connection], set[Ends]]:
        """As connections(), and at the same moment the sockets that have said goodbye, with all before it acknowledged,
        and wait for their peers'. Raises OSError."""

    def cut(self, address: str, tokens: set[int]) -> None:
        """End the subflows on an address of some connections (token 0: plain TCP). Raises OSError."""

    def mute(self, ends: Collection[Ends]) -> None:
        """What the guest sends on these, even to close them, does not leave it. Of very many some. Raises OSError:
        then some may be."""

    def unmute(self, ends: Collection[Ends]) -> None:
        """They are heard again: what was lost meanwhile is sent once more. Idempotent, whether or not mute() could."""

    def unmute_all(self) -> None:
        """Those that an earlier agent had muted, too."""

    def rooms(self) -> dict[int, int]:
        """For how many clients that are still connecting a port's listeners have room, the one that has least. Raises
        OSError."""
        ...

    def turned_away(self) -> int:
        """How many attempts to connect were dropped so far since such a queue was full. Raises OSError."""
        ...

    def cookies(self) -> dict[str, str]:
        """What put_back() needs. Raises OSError."""
        ...

    def have_them_queue(self) -> None:
        """From now on who finds such a queue full tries again later, and gets no SYN cookie, which loses joins. Raises
        OSError: put_back() then."""

    def put_back(self, before: Mapping[str, str]) -> None:
        """As it was by cookies(); not what somebody has set since."""

    def forget_round_trips(self) -> None:
        """New connections begin without what was measured by earlier ones, elsewhere. Raises OSError."""


@dataclass(frozen=True)
class SubflowOpened:
    """A subflow of an MPTCP connection, the first one among them, is there."""

    token: int
    ends: Ends


@dataclass(frozen=True)
class SubflowClosed:
    """A subflow is no more, and its connection goes on; `error` is the socket's errno, 0 where it was withdrawn."""

    token: int
    ends: Ends
    error: int


@dataclass(frozen=True)
class Closed:
    """The guest's application has closed an MPTCP connection."""

    token: int


@dataclass(frozen=True)
class SocketGone:
    """A TCP socket that was connected was freed. `surplus`: how many more bytes its peer has acknowledged than data was
    sent: one for a FIN, and one for a SYN. `retransmits`: how often the oldest byte, or a probe, was sent again in
    vain. `silent_s`: since when nothing of the peer had come."""

    ends: Ends
    surplus: int
    retransmits: int
    silent_s: float


KernelEvent = Union[SubflowOpened, SubflowClosed, Closed, SocketGone]


class KernelEvents(Protocol):
    """How connections begin and end, as the kernel tells it."""

    def listen(self) -> None:
        """Begin to listen, unless that has been done. Raises OSError where the kernel does not tell."""

    def heard(self) -> tuple[list[KernelEvent], bool]:
        """What has come since the last call (of a flood some of it), a subflow's end before its socket's; and whether
        more came than the kernel could keep for us. Raises OSError."""

    def stop(self) -> None:
        """Listen no more. Idempotent."""


class Leases(Protocol):
    """DHCP on the interface."""

    async def acquire(self, timeout_s: float) -> Lease:
        """A fresh lease from whoever serves this link now. Raises NoLeaseError."""

    def borrowed(self, timeout_s: float, had: Collection[str]) -> AbstractAsyncContextManager[Lease]:
        """A second lease of this site, given back at the end; none of those that the guest `had`, which a server would
        take from it. Raises NoLeaseError."""


class Clock(Protocol):
    """Seconds of CLOCK_BOOTTIME, which goes on where the guest goes."""

    def now_s(self) -> float:
        """Seconds since the guest booted."""
        ...

    def stood_still_s(self) -> float:
        """For how many of them the guest was suspended: CLOCK_MONOTONIC did not go on then."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


class NoLeaseError(Exception):
    """No DHCP server answered in time, or had an address to give."""
