"""Datagrams to a guest's older addresses, packet by packet: in real network namespaces, with the real host side, guard
and firewall. Its servers are answered from where they were asked, and its host knows that they are.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.contract import frames, towns
from tests.contract.legs import LIE, TRUTH, Legs, legs_of, mine, opened
from tests.contract.towns import BRIDGE, GATEWAY_MAC, Ear, GuestPlace, HostPlace, Place, Town, client
from tests.support import eventually
from vmacro.drivers.host_side import SshHostSide
from vmacro.host import answers, guests, leg_rules
from vmacro.model.facts import Flows, Leg, Tracked

pytestmark = pytest.mark.lab
PLACEHOLDER = "02:76:03:00:00:01"
ANYWHERE = {4: "0.0.0.0", 6: "::"}
Asker = socket.socket


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with towns.town("vmt-udp") as found:
        yield found


@pytest.fixture(scope="module")
def legs(town: Town) -> Iterator[Legs]:
    """`web` at host 2, away with its addresses of host 1."""
    with opened(legs_of(town, town.web, "vxlan")) as found:
        aged(town.web, *(leg.address for leg in found.legs))
        yield found


def aged(guest: GuestPlace, *addresses: str) -> None:
    """As the agent leaves older addresses: the kernel sends from no deprecated one by itself (RFC 6724)."""
    for address in addresses:
        length = 128 if ":" in address else 32
        guest.ip("addr", "replace", f"{address}/{length}", "dev", "eth0", "preferred_lft", "0", *towns.nodad(address))


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@contextmanager
def asking(town: Town, version: int) -> Iterator[Asker]:
    with town.client.udp(client(town, version), 0) as asker:
        yield asker


@contextmanager
def serving(guest: GuestPlace, version: int, address: str = "", port: int = 7000) -> Iterator[socket.socket]:
    """On the wildcard, unless on an address."""
    with guest.udp(address or ANYWHERE[version], port) as server:
        yield server


def ask(asker: Asker, server: socket.socket, address: str, data: bytes = TRUTH) -> str:
    """One question and its answer; from where that came."""
    asker.sendto(data, (address, server.getsockname()[1]))
    found, peer = server.recvfrom(9000)
    assert found == data
    server.sendto(found[::-1], peer)
    answer, sender = asker.recvfrom(9000)
    assert answer == data[::-1]
    return str(sender[0])


def tracked(town: Town, host: HostPlace, address: str) -> tuple[int, int]:
    (found,) = town.side(host).flows((address,)).flows
    return found.udp, found.icmp


def test_without_legs_no_rule_is_left(town: Town) -> None:
    with opened(legs_of(town, town.web, "vxlan")):
        assert "asked" in town.two.rules("inet", answers.TABLE)
    for host in (town.one, town.two):
        assert town.side(host).facts(BRIDGE, "", "").legs == () and host.rules("inet", answers.TABLE) == ""


def test_a_server_on_the_wildcard_answers_from_the_address_that_was_asked(legs: Legs, version: int) -> None:
    town, old = legs.town, legs.of(version).address
    with asking(town, version) as asker, serving(town.web, version) as server:
        for _ in range(3):
            assert ask(asker, server, old) == old
        assert ask(asker, server, old, bytes(i % 251 for i in range(4000))) == old, "in fragments"
    with asking(town, version) as asker, serving(town.web, version) as server:
        assert ask(asker, server, mine(town.web, version)) == mine(town.web, version)


def test_a_server_on_one_address_is_left_alone(legs: Legs, version: int) -> None:
    """DNS servers have a socket for each."""
    town, old, new = legs.town, legs.of(version).address, mine(legs.guest, version)
    with (
        serving(town.web, version, old) as of_old,
        serving(town.web, version, new) as of_new,
        asking(town, version) as asker,
    ):
        for address, server in ((old, of_old), (new, of_new), (old, of_old)):
            assert ask(asker, server, address) == address


def test_echoes_come_from_the_address_that_was_asked(legs: Legs, version: int) -> None:
    legs.town.client.ping(legs.of(version).address)


def test_of_one_socket_that_asks_at_several_addresses_the_last_one_counts(legs: Legs, version: int) -> None:
    """As QUIC's clients do once a name has changed; a guest on its third site has two that it keeps."""
    town = legs.town
    older = replace(legs.of(version), move_id="web-0", address={4: "10.71.1.61", 6: "fd71:1::61"}[version])
    second = Legs(town, town.web, (older, older))
    aged(town.web, older.address)
    first_end, far_end = town.side(town.one).open(older), town.side(town.two).open(older)
    town.side(town.one).join(older, far_end)
    town.side(town.two).join(older, first_end)
    town.side(town.one).point(older, to_guest=False)
    try:
        with asking(town, version) as asker, serving(town.web, version) as server:
            for leg in (legs.of(version), second.legs[0]) * 2:
                assert ask(asker, server, leg.address) == leg.address
                assert ask(asker, server, mine(town.web, version)) == mine(town.web, version)
    finally:
        for host in (town.one, town.two):
            town.side(host).close("web-0")


def test_an_answer_that_takes_long_outlives_changes_of_other_legs(legs: Legs, version: int) -> None:
    town, old = legs.town, legs.of(version).address
    with asking(town, version) as asker, serving(town.web, version) as server:
        asker.sendto(TRUTH, (old, 7000))
        _, peer = server.recvfrom(100)
        others = legs_of(town, town.evil, "vxlan")
        others = Legs(town, town.evil, tuple(replace(leg, move_id="evil-1", domain="evil") for leg in others.legs))  # type: ignore[arg-type]
        for leg in others.legs:
            town.side(town.two).open(leg)
        server.sendto(b"one", peer)
        town.side(town.two).close("evil-1")
        server.sendto(b"two", peer)
        for _ in range(2):
            assert asker.recvfrom(100)[1][0] == old


def test_what_somebody_has_flushed_is_said_again(legs: Legs, version: int) -> None:
    town, old = legs.town, legs.of(version).address
    town.two.flush()
    eventually(lambda: old in town.two.rules("inet", answers.TABLE), "the guard to say it again")
    # It may have been in the midst of a look, and have said what came last in that first.
    eventually(lambda: town.evil.mac in town.two.rules("bridge", guests.TABLE), "the guard to hold guests again")
    eventually(lambda: old in town.two.rules("inet", leg_rules.TABLE), "the guard to say what legs carry")
    with asking(town, version) as asker, serving(town.web, version) as server:
        assert ask(asker, server, old) == old


def test_nobody_elses_datagrams_are_changed(legs: Legs, version: int) -> None:
    """A neighbour that serves the same client at the same ports; and what nobody has asked for."""
    town, old, evil = legs.town, legs.of(version).address, mine(legs.town.evil, version)
    with asking(town, version) as asker, serving(town.web, version) as server:
        assert ask(asker, server, old) == old
        with serving(town.evil, version) as other:
            assert ask(asker, other, evil) == evil
        with asking(town, version) as stranger:
            server.sendto(TRUTH, stranger.getsockname()[:2])
            assert stranger.recvfrom(100)[1][0] == mine(town.web, version)


def test_a_neighbour_cannot_answer_in_its_name(legs: Legs, version: int) -> None:
    town, old, ear = legs.town, legs.of(version).address, Ear(legs.town.client, "uplink")
    with asking(town, version) as asker, serving(town.web, version) as server:
        assert ask(asker, server, old) == old
        ports = (7000, asker.getsockname()[1])
        with town.evil.raw("eth0") as evil:
            for sender, data in ((old, LIE), (mine(town.web, version), LIE), (mine(town.evil, version), TRUTH)):
                there = client(town, version)
                evil.send(frames.datagram(town.evil.mac, GATEWAY_MAC, sender, there, data, ports))
        assert ear.heard([LIE], TRUTH) == []
        assert asker.recvfrom(100)[1][0] == mine(town.evil, version), "and is seen as itself"


@contextmanager
def back_home(town: Town, version: int) -> Iterator[tuple[str, str]]:
    """`local` has been at host 2, and is at host 1 again: it keeps its first address, at home, and that of host 2, by a
    leg; as clean() leaves it. Yields both."""
    first = {4: "10.71.1.60", 6: "fd71:1::60"}[version]
    second = {4: "10.71.2.60", 6: "fd71:2::60"}[version]
    aged(town.local, first, second)
    there = legs_of(town, town.local, "vxlan").of(version)
    gone = replace(there, address=first, move_id="local-1", domain="local")
    subnet = {4: "10.71.2.0/24", 6: "fd71:2::/64"}[version]
    stays = replace(gone, address=second, move_id="local-2", home=gone.away, away=gone.home, subnet=subnet)
    one, two = town.side(town.one), town.side(town.two)
    town.one.reservations[first] = PLACEHOLDER
    town.one.write_files()
    try:
        one.open(gone)
        _open(stays, two, one)
        one.close(gone.move_id)
        yield first, second
    finally:
        del town.one.reservations[first]
        for side in (one, two):
            side.close(stays.move_id)
        town.one.write_files()


def _open(leg: Leg, home: SshHostSide, away: SshHostSide) -> None:
    near, far = home.open(leg), away.open(leg)
    home.join(leg, far)
    away.join(leg, near)
    home.point(leg, to_guest=False)


def test_after_the_way_home_too(town: Town, version: int) -> None:
    with back_home(town, version) as kept, asking(town, version) as asker, serving(town.local, version) as server:
        for address in (*kept, mine(town.local, version)) * 2:
            assert ask(asker, server, address) == address
        for address in kept:
            with asking(town, version) as fresh, serving(town.local, version, address, 7001) as bound:
                assert ask(fresh, bound, address) == address
            town.client.ping(address)


def test_at_home_it_ends_with_the_addresss_reservation(town: Town) -> None:
    with back_home(town, 4) as (first, _):
        assert first in town.one.rules("inet", answers.TABLE)
        town.one.reservations.pop(first)
        town.one.write_files()
        eventually(lambda: first not in town.one.rules("inet", answers.TABLE), "the guard to see its end")
        town.one.reservations[first] = PLACEHOLDER


def test_the_hosts_know_of_flows_as_long_as_the_kernel_does(legs: Legs, version: int) -> None:
    town, old = legs.town, legs.of(version).address
    for host in (town.one, town.two):
        forget(host, version)
    with asking(town, version) as asker, serving(town.web, version) as server:
        ask(asker, server, old)
        assert tracked(town, town.one, old) == tracked(town, town.two, old) == (1, 0)
        assert tracked(town, town.one, mine(town.web, version)) == (0, 0)
        with asking(town, version) as another:
            ask(another, server, old)
        town.client.ping(old)
        assert tracked(town, town.one, old) == (2, 1)
    forget(town.one, version)
    town.client.ping(mine(town.local, version))
    assert tracked(town, town.one, old) == (0, 0)


def test_a_kernel_that_tracks_nothing_says_so(town: Town) -> None:
    for version in (4, 6):
        forget(town.one, version)
    assert town.side(town.one).flows(("10.71.1.51",)) == Tracked(False)
    town.client.ping(mine(town.local, 4))
    assert town.side(town.one).flows(("10.71.1.51",)) == Tracked(True, (Flows("10.71.1.51"),))


def test_what_a_guest_has_with_its_host_or_a_group_is_no_flow_to_carry(town: Town, version: int) -> None:
    address, host = mine(town.local, version), {4: town.one.gateway, 6: "fd71:1::1"}[version]
    forget(town.one, version)
    town.local.ping(host)
    with town.local.udp(address, 0) as sock:
        for there in (host, {4: "224.0.0.251", 6: "ff02::fb%eth0"}[version], {4: "10.71.1.255", 6: host}[version]):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(LIE, (there.partition("%")[0], 53, 0, 2)[: 4 if "%" in there else 2])
        assert tracked(town, town.one, address) == (0, 0)
        sock.sendto(TRUTH, (client(town, version), 7000))
        eventually(lambda: tracked(town, town.one, address) == (1, 0), "what it asks of others")


def forget(place: Place, version: int) -> None:
    """All flows of a family, as the kernel forgets each in the end (IPCTNL_MSG_CT_DELETE without a tuple)."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with place.inside(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 0x5, 1, 0, family, 0, 0))
        assert struct.unpack_from("=i", sock.recv(100), 16) == (0,)
