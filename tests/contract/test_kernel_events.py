"""What a real kernel tells of connections and of their ends, as guest_agent reads it: two network namespaces, a server
in the one, its clients in the other (docs/decisions/0021)."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from guest_agent import connections, kernel_events
from guest_agent.endings import Endings
from guest_agent.kernel_events import KernelEvents
from guest_agent.ports import Closed, SubflowClosed, SubflowOpened
from tests.contract.towns import Place
from tests.support import eventually
from vmacro.lab import namespaces
from vmacro.wire.agent_verbs import ABORTED, CLOSED, RESET, TIMED_OUT, Connection

pytestmark = pytest.mark.lab
SERVER, CLIENT = "vmt-events-server", "vmt-events-client"
HOME, OTHER, PEER, HOME6, PEER6 = "10.72.0.1", "10.72.0.2", "10.72.0.9", "fd72::1", "fd72::9"
MPTCP_SYSCTLS = {"net.mptcp.close_timeout": "1"}
TCP_SYSCTLS = {"net.ipv4.tcp_retries2": "3"}
PORT = 7000
IPPROTO_MPTCP = 262
TCP_USER_TIMEOUT = 18
WITHIN_S = 8.0


@dataclass(frozen=True)
class Kind:
    """By which protocol a client speaks to which of the server's sockets, and whether it joins a second address."""

    address: str = HOME
    client: int = socket.IPPROTO_TCP
    server: int = socket.IPPROTO_TCP
    joins: bool = False


TCP, MPTCP = Kind(), Kind(client=IPPROTO_MPTCP, server=IPPROTO_MPTCP)
KINDS = {
    "tcp": TCP,
    "tcp, ipv6": Kind(HOME6),
    "tcp, to a server with mptcp": Kind(server=IPPROTO_MPTCP),
    "mptcp": MPTCP,
    "mptcp, joined": Kind(client=IPPROTO_MPTCP, server=IPPROTO_MPTCP, joins=True),
    "mptcp, ipv6": Kind(HOME6, IPPROTO_MPTCP, IPPROTO_MPTCP),
}


class Scene:
    """A server that is watched, and its clients."""

    def __init__(self, server: Place, client: Place, undo: ExitStack) -> None:
        self.server, self.client, self._undo = server, client, undo
        self.endings, self._events = Endings(time.monotonic()), KernelEvents()
        self._listeners: dict[tuple[str, int], socket.socket] = {}
        with server.inside():
            self._events.listen()
        undo.callback(self._events.stop)

    def opened(self, kind: Kind) -> tuple[socket.socket, socket.socket]:
        """The server's end and the client's, after a question and its answer."""
        here = (kind.address, kind.server)
        if here not in self._listeners:
            self._listeners[here] = self.listener(self.server, *here)
        far = self.socket(self.client, kind.address, kind.client)
        far.connect((kind.address, PORT))
        near, _ = self._listeners[here].accept()
        near.settimeout(WITHIN_S)
        self._undo.callback(near.close)
        if kind.joins:
            ask(far, near)
            self.server.ip("mptcp", "endpoint", "add", OTHER, "id", "5", "signal")
            self._undo.callback(self.server.ip, "mptcp", "endpoint", "flush")
            eventually(lambda: any(len(c.subflows) == 2 for c in self.there()), "the join", within_s=WITHIN_S)
        ask(far, near)
        return near, far

    def listener(self, place: Place, address: str, protocol: int) -> socket.socket:
        made = self.socket(place, address, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("::" if ":" in address else "0.0.0.0", PORT))  # a join comes for the other address
        made.listen(500)
        return made

    def socket(self, place: Place, address: str, protocol: int) -> socket.socket:
        with place.inside():
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, protocol)
        made.settimeout(WITHIN_S)
        self._undo.callback(made.close)
        return made

    def there(self) -> list[Connection]:
        with self.server.inside():
            return connections.connections()

    def watch(self) -> Connection:
        """All that are there; returns the one."""
        self.hear()
        with self.server.inside():
            there, goodbyes = connections.look()
        self.endings.watch(there, goodbyes)
        (found,) = self.there()
        return found

    def hear(self) -> None:
        heard, missed = self._events.heard()
        self.endings.missed |= missed
        self.endings.hear(heard, time.monotonic())

    def told(self, arrived_s: float = float("-inf")) -> dict[str, tuple[str, bool]]:
        with self.server.inside():
            there, goodbyes = connections.look()
        self.hear()
        found = self.endings.told(there, goodbyes, time.monotonic(), arrived_s)
        return {e.key: (e.how, e.lost) for e in found}

    def forgotten(self) -> None:
        """By the client's kernel, which resets them as it does; its application knows nothing."""
        with self.client.inside():
            for address in (PEER, PEER6):
                connections.cut(address, {c.token for c in connections.connections()})

    def ends(self, found: Connection, how: str, lost: bool, since_s: float) -> None:
        eventually(lambda: bool(self.told(since_s)), f"the end of {found.key}", within_s=WITHIN_S)
        assert self.told(since_s) == {found.key: (how, lost)}


def ask(far: socket.socket, near: socket.socket) -> None:
    for one, other in ((far, near), (near, far)):
        one.send(b"hello")
        assert other.recv(9) == b"hello"


def reset(sock: socket.socket) -> None:
    """As applications abort a connection (SO_LINGER with no time)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[Place, Place]]:
    names = [SERVER, CLIENT]
    namespaces.remove_all(names)
    for name in names:
        namespaces.create(name)
    server, client = Place(SERVER), Place(CLIENT)
    try:
        server.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", CLIENT)
        for place, addresses in ((server, (HOME, OTHER, HOME6)), (client, (PEER, PEER6))):
            for address in addresses:
                length, nodad = ("64", ["nodad"]) if ":" in address else ("24", [])
                place.ip("addr", "add", f"{address}/{length}", "dev", "eth0", *nodad)
            place.ip("link", "set", "eth0", "up")
            place.ip("mptcp", "limits", "set", "subflows", "2", "add_addr_accepted", "2")
            namespaces._sysctl(place.name, MPTCP_SYSCTLS | TCP_SYSCTLS)
        yield server, client
    finally:
        namespaces.remove_all(names)


@pytest.fixture
def scene(places: tuple[Place, Place]) -> Iterator[Scene]:
    with ExitStack() as undo:
        made = Scene(*places, undo)
        eventually(lambda: not made.there(), "the ones before to go", within_s=WITHIN_S)
        yield made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", ["client", "server", "both"])
def test_a_goodbye_is_one_whoever_says_it_first(scene: Scene, kind: str, who: str) -> None:
    near, far = scene.opened(KINDS[kind])
    found, since_s = scene.watch(), time.monotonic()
    first, second = (near, far) if who == "server" else (far, near)
    first.close()
    if who != "both":
        assert second.recv(9) == b""
        scene.told(since_s)
    second.close()
    scene.ends(found, CLOSED, False, since_s)
    assert scene.there() == []


@pytest.mark.parametrize("kind", ["tcp", "mptcp", "mptcp, joined"])
def test_one_whose_server_takes_its_time_has_not_ended(scene: Scene, kind: str) -> None:
    near, far = scene.opened(KINDS[kind])
    found = scene.watch()
    far.close()
    assert near.recv(9) == b""
    time.sleep(1.5)  # over close_timeout
    assert scene.told() == {} and [c.key for c in scene.there()] == [found.key]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["resets", "leaves something unread"])
def test_a_client_that_aborts(scene: Scene, kind: str, how: str) -> None:
    """By MPTCP it says so (MP_FASTCLOSE). By TCP it is a reset like any other, but that it was heard until then, and
    nothing had waited for its answer; what it has left unread it may have acknowledged or not."""
    near, far = scene.opened(KINDS[kind])
    found, since_s = scene.watch(), time.monotonic()
    time.sleep(0.1)
    ask(far, near)
    if how == "resets":
        scene.hear()
        reset(far)
    else:
        near.send(b"hello")
        eventually(lambda: bool(far.recv(9, socket.MSG_PEEK)), "it", within_s=WITHIN_S)
        scene.hear()
        far.close()
    with pytest.raises(OSError, match="reset"):
        near.recv(9)
    near.close()
    eventually(lambda: bool(scene.told(since_s)), "its end", within_s=WITHIN_S)
    ((said, lost),) = scene.told(since_s).values()
    assert said in ((ABORTED,) if found.mptcp or how == "resets" else (ABORTED, RESET)) and not lost


def test_a_client_that_aborts_long_after_it_was_heard(scene: Scene) -> None:
    """Its guest has arrived meanwhile, and has sent it nothing that this could be an answer to."""
    near, far = scene.opened(TCP)
    found = scene.watch()
    time.sleep(0.1)
    arrived_s = time.monotonic()
    reset(far)
    with pytest.raises(OSError, match="reset"):
        near.recv(9)
    near.close()
    scene.ends(found, ABORTED, False, arrived_s)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("mptcp")])
def test_a_reset_from_elsewhere(scene: Scene, kind: str) -> None:
    """As if somebody on the way had sent it: the client's kernel does, and its application knows nothing."""
    near, _far = scene.opened(KINDS[kind])
    found, since_s = scene.watch(), time.monotonic()
    scene.forgotten()
    with pytest.raises(OSError, match=r"reset|not connected|timed out"):
        near.settimeout(2)
        near.recv(9)
    near.close()
    scene.ends(found, RESET, True, since_s)


@pytest.mark.parametrize("kind", ["tcp", "tcp, to a server with mptcp"])
@pytest.mark.parametrize("probed", [False, True])
def test_a_reset_that_answers_what_the_guest_sends(scene: Scene, kind: str, probed: bool) -> None:
    """As of a firewall that has never heard of the connection. Probed: by a keepalive of the guest's."""
    near, _far = scene.opened(KINDS[kind])
    found, since_s = scene.watch(), time.monotonic()
    with mute(scene.client):
        scene.forgotten()
    if probed:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    else:
        near.send(b"hello")
    with pytest.raises(OSError, match="reset"):
        near.recv(9)
    near.close()
    scene.ends(found, TIMED_OUT if probed else RESET, True, since_s)


@pytest.mark.parametrize("kind", ["tcp", "mptcp"])
def test_a_client_without_a_path(scene: Scene, kind: str) -> None:
    near, _far = scene.opened(KINDS[kind])
    if kind == "tcp":
        near.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1500)
    found, since_s = scene.watch(), time.monotonic()
    with mute(scene.client):
        near.send(b"hello")
        with pytest.raises(OSError, match=r"timed out|not connected"):
            near.recv(9)
        near.close()
        scene.ends(found, TIMED_OUT, True, since_s)


@contextmanager
def mute(place: Place) -> Iterator[None]:
    """Whatever comes, nothing goes back."""
    place.ip("route", "add", "blackhole", HOME)
    try:
        yield
    finally:
        place.ip("route", "del", "blackhole", HOME)


@pytest.mark.parametrize("address", [HOME, OTHER])
def test_a_subflow_that_is_cut_ends_no_connection(scene: Scene, address: str) -> None:
    near, far = scene.opened(KINDS["mptcp, joined"])
    found, since_s = scene.watch(), time.monotonic()
    heard = scene._events.heard()
    assert heard == ([], False)
    with scene.server.inside():
        connections.cut(address, {found.token})
    eventually(lambda: [len(c.subflows) for c in scene.there()] == [1], "the cut", within_s=WITHIN_S)
    ask(far, near)
    assert scene.told(since_s) == {}
    far.close()
    assert near.recv(9) == b""
    near.close()
    scene.ends(found, CLOSED, False, since_s)


def test_what_the_path_manager_tells(scene: Scene) -> None:
    near, far = scene.opened(KINDS["mptcp, joined"])
    (found,) = scene.there()
    ends = [(s.local, s.local_port, s.remote, s.remote_port) for s in sorted(found.subflows, key=lambda s: s.joined)]
    opened, _ = scene._events.heard()
    assert opened == [SubflowOpened(found.token, each) for each in ends]
    with scene.server.inside():
        connections.cut(OTHER, {found.token})
    eventually(lambda: [len(c.subflows) for c in scene.there()] == [1], "the cut", within_s=WITHIN_S)
    cut = SubflowClosed(found.token, ends[1], errno.ECONNABORTED)
    eventually(lambda: cut in scene._events.heard()[0], "that it was told", within_s=WITHIN_S)
    near.close()
    far.close()
    eventually(lambda: Closed(found.token) in scene._events.heard()[0], "the end", within_s=WITHIN_S)


@pytest.mark.parametrize("kind", ["tcp", "mptcp"])
def test_a_hundred_short_ones_are_no_loss(scene: Scene, kind: str) -> None:
    since_s = time.monotonic()
    for number in range(100):
        near, far = scene.opened(KINDS[kind])
        first, second = (near, far) if number % 2 else (far, near)
        first.close()
        assert second.recv(9) == b""
        second.close()
    eventually(lambda: not scene.there(), "their ends", within_s=WITHIN_S)
    assert scene.told(since_s) == {} and not scene.endings.missed


def test_more_than_there_is_room_for_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_events, "RECEIVE_BYTES", 4096)
    small = KernelEvents()
    with scene.server.inside():
        small.listen()
    for _ in range(50):
        near, far = scene.opened(MPTCP)
        far.close()
        near.close()
    eventually(lambda: not scene.there(), "their ends", within_s=WITHIN_S)
    assert small.heard()[1]
    assert small.heard() == ([], False), "once"
    small.stop()


@pytest.mark.parametrize("protocol", [socket.IPPROTO_TCP, IPPROTO_MPTCP])
@pytest.mark.parametrize("address", ["127.0.0.1", HOME])
def test_connections_of_the_guest_with_itself_are_none(scene: Scene, address: str, protocol: int) -> None:
    """As of a proxy in front of a server. What is announced is announced there, too, and joined."""
    scene.server.ip("mptcp", "endpoint", "add", OTHER, "id", "5", "signal")
    listener = scene.listener(scene.server, address, protocol)
    far = scene.socket(scene.server, address, protocol)
    far.connect((address, PORT))
    near, _ = listener.accept()
    ask(far, near)
    time.sleep(0.2)
    assert scene.there() == []
    near.close()
    assert scene.there() == [], "one end is closed"
    with scene.server.inside():
        for local in (OTHER, address):  # as of an address that is left: what it has joined stays by itself
            connections.cut(local, {token for token, _ in connections._sockets(connections.ESTABLISHED)})
            assert connections.connections() == []
    far.close()
    listener.close()
    scene.server.ip("mptcp", "endpoint", "flush")
    time.sleep(0.3)
    assert scene.told() == {}


@pytest.mark.parametrize("protocol", [socket.IPPROTO_TCP, IPPROTO_MPTCP])
def test_one_that_the_guest_has_opened(scene: Scene, protocol: int) -> None:
    listener = scene.listener(scene.client, PEER, protocol)
    near = scene.socket(scene.server, PEER, protocol)
    near.connect((PEER, PORT))
    far, _ = listener.accept()
    ask(near, far)
    found, since_s = scene.watch(), time.monotonic()
    assert found.subflows[0].outgoing
    with scene.client.inside():
        connections.cut(PEER, {c.token for c in connections.connections()})
    with pytest.raises(OSError, match=r"reset|not connected|timed out"):
        near.settimeout(2)
        near.recv(9)
    near.close()
    far.close()
    how = (ABORTED, False) if protocol == socket.IPPROTO_TCP else (RESET, True)
    scene.ends(found, *how, since_s)
    listener.close()


def test_an_attempt_that_is_refused_is_no_loss(scene: Scene) -> None:
    near = scene.socket(scene.server, PEER, socket.IPPROTO_TCP)
    with pytest.raises(ConnectionRefusedError):
        near.connect((PEER, PORT))
    near.close()
    time.sleep(0.2)
    assert scene.told() == {}
