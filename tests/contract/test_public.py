"""A guest behind 1:1 NAT, in real network namespaces: the agent's own endpoints, a real client, a translation that the
guest knows nothing of.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guest_agent import connections, mptcp
from guest_agent.arrival import publish
from guest_agent.guest import Guest
from guest_agent.state import State
from tests.contract.towns import Place
from tests.support import eventually
from tests.unit.guest_fakes import FakeClock, FakeKernel, FakeLeases, lease
from vmacro.lab import namespaces, process
from vmacro.rtt import wire
from vmacro.wire.agent_verbs import PublishArgs

pytestmark = pytest.mark.lab
MOVES = 5
ADDRESSES = range(2, 3 + MOVES)


@dataclass
class Nat:
    """Clients know 10.66.0.N as 203.0.113.N; the first is the one that they have connected to."""

    client: Place
    router: Place
    server: Place
    guest: Guest

    def act(self, what: Coroutine[Any, Any, object]) -> None:
        """As the agent, in the guest."""
        with self.server.inside():
            asyncio.run(what)

    def locals(self) -> set[str]:
        """The guest's ends of the client's connection."""
        with self.server.inside():
            return {s.local for c in connections.connections() if c.mptcp for s in c.subflows if s.established}


def private(number: int) -> str:
    return f"10.66.0.{number}"


def public(number: int) -> str:
    return f"203.0.113.{number}"


@pytest.fixture
def nat(tmp_path: Path) -> Iterator[Nat]:
    with ExitStack() as stack:
        names = [f"vmt-nat{os.getpid()}-{node}" for node in ("client", "router", "server")]
        stack.callback(namespaces.remove_all, names)
        for name in names:
            namespaces.create(name)
        client, router, server = map(Place, names)
        router.ip("link", "add", "c", "type", "veth", "peer", "name", "eth0", "netns", client.name)
        router.ip("link", "add", "s", "type", "veth", "peer", "name", "eth0", "netns", server.name)
        for place, device, address in (
            (client, "eth0", "198.51.100.2/24"),
            (router, "c", "198.51.100.1/24"),
            (router, "s", "10.66.0.1/16"),
            (server, "eth0", "10.66.0.2/16"),
        ):
            place.ip("addr", "add", address, "dev", device)
            place.ip("link", "set", "dev", device, "up")
        client.ip("route", "add", "default", "via", "198.51.100.1")
        server.ip("route", "add", "default", "via", "10.66.0.1")
        for number in ADDRESSES[1:]:
            server.ip("addr", "add", f"{private(number)}/32", "dev", "eth0")
        with router.inside():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        process.run(router.inner("nft", "-f", "-"), input=rules())
        process.run(client.inner("ip", "mptcp", "limits", "set", "subflows", "2", "add_addr_accepted", "2"))
        kernel, clock = FakeKernel(), FakeClock()
        state, leases = State(lease(private(2))), FakeLeases(clock, [])
        guest = Guest(kernel, mptcp, connections, kernel, leases, clock, state, tmp_path / "state.json")
        found = Nat(client, router, server, guest)
        found.act(mptcp.raise_limits())
        yield found


def rules() -> str:
    there = "\n".join(f"ip daddr {public(n)} dnat to {private(n)}" for n in ADDRESSES)
    back = "\n".join(f'oifname "c" ip saddr {private(n)} snat to {public(n)}' for n in ADDRESSES)
    return f"""table ip nat {{
  chain there {{
    type nat hook prerouting priority dstnat; policy accept;
{there}
  }}
  chain back {{
    type nat hook postrouting priority srcnat; policy accept;
{back}
  }}
}}
"""


def serve(server: Place, ready: threading.Event) -> None:
    with server.inside():
        listener = wire.stream_socket(socket.AF_INET, True)
    with listener:
        listener.bind(("0.0.0.0", 7000))
        listener.listen()
        ready.set()
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)


@contextmanager
def talking(nat: Nat) -> Iterator[socket.socket]:
    """A client's connection to the first address, on which the guest has answered."""
    ready = threading.Event()
    threading.Thread(target=serve, args=(nat.server, ready), daemon=True).start()
    assert ready.wait(10)
    with nat.client.inside():
        client = wire.stream_socket(socket.AF_INET, True)
    client.settimeout(20)
    with client:
        client.connect((public(2), 7000))
        talk(client)
        yield client


def test_an_address_that_a_late_join_has_used_is_announced_all_the_same(nat: Nat) -> None:
    """One that comes where no endpoint is makes an implicit one, which is in the way of an announced one."""
    with talking(nat) as client:
        nat.act(mptcp.announce(public(3), 9))
        eventually(lambda: nat.locals() == {private(2), private(3)}, "a join to where no endpoint is")
        nat.act(mptcp.withdraw(9))
        assert private(3) in endpoints(nat).values(), "the kernel has made one by itself"
        told: list[int] = []

        async def announced() -> None:
            told.append(await nat.guest.announce(private(3), backup=True))

        for _ in range(3):  # its client may come back as it is withdrawn
            nat.act(announced())
            assert endpoints(nat)[told[-1]] == private(3)
            nat.act(nat.guest.withdraw_all(private(3)))
        talk(client)


def endpoints(nat: Nat) -> dict[int, str]:
    with nat.server.inside():
        return asyncio.run(mptcp.endpoints())


def test_a_client_follows_as_often_as_the_guest_moves(nat: Nat) -> None:
    """Its slots come back each time: it has two, of which one is free."""
    with talking(nat) as client:
        for number in ADDRESSES[1:]:
            old, new = private(number - 1), private(number)
            publish(nat.guest, PublishArgs(new, public(number)))
            nat.act(nat.guest.announce(new, backup=True))
            eventually(lambda new=new: new in nat.locals(), f"a join of {public(number)}, which arrives at {new}")  # type: ignore[misc]
            talk(client)
            nat.act(mptcp.prefer(new, True))
            nat.act(mptcp.prefer(old, False))
            nat.act(mptcp.withdraw(0, old))
            nat.act(nat.guest.withdraw_all(old))
            eventually(lambda new=new: nat.locals() == {new}, f"{old} to be left")  # type: ignore[misc]
            talk(client)
        with nat.server.inside():
            left = set(asyncio.run(mptcp.endpoints()).values())
        assert left == {private(ADDRESSES[-1]), public(ADDRESSES[-1])}


def talk(client: socket.socket) -> None:
    for number in range(5):
        client.sendall(wire.encode(number))
        data = b""
        while len(data) < wire.RECORD.size:
            data += client.recv(4096)
        assert data == wire.encode(number)
