"""What became of connections, from what the kernel tells of sockets. Knows neither sockets nor time by itself.

    MPTCP  Closed                                  its application closed it
           SubflowClosed of all its subflows       reset, timed out, or cut, by the last one's error
           gone, with none of these                its client's application aborted it (MP_FASTCLOSE): no event
    TCP    SocketGone, the FIN acknowledged        both sides said goodbye
           SocketGone, all data acknowledged       one side's application aborted it
           SocketGone without                      reset, or timed out if something had been sent again in vain; but
                                                   closed by its application where that had said goodbye when looked at
           gone, and its socket not freed          reset, and its application has not looked yet
           cut by the agent                        cut, whatever else it looks like: the kernel does not tell

Only what ends after the guest has arrived, and whose peer was not heard since, may have been lost by the move: a reset
from a client that could be heard is what its application wanted. So is one that answers nothing: a firewall on the way
that has never heard of a connection, as it may be after a move, resets it by what the guest sends.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from guest_agent.ports import Closed, Ends, KernelEvent, SocketGone, SubflowClosed, SubflowOpened
from vmacro.wire.agent_verbs import ABORTED, CLOSED, CUT, RESET, TIMED_OUT, Connection, Ended, plain_key

MOST_KEPT = 65_536  # of connections, of their sockets, and of younger ones that may be lost
MOST_TRIED = 1000  # to find one that can be forgotten
UNHEARD_FOR_S = 1.0  # the kernel tells of a socket's end a moment later, from a queue of its own
SIGHT_S = 2.0  # an agent sees its guest's arrival so much later at most
SIGHT_WITHIN_S = 600.0  # and tells of it once DHCP has answered
NEVER, NOT_YET = float("-inf"), float("inf")


@dataclass(frozen=True)
class _End:
    """`at_s`: when it was heard of; `heard_s`: when its peer was heard last, NEVER where that is not known."""

    client: str
    how: str
    at_s: float
    heard_s: float = NEVER

    def told(self, key: str, arrived_s: float) -> Ended:
        given_up = self.how not in (CLOSED, ABORTED)
        lost = given_up and self.at_s > arrived_s - SIGHT_S and self.heard_s < arrived_s
        return Ended(key, self.client, self.how, lost)


@dataclass
class _Mptcp:
    key: str
    client: str
    subflows: set[Ends]
    young: bool = False


@dataclass
class _Plain:
    key: str
    client: str
    syn: int  # 1 where the guest has sent one, which its peer has acknowledged


@dataclass
class Endings:
    """Of one watch. `last_s`: when the kernel was listened to last, at first when it began; what is heard of has
    happened since then. `missed`: the kernel has told of more than was heard or kept. `cut`: keys of plain ones that
    the agent has cut, which whoever cuts adds to."""

    last_s: float
    missed: bool = False
    cut: set[str] = field(default_factory=set)
    _mptcp: dict[int, _Mptcp] = field(default_factory=dict)
    _plain: dict[Ends, _Plain] = field(default_factory=dict)
    _subflows: OrderedDict[Ends, int] = field(default_factory=OrderedDict)  # and whose they are, by token
    _ended: dict[str, _End] = field(default_factory=dict)
    _young: dict[str, _End] = field(default_factory=dict)
    _closing: set[Ends] = field(default_factory=set)  # as they were looked at last
    _gone_since_s: dict[str, float] = field(default_factory=dict)

    def watch(self, connections: Iterable[Connection], closing: set[Ends]) -> None:
        """From now on it is of interest what becomes of these, too. Sockets of `closing` have said goodbye before."""
        self._closing = closing
        for found in connections:
            ends = [(s.local, s.local_port, s.remote, s.remote_port) for s in found.subflows]
            if len(self._mptcp) + len(self._plain) >= MOST_KEPT:
                self.missed = True
                return
            if found.mptcp:
                self._mptcp[found.token] = _Mptcp(found.key, found.client, set(ends))
                self._remember(found.token, ends)
            else:
                self._plain[ends[0]] = _Plain(found.key, found.client, int(found.subflows[0].outgoing))
                self._subflows.pop(ends[0], None)  # of an earlier connection from that port
            self._ended.pop(found.key, None)  # ends, and a token may be those of an earlier connection

    def hear(self, events: Iterable[KernelEvent], now_s: float) -> None:
        """What the kernel has told, oldest first."""
        for event in events:
            if isinstance(event, SubflowOpened):
                self._opened(event)
            elif isinstance(event, SubflowClosed):
                self._subflow_closed(event, now_s)
            elif isinstance(event, Closed):
                found = self._mptcp.pop(event.token, None)
                if found is not None:
                    self._gone_since_s.pop(found.key, None)
                if found is not None and found.subflows:
                    self._end(found.key, found.young, _End(found.client, CLOSED, now_s))
            else:
                self._freed(event, now_s)
        self.last_s = now_s

    def told(
        self, connections: Sequence[Connection], closing: set[Ends], now_s: float, arrived_s: float
    ) -> list[Ended]:
        """Those watched that have ended, and younger ones that were lost. `connections` are there now, sockets of
        `closing` have said goodbye and wait for the peer's; `arrived_s`: when the guest was seen to have arrived,
        NOT_YET where it has not."""
        there, self._closing = {c.key for c in connections}, closing
        self._know(connections)
        self._forget_young(now_s - SIGHT_WITHIN_S if arrived_s == NOT_YET else arrived_s - SIGHT_S)
        for token, found in list(self._mptcp.items()):
            if self.missed and found.key in there and not found.subflows:
                del self._mptcp[token]  # it has another, of whose beginning nobody has heard
                self._ended.pop(found.key, None)
                self._young.pop(found.key, None)
            elif found.key in there or not found.subflows:
                self._gone_since_s.pop(found.key, None)
            elif self._is_gone(found.key, now_s):  # a young one may be younger than `connections`
                del self._mptcp[token], self._gone_since_s[found.key]
                self._end(found.key, found.young, _End(found.client, ABORTED, now_s))
        for ends, plain in self._plain.items():
            if plain.key in there:
                self._gone_since_s.pop(plain.key, None)
            elif plain.key not in self._ended and (ends in closing or self._is_gone(plain.key, now_s)):
                how = CUT if plain.key in self.cut else CLOSED if ends in closing else RESET
                self._end(plain.key, False, _End(plain.client, how, self._gone_since_s.get(plain.key, now_s)))
        ended = [end.told(key, arrived_s) for key, end in self._ended.items() if key not in there]
        younger = [end.told(key, arrived_s) for key, end in self._young.items() if key not in there]
        return ended + [found for found in younger if found.lost]

    def _opened(self, event: SubflowOpened) -> None:
        if _with_itself(event.ends):
            return
        found = self._mptcp.get(event.token)
        if found is None:
            if len(self._mptcp) >= MOST_KEPT:
                self.missed = True
                return
            key = Connection(event.token, ()).key
            found = self._mptcp[event.token] = _Mptcp(key, _peer(event.ends), set(), young=True)
        found.subflows.add(event.ends)
        self._ended.pop(found.key, None)
        self._young.pop(found.key, None)
        self._remember(event.token, [event.ends])

    def _subflow_closed(self, event: SubflowClosed, now_s: float) -> None:
        found = self._mptcp.get(event.token)
        if found is None:
            return
        found.subflows.discard(event.ends)
        if not found.subflows:
            how = {errno.ETIMEDOUT: TIMED_OUT, errno.ECONNABORTED: CUT, 0: CUT}.get(event.error, RESET)
            self._end(found.key, found.young, _End(found.client, how, now_s))

    def _freed(self, event: SocketGone, now_s: float) -> None:
        if event.ends in self._subflows:
            del self._subflows[event.ends]
            return
        if _with_itself(event.ends):
            return
        plain = self._plain.pop(event.ends, None)
        if plain is None and self.missed:
            return  # it may be a subflow of whose beginning nobody has heard
        client = plain.client if plain is not None else _peer(event.ends)
        key = plain.key if plain is not None else plain_key(*event.ends)
        if key in self.cut:
            end = _End(client, CUT, now_s)
        else:
            how = CLOSED if event.ends in self._closing else _how(event, plain.syn if plain is not None else 0)
            end = _End(client, how, now_s, self.last_s - event.silent_s)
        self._end(key, plain is None, end)

    def _is_gone(self, key: str, now_s: float) -> bool:
        return now_s - self._gone_since_s.setdefault(key, now_s) >= UNHEARD_FOR_S

    def _end(self, key: str, young: bool, end: _End) -> None:
        if not young:
            self._ended[key] = end
        elif end.how not in (CLOSED, ABORTED):
            if len(self._young) >= MOST_KEPT:
                self.missed = True
                return
            self._young[key] = end

    def _forget_young(self, before_s: float) -> None:
        """Those that had ended by then were not lost; of ends that are used again the last one counts."""
        for key in [key for key, end in self._young.items() if end.at_s < before_s]:
            del self._young[key]

    def _know(self, connections: Iterable[Connection]) -> None:
        """Of a join that comes to nothing, its last word being lost, the kernel tells nothing but its socket's end. As
        long as there is room: those that it has told of come first."""
        for found in connections:
            if found.mptcp and len(self._subflows) < MOST_KEPT:
                ends = ((s.local, s.local_port, s.remote, s.remote_port) for s in found.subflows)
                self._remember(found.token, [each for each in ends if each not in self._subflows])

    def _remember(self, token: int, ends: Iterable[Ends]) -> None:
        """That these sockets are an MPTCP connection's. The kernel does not tell of all when they go."""
        for each in ends:
            self._subflows[each] = token
            if len(self._subflows) > MOST_KEPT:
                self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        """Of those that have ended: a subflow that is not known would be taken for a plain connection."""
        for _ in range(MOST_TRIED):
            ends, token = self._subflows.popitem(last=False)
            owner = self._mptcp.get(token)
            if owner is None or ends not in owner.subflows:
                return
            self._subflows[ends] = token
        self._subflows.popitem(last=False)
        self.missed = True


def _how(event: SocketGone, syn: int) -> str:
    """A plain socket has ended, `syn` being the bytes that its own SYN has counted."""
    if event.surplus > syn:
        return CLOSED
    if event.retransmits:
        return TIMED_OUT
    return RESET if event.surplus < syn else ABORTED


def _with_itself(ends: Ends) -> bool:
    return ends[0] == ends[2] or ends[2] == "::1" or ends[2].startswith("127.")


def _peer(ends: Ends) -> str:
    return f"{ends[2]}:{ends[3]}"
