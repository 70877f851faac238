"""What an orchestrator may ask a guest's agent: each verb once, with its arguments, its result and its deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Optional

from vmacro.wire.fields import Address, Choice, Items, Number, Text, Word
from vmacro.wire.messages import Nothing, Verb

NO_LEASE = "no-lease"  # the error code of what DHCP had no address for
CLAIMED = "claimed"  # that of what another move's claim stands against
FULL = "full"  # that of an address for which the guest's kernel has no room
MOST_ENDPOINTS = 8  # for MPTCP in one kernel (Linux MPTCP_PM_ADDR_MAX)
MAX_CONNECTIONS = 2048  # at some 300 bytes each they fit one reply
MOST_LISTED = 65_536  # by pages
MAX_SUBFLOWS = 32  # of a connection; a kernel's own path manager makes up to 9
MAX_ADDRESSES = 256
MOST_MS = 600_000
UNANSWERED = 3  # retransmissions in vain: after some 1.5 s, or 7 round trips
LONGEST_CLAIM_S = 7 * 86_400
BRIEF_S = 10  # what takes no time at all waits for what the agent is doing, and for a processor
LOOK_S = 30  # a guest with no processor to spare takes long over thousands of connections
LONGEST_CONSENT_MS = 10_000
# How a connection has ended. closed: both sides said goodbye, or the application of the guest closed it. aborted: its
# client's application closed it at once. reset, timed-out: TCP gave it up. cut: the agent did, as it was told to.
CLOSED, ABORTED, RESET, TIMED_OUT, CUT = "closed", "aborted", "reset", "timed-out", "cut"
ENDED_HOW = (CLOSED, ABORTED, RESET, TIMED_OUT, CUT)

_IpAddress = Annotated[str, Address()]
_NoneOrIpAddress = Annotated[str, Address(optional=True)]
_Port = Annotated[int, Number(0, 65_535)]
_Count = Annotated[int, Number()]


@dataclass(frozen=True)
class ClaimArgs:
    """Have the guest for `move`, of `by` (USER@MACHINE), for so many seconds."""

    move: Annotated[str, Word()]
    seconds: Annotated[int, Number(1, LONGEST_CLAIM_S)]
    by: Annotated[str, Text(80)] = ""


@dataclass(frozen=True)
class ReleaseArgs:
    """End the claim of `move`; another move's stays."""

    move: Annotated[str, Word()]


@dataclass(frozen=True)
class ConsentArgs:
    """How long to wait for clients to join."""

    timeout_ms: Annotated[int, Number(1, LONGEST_CONSENT_MS)] = 1500


@dataclass(frozen=True)
class PrepareArgs:
    """The addresses to come, `address6` '' where the guest gets none."""

    address: _IpAddress
    address6: _NoneOrIpAddress = ""


@dataclass(frozen=True)
class ArriveArgs:
    """`left` is the address that the guest had before the move: it tells an arrival that the agent has seen by itself
    from one that is still to come."""

    left: _IpAddress


@dataclass(frozen=True)
class RetireArgs:
    """`force` cuts connections that need the address."""

    address: _IpAddress
    force: bool = False


@dataclass(frozen=True)
class PublishArgs:
    """Clients know `address` as `public`: their network translates it, 1:1."""

    address: _IpAddress
    public: _IpAddress


@dataclass(frozen=True)
class PageArgs:
    """Go on at this place of a snapshot; '' for a new one."""

    snapshot: Annotated[str, Word(optional=True)] = ""
    at: Annotated[int, Number(0, MOST_LISTED)] = 0


@dataclass(frozen=True)
class CountArgs:
    """Count connections by whether they use any of `addresses`, or one of the `carried`. Of those watched are awaited:
    who was willing when that was asked for; without `willing`, who used one of the addresses already then. `known`:
    all addresses of the card that moved, before it did; none where nobody knows."""

    addresses: Annotated[tuple[_IpAddress, ...], Items(MAX_ADDRESSES)]
    carried: Annotated[tuple[_IpAddress, ...], Items(MAX_ADDRESSES)] = ()
    willing: bool = False
    known: Annotated[tuple[_IpAddress, ...], Items(MAX_ADDRESSES)] = ()


@dataclass(frozen=True)
class Lease:
    """What DHCP gave (RFC 2131), and for how long."""

    address: _IpAddress
    prefix_length: Annotated[int, Number(0, 32)]
    gateway: _IpAddress
    server: _IpAddress
    seconds: Annotated[int, Number(-1, 0xFFFFFFFF)]  # -1: for ever


@dataclass(frozen=True)
class Claim:
    """Who moves the guest: the move, USER@MACHINE, and for how long already."""

    move: Annotated[str, Word()]
    by: Annotated[str, Text(80)]
    age_s: float


@dataclass(frozen=True)
class Status:
    """The guest and its agent. `lease` is None while DHCP has not answered yet, `address6` '' without IPv6;
    `extra_addresses` are those kept besides the present ones. `rp_filter` is the kernel's reverse-path filter:
    0 off, 1 strict, 2 loose. `endpoints`: the addresses of which its kernel makes use for MPTCP, announced or not."""

    agent: Annotated[str, Text(64)]
    boot_id: Annotated[str, Text(64)]
    kernel: Annotated[str, Text(100)]
    hostname: Annotated[str, Text(64)]
    uptime_s: float
    interface: Annotated[str, Text(15)]
    mac: Annotated[str, Word()]
    lease: Optional[Lease]
    address6: _NoneOrIpAddress
    extra_addresses: Annotated[tuple[_IpAddress, ...], Items(MAX_ADDRESSES)]
    verbs: Annotated[tuple[Annotated[str, Word()], ...], Items(64)]
    claim: Optional[Claim]
    rp_filter: Annotated[int, Number(0, 2)]
    endpoints: Annotated[tuple[_IpAddress, ...], Items(MAX_ADDRESSES)] = ()


@dataclass(frozen=True)
class Subflow:
    """One TCP connection below an MPTCP one, or a plain TCP connection. `bytes`: acknowledged and received so far
    (tcp_info). `outgoing`: the guest has opened it. `unanswered`: how often what waits for an acknowledgement was sent
    again since the peer was heard last."""

    local: _IpAddress
    local_port: _Port
    remote: _IpAddress
    remote_port: _Port
    joined: bool
    backup: bool
    established: bool
    bytes: _Count = 0
    outgoing: bool = False
    unanswered: Annotated[int, Number(0, 255)] = 0

    @property
    def client(self) -> str:
        """The client's end."""
        return f"{self.remote}:{self.remote_port}"


@dataclass(frozen=True)
class Connection:
    """A connection of the guest. `token` is the guest's own (RFC 8684 section 3.2), 0 for plain TCP; `willing`: its
    client has been seen to join an address that was announced to it."""

    token: Annotated[int, Number(0, 0xFFFFFFFF)]
    subflows: Annotated[tuple[Subflow, ...], Items(MAX_SUBFLOWS)]
    willing: bool = False

    @property
    def mptcp(self) -> bool:
        """Whether it is more than plain TCP."""
        return self.token != 0

    @property
    def key(self) -> str:
        """What names it before and after a move. A client may have several plain ones from one port, to several of the
        guest's."""
        oldest = self._oldest
        if self.token or oldest is None:
            return f"{self.token:#010x}"
        return plain_key(oldest.local, oldest.local_port, oldest.remote, oldest.remote_port)

    @property
    def _oldest(self) -> Optional[Subflow]:
        return min(self.subflows, key=lambda s: s.joined, default=None)

    @property
    def client(self) -> str:
        """The client's end of the oldest subflow that is left; '' where none is."""
        oldest = self._oldest
        return oldest.client if oldest is not None else ""

    def reaches(self, *addresses: str) -> bool:
        """Whether it has an established subflow on any of the guest's `addresses`."""
        return any(s.local in addresses and s.established for s in self.subflows)

    def uses(self, *addresses: str) -> bool:
        """Whether it has a subflow on any of the guest's `addresses`, even one whose client has said nothing yet."""
        return any(s.local in addresses for s in self.subflows)


def plain_key(local: str, local_port: int, remote: str, remote_port: int) -> str:
    """Of a plain TCP connection (Connection.key)."""
    return f"tcp {remote}:{remote_port} {local}:{local_port}"


@dataclass(frozen=True)
class Connections:
    """Those that fit a reply, and how many there are. `watch` names the watch that began with them, '' where none did
    or the kernel does not tell of ends."""

    connections: Annotated[tuple[Connection, ...], Items(MAX_CONNECTIONS)]
    total: _Count
    watch: Annotated[str, Word(optional=True)] = ""


@dataclass(frozen=True)
class Page:
    """Some of a snapshot's connections, MAX_CONNECTIONS unless it is the last page, and how many there were at its
    moment; it may have only the first MOST_LISTED."""

    connections: Annotated[tuple[Connection, ...], Items(MAX_CONNECTIONS)]
    total: _Count
    snapshot: Annotated[str, Word()]


@dataclass(frozen=True)
class Ended:
    """A connection that is no more, named by Connection.key. `how` is one of ENDED_HOW; `lost`: neither side has ended
    it, and the move may have."""

    key: Annotated[str, Text(100)]
    client: Annotated[str, Text(60)]
    how: Annotated[str, Choice(ENDED_HOW)]
    lost: bool


@dataclass(frozen=True)
class Endings:
    """What became of connections since the watch of this name began ('': none is under way): of those that it began
    with all that have ended, of younger ones those that were lost; those that fit a reply, and how many there are.
    `missed`: some may be missing, as the kernel has told of more ends than the agent could keep."""

    watch: Annotated[str, Word(optional=True)]
    missed: bool
    endings: Annotated[tuple[Ended, ...], Items(MAX_CONNECTIONS)]
    total: _Count


@dataclass(frozen=True)
class Beyond:
    """Of the connections watched for which the watch's reply had no room, how many there are of each verdict. `lost`:
    are there, and have no path; those that have ended so are among Endings, before all others."""

    followed: _Count = 0
    carried: _Count = 0
    ended: _Count = 0
    lost: _Count = 0
    unknown: _Count = 0


@dataclass(frozen=True)
class Counts:
    """How many connections there are; how many are MPTCP ones, of these how many use none of the addresses (`apart`),
    and how many of all do (`joined`). Of those watched: how many are still awaited, and how many are gone without the
    kernel having told how (`untold`). `watch`: of which; `took_ms`: what it took the agent."""

    total: _Count
    mptcp: _Count
    joined: _Count
    apart: _Count
    awaited: _Count
    untold: _Count
    beyond: Beyond
    watch: Annotated[str, Word(optional=True)] = ""
    took_ms: Annotated[int, Number(0, MOST_MS)] = 0


@dataclass(frozen=True)
class Arrival:
    """What the agent did when the guest found itself at a new site. `seen_by`: channel, announce, xenstore, restart or
    retry; `endpoint_id` 0 where nothing was announced; `old6` and `new6` '' where IPv6 did not change.
    `stood_still_ms`: for how long the guest was suspended, as its own clocks say; 0 where they go on meanwhile."""

    seen_by: Annotated[str, Word(16)]
    old: _IpAddress
    new: _IpAddress
    gateway: _IpAddress
    endpoint_id: Annotated[int, Number(0, 255)]
    lease_ms: _Count
    total_ms: _Count
    old6: _NoneOrIpAddress = ""
    new6: _NoneOrIpAddress = ""
    stood_still_ms: _Count = 0

    @property
    def present(self) -> tuple[str, ...]:
        """The guest's addresses at the new site."""
        return tuple(a for a in (self.new, self.new6) if a)


@dataclass(frozen=True)
class Retired:
    """Whether the address is gone, and how many connections needed it where it is not."""

    retired: bool
    stuck: _Count


@dataclass(frozen=True)
class Dropped:
    """By how much the guest has more free memory than before."""

    mib: _Count


STATUS = Verb("status", Nothing, Status, deadline_s=BRIEF_S)
CLAIM = Verb("claim", ClaimArgs, Claim, deadline_s=BRIEF_S)
RELEASE = Verb("release", ReleaseArgs, Nothing, deadline_s=BRIEF_S)
CONNECTIONS = Verb("connections", Nothing, Connections, deadline_s=LOOK_S)
PAGE = Verb("page", PageArgs, Page, deadline_s=LOOK_S)
# Besides the wait for joins: the guest borrows an address from DHCP.
CONSENT = Verb("consent", ConsentArgs, Connections, deadline_s=LOOK_S)
WATCH = Verb("watch", Nothing, Connections, deadline_s=LOOK_S)
ENDINGS = Verb("endings", Nothing, Endings, deadline_s=LOOK_S)
COUNT = Verb("count", CountArgs, Counts, deadline_s=LOOK_S)
PREPARE = Verb("prepare", PrepareArgs, Nothing, deadline_s=LOOK_S)
ARRIVE = Verb("arrive", ArriveArgs, Arrival, deadline_s=45)
RETIRE = Verb("retire", RetireArgs, Retired, deadline_s=LOOK_S)
PUBLISH = Verb("publish", PublishArgs, Nothing, deadline_s=BRIEF_S)
DROP = Verb("drop", Nothing, Dropped, deadline_s=20)

_ALL: tuple[Verb[Any, Any], ...] = (
    *(STATUS, CLAIM, RELEASE, CONNECTIONS, CONSENT),
    *(WATCH, ENDINGS, COUNT, PREPARE, ARRIVE, RETIRE),
    *(PUBLISH, PAGE, DROP),
)
VERBS = {verb.name: verb for verb in _ALL}
