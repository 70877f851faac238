"""The host side by SSH: one session per host, strict known hosts, one program, fixed verbs."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from vmacro.drivers.system import side_by_side
from vmacro.errors import HostError, UnknownVerbError, UnreachableError
from vmacro.model.facts import (
    BaseFacts,
    DiskCopy,
    Fetching,
    FileFacts,
    Heard,
    Leaving,
    Leg,
    LinkFacts,
    Offer,
    Reach,
    Tracked,
    Turn,
)
from vmacro.model.nouns import Host
from vmacro.wire import host_verbs, messages, names, taken_verbs, way_verbs, xen_verbs
from vmacro.wire.framing import LineReader
from vmacro.wire.messages import Args, Nothing, ProtocolError, Reply, Result, Verb
from vmacro.wire.taken_verbs import Taken, Taking
from vmacro.wire.xen_verbs import Saving, XenFacts

CLOSE_TIMEOUT_S = 20.0  # of all sessions, which close at once
_ROOM = messages.MAX_REQUEST_BYTES - 200  # for the paths of a request
_HINT = "is vmacro-host there of this version? vmacro provision hosts --tags host_side"
_OLD = ("unknown-verb", "bad-args")  # what one of another version says to what it does not know


class Program(Protocol):
    """A program on another machine: a byte stream to its standard input and from its output."""

    @property
    def alive(self) -> bool: ...

    def send(self, data: bytes, timeout_s: float) -> int:
        """Returns how many bytes it took. Raises OSError; TimeoutError where it took none."""

    def receive(self, timeout_s: float) -> bytes:
        """What has come, b'' at its end. Raises OSError; TimeoutError where nothing came."""

    def complaint(self) -> str:
        """The end of what it wrote to its standard error, bounded."""

    def close(self) -> None:
        """Idempotent; whoever waits in another method returns or raises OSError."""


class Shell(Protocol):
    """What starts programs on other machines."""

    def start(self, subject: str, user: str, address: str, program: str, slow_s: float = 0.0) -> Program:
        """`slow_s`: what the machine may need besides until the program is started. Raises UnreachableError,
        UntrustedError, both about `subject`."""


class SshHostSide:
    """Implements ports.HostNetwork, ports.HostDisks and xen.XenSide. What the host says is checked before anybody uses
    it."""

    def __init__(self, host: Host, session: Session) -> None:
        self._host, self._ask = host, session.ask

    def facts(self, bridge: str, peer: str, probe: str, mac: str = "", devices: tuple[str, ...] = ()) -> LinkFacts:
        return self._ask(host_verbs.FACTS, host_verbs.Facts(bridge, peer, probe, mac, devices))

    def open(self, leg: Leg) -> Offer:
        return self._ask(host_verbs.OPEN, host_verbs.Open(self._end(leg), leg.subnet))

    def join(self, leg: Leg, far: Offer) -> None:
        self._ask(host_verbs.JOIN, host_verbs.Join(leg.move_id, leg.address, far))

    def arm(self, domain: str) -> None:
        self._ask(host_verbs.ARM, host_verbs.Domain(domain))

    def widen(self, move_id: str, peer: str) -> None:
        self._ask(way_verbs.WIDEN, way_verbs.Widen(move_id, peer))

    def narrow(self, move_id: str) -> None:
        self._ask(way_verbs.NARROW, way_verbs.Narrow(move_id))

    def turned(self, domain: str) -> tuple[Turn, ...]:
        return self._ask(host_verbs.TURNED, host_verbs.Domain(domain)).turns

    def turn(self, domain: str, to_guest: bool) -> None:
        self._ask(host_verbs.TURN, host_verbs.TurnAll(domain, _direction(to_guest)))

    def leaving(self, domain: str) -> Leaving:
        return Leaving(self._ask(host_verbs.LEAVING, host_verbs.Domain(domain)).leaving)

    def point(self, leg: Leg, to_guest: bool) -> None:
        self._ask(host_verbs.POINT, host_verbs.Point(leg.move_id, leg.address, _direction(to_guest)))

    def close(self, move_id: str, address: str = "") -> None:
        self._ask(host_verbs.CLOSE, host_verbs.Close(move_id, address))

    def flows(self, addresses: tuple[str, ...]) -> Tracked:
        return self._ask(host_verbs.FLOWS, host_verbs.FlowsOf(addresses))

    def reach(self, asked: Reach) -> tuple[Heard, ...]:
        heard = self._ask(host_verbs.REACH, asked).heard
        if [found.address for found in heard] != [*asked.addresses]:
            raise HostError(f"host {self._host.name}: its host side answered 'reach' for other addresses", _HINT)
        return heard

    def taken(self, wanted: Taking) -> Taken:
        """What nobody has asked about is left out."""
        told = self._ask(taken_verbs.TAKEN, wanted)
        return Taken(
            tuple(port for port in told.ports if port in wanted.ports),
            tuple(cid for cid in told.cids if cid in wanted.cids),
        )

    def files(self, paths: tuple[str, ...]) -> tuple[FileFacts, ...]:
        """As many requests as it takes: each is bounded. A path that none can hold is left out."""
        found: list[FileFacts] = []
        for batch in _batches(paths):
            told = self._ask(host_verbs.DISK_FILES, host_verbs.Paths(batch)).files
            found += [file for file in told if file.path in batch]
        return tuple(found)

    def look(self, disk: DiskCopy) -> BaseFacts:
        return self._ask(host_verbs.DISK_LOOK, _disk(disk))

    def serve(self, disk: DiskCopy, reader: Host) -> int:
        wanted = host_verbs.Serve(_disk(disk), self._host.address, reader.name)
        return self._ask(host_verbs.DISK_SERVE, wanted).port

    def fetch(self, disk: DiskCopy, source: Host, port: int, bytes_s: int) -> None:
        wanted = host_verbs.Fetch(_disk(disk), source.address, port, source.tls_name, bytes_s)
        self._ask(host_verbs.DISK_FETCH, wanted)

    def fetched(self, disk: DiskCopy) -> Fetching:
        return self._ask(host_verbs.DISK_FETCHED, _disk(disk))

    def create_overlay(self, disk: DiskCopy) -> None:
        self._ask(host_verbs.DISK_CREATE_OVERLAY, _disk(disk))

    def stop(self, disk: DiskCopy, drop_overlay: bool = False) -> None:
        self._ask(host_verbs.DISK_STOP, host_verbs.Stop(_disk(disk), drop_overlay))

    def remove(self, disk: DiskCopy) -> None:
        self._ask(host_verbs.DISK_REMOVE, _disk(disk))

    def xen(self) -> XenFacts:
        return self._ask(xen_verbs.XEN, Nothing())

    def saving(self, domain: str) -> Saving:
        return self._ask(xen_verbs.XEN_SAVING, host_verbs.Domain(domain))

    def abort_saving(self, domain: str) -> str:
        return self._ask(xen_verbs.XEN_ABORT, host_verbs.Domain(domain)).outcome

    def pace(self, address: str, port: int, bytes_s: int) -> int:
        return self._ask(xen_verbs.XEN_PACE, xen_verbs.Pace(address, port, bytes_s)).connections

    def _end(self, leg: Leg) -> host_verbs.End:
        home = self._host.name == leg.home.name
        return host_verbs.End(
            side=host_verbs.HOME if home else host_verbs.AWAY,
            kind=leg.kind,
            move=leg.move_id,
            domain=leg.domain,
            address=leg.address,
            mac=leg.mac,
            bridge=leg.home_bridge if home else leg.away_bridge,
            peer=(leg.away if home else leg.home).address,
        )


def _batches(paths: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Each one as large as a request may be."""
    batch: list[str] = []
    room = _ROOM
    for path, size in ((path, len(json.dumps(path)) + 2) for path in paths):
        if size > _ROOM:
            continue
        if size > room or len(batch) == host_verbs.MOST_FILES:
            yield tuple(batch)
            batch, room = [], _ROOM
        batch, room = [*batch, path], room - size
    if batch:
        yield tuple(batch)


def _direction(to_guest: bool) -> str:
    return host_verbs.GUEST if to_guest else host_verbs.TUNNEL


def _disk(disk: DiskCopy) -> host_verbs.Disk:
    return host_verbs.Disk(disk.id, disk.base, disk.format)


class Session:
    """One running host side; requests of several threads take turns, each at most its verb's deadline long.

    A session that failed is closed, since what comes late would answer another question. Those who waited for their
    turn then fail at once.
    """

    def __init__(self, host: str, program: Program, starting_s: float = 0.0) -> None:
        """`starting_s`: what its first answer may take besides."""
        self._subject, self._program, self._starting_s = f"host {host}: its host side", program, starting_s
        self._reader = LineReader(messages.MAX_REPLY_BYTES)
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return self._program.alive

    def ask(self, verb: Verb[Args, Result], args: Args) -> Result:
        """Raises HostError where it refuses or says something odd, UnreachableError where it says nothing in time."""
        request_id = secrets.token_hex(8)
        try:
            with self._lock:
                reply = self._converse(verb.request(request_id, args), request_id, verb)
            if reply.ok:
                return verb.decode_result(reply)
        except ProtocolError as error:
            raise HostError(f"{self._subject} said something odd to {verb.name!r}: {error}", _HINT) from error
        kind = UnknownVerbError if reply.error_code == "unknown-verb" else HostError
        hint = _HINT if reply.error_code in _OLD else ""
        raise kind(f"{self._subject} refused {verb.name!r}: {reply.error_text}", hint)

    def close(self) -> None:
        self._program.close()

    def _converse(self, line: bytes, request_id: str, verb: Verb[Args, Result]) -> Reply:
        within_s, hearing = verb.deadline_s + self._starting_s, messages.Hearing()
        deadline = time.monotonic() + within_s
        try:
            while line:
                line = line[self._program.send(line, _left(deadline)) :]
            while True:
                data = self._received(deadline)
                hearing.more(data)
                for answer in self._reader.feed(data):
                    if answer is None:
                        raise ProtocolError("too-long", f"line is over {messages.MAX_REPLY_BYTES} bytes")
                    reply = messages.decode_reply(answer)
                    if reply.id == request_id:
                        self._starting_s = 0.0
                        return reply
                    hearing.another()
        except TimeoutError as error:
            text = f"{self._subject}: no answer to {verb.name!r} within {within_s:g} s"
            raise self._given_up(text) from error
        except OSError as error:
            raise self._given_up(f"{self._subject}: {error}") from error
        except ProtocolError:
            self._program.close()
            raise

    def _received(self, deadline: float) -> bytes:
        data = self._program.receive(_left(deadline))
        if not data:
            raise OSError("it ended")
        return data

    def _given_up(self, text: str) -> UnreachableError:
        complaint = messages.printable(" ".join(self._program.complaint().split()))
        self._program.close()
        return UnreachableError(text, complaint or f"does `ssh HOST {names.HOST_SIDE_PROGRAM}` start there, as root?")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@dataclass
class _Slot:
    """One host's session. `connecting` is held by who connects to it: only those who want this host wait for that, and
    if it fails, all who waited are told so (`failure`, of so many `attempts`): none of them waits once more."""

    session: Session | None = None
    connecting: threading.Lock = field(default_factory=threading.Lock)
    attempts: int = 0
    failure: HostError | None = None


class HostSides:
    """A session per host, opened on demand and again where it broke. For any number of threads."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._slots: dict[str, _Slot] = {}
        self._closed = False
        self._lock = threading.Lock()  # never held while anybody is waited for

    def get(self, host: Host) -> SshHostSide:
        """Raises UnreachableError, UntrustedError; HostError after close()."""
        with self._lock:
            self._check_open(host)
            slot = self._slots.setdefault(host.name, _Slot())
            attempts = slot.attempts
        with slot.connecting:
            session = slot.session
            if session is None or not session.alive:
                if slot.attempts != attempts and slot.failure is not None:
                    raise slot.failure
                if session is not None:
                    session.close()
                session = self._tried(host, slot)
        return SshHostSide(host, session)

    def close(self) -> None:
        """All sessions, at once; one that is still being opened is closed as soon as it is open."""
        with self._lock:
            self._closed = True
            sessions = [slot.session for slot in self._slots.values()]
        side_by_side([session.close for session in sessions if session is not None], CLOSE_TIMEOUT_S)

    def _tried(self, host: Host, slot: _Slot) -> Session:
        try:
            session = self._kept(host, slot, self._connect(host))
        except HostError as error:
            slot.failure = error
            raise
        finally:
            with self._lock:
                slot.attempts += 1
        slot.failure = None
        return session

    def _kept(self, host: Host, slot: _Slot, session: Session) -> Session:
        try:
            with self._lock:
                self._check_open(host)
                slot.session = session
        except HostError:
            session.close()
            raise
        return session

    def _check_open(self, host: Host) -> None:
        if self._closed:
            raise HostError(f"host {host.name}: its host side is not asked any more: all sessions were closed")

    def _connect(self, host: Host) -> Session:
        user, address = host_side_at(host)
        program = self._shell.start(f"host {host.name}", user, address, names.HOST_SIDE_PROGRAM, host.starting_s)
        return Session(host.name, program, host.starting_s)


def host_side_at(host: Host) -> tuple[str, str]:
    """User and address for SSH. Raises UnreachableError."""
    user, _, address = host.ssh.rpartition("@")
    if not address:
        hint = f'hosts.{host.name}.ssh = "root@ADDRESS" in the inventory'
        raise UnreachableError(f"host {host.name}: no SSH to its host side is configured", hint)
    return user or "root", address
