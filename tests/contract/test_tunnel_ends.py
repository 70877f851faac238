"""The ends of legs: their keys, their processes, what becomes of them when one dies, and what is left. In real network
namespaces, with the real host side and wireguard-go.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.contract import frames, towns
from tests.contract.legs import LIE, MOVE, TRUTH, Legs, device, end, inject, legs_of, opened, reaches, uplink
from tests.contract.towns import BRIDGE, PATIENCE_S, Ear, HostPlace, Pipe, Place, Town, client
from tests.support import eventually
from vmacro.drivers.host_side import Session, SshHostSide
from vmacro.errors import HostError
from vmacro.host.rescue import Overheard
from vmacro.host.wireguard import KEEPALIVE_S, PORTS
from vmacro.lab import process
from vmacro.wire.host_verbs import KERNEL

pytestmark = pytest.mark.lab
STRANGER = f"str{os.getpid()}"  # a client's lies in this machine's /run/wireguard


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with towns.town("vmt-ends") as found:
        yield found


@pytest.fixture
def by_processes(town: Town) -> None:
    """The test is about wireguard-go, which runs where the kernel has no WireGuard."""
    if town.side(town.one).facts(BRIDGE, "", "").wireguard == KERNEL:
        pytest.skip("WireGuard is the kernel's")


@pytest.fixture
def encrypted(town: Town) -> Iterator[Legs]:
    with opened(legs_of(town, town.web, "wireguard")) as found:
        yield found


@pytest.mark.parametrize(("kind", "seen"), [("wireguard", []), ("vxlan", [TRUTH])])
def test_who_listens_between_the_hosts_reads_nothing_of_wireguard(town: Town, kind: str, seen: list[bytes]) -> None:
    with opened(legs_of(town, town.web, kind)) as legs:
        reaches(legs, 4)
        ear, last = Ear(town.wan, "to1"), b"the-last"
        reaches(legs, 4)
        with town.one.udp(town.one.uplink, 0) as sender:
            sender.sendto(last, ("10.71.9.14", 7009))
        assert ear.heard([TRUTH], last) == seen


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [14789, 14790, 15813])
def test_the_port_of_a_tunnel_hears_hosts_alone(town: Town, port: int, version: int) -> None:
    address = uplink(town.one, version)
    with town.one.udp(address, port) as tunnel, town.two.udp(uplink(town.two, version), 0) as host:
        with town.client.udp(client(town, version), 0) as stranger:
            stranger.sendto(LIE, (address, port))
        town.client.ping(address)  # which comes after it
        host.sendto(TRUTH, (address, port))
        assert tunnel.recv(100) == TRUTH
        tunnel.setblocking(False)
        with pytest.raises(BlockingIOError):
            tunnel.recv(100)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [16514, 49152, 49215])
def test_libvirt_and_what_migrations_send_hear_hosts_alone(town: Town, port: int, version: int) -> None:
    """And libvirt the operator."""
    address, operator = uplink(town.one, version), towns.OPERATOR[version == 6]
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    known = {uplink(town.two, version): town.two} | ({operator: town.wan} if port == 16514 else {})
    with town.one.inside():
        listener = socket.create_server((address, port), family=family)
    with listener, knock(town.client, client(town, version), address, port):
        town.client.ping(address)  # which comes after its SYN
        for name, place in known.items():
            with knock(place, name, address, port) as asker:
                listener.settimeout(PATIENCE_S)
                connection, (peer, *_) = listener.accept()
                connection.close()
                assert peer == name and asker.fileno() >= 0
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def knock(place: Place, sender: str, address: str, port: int) -> socket.socket:
    """By TCP; nobody waits for an answer."""
    with place.inside():
        asker = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        asker.bind((sender, 0))
    asker.setblocking(False)
    asker.connect_ex((address, port))
    return asker


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["wireguard", "vxlan"])
def test_what_is_turned_back_arrives_at_home(town: Town, kind: str, version: int) -> None:
    """A guest that is at home again: what went out by its leg comes back from the other end, with a client's source."""
    with opened(legs_of(town, town.local, kind)) as legs:
        leg = legs.of(version)
        town.side(town.one).point(leg, to_guest=True)
        town.side(town.two).point(leg, to_guest=False)
        with town.local.udp(leg.address) as server:
            inject(town.one, leg, "away", frames.udp(client(town, version), leg.address, TRUTH))
            assert server.recv(100) == TRUTH


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["wireguard", "vxlan"])
def test_what_came_too_late_for_a_guest_is_sent_after_it(town: Town, kind: str, version: int) -> None:
    """What was on its way to the tap as the guest paused comes out at the other end of its leg."""
    with opened(legs_of(town, town.local, kind)) as legs:
        leg = legs.of(version)
        town.side(town.one).point(leg, to_guest=True)
        there = Ear(town.two, BRIDGE, sent=True)
        with town.one.inside():
            overheard, arrived = Overheard(town.local.tap), Ear(town.local, "eth0")
            with town.client.udp(client(town, version), 0) as sender:
                sender.sendto(TRUTH, (leg.address, 7000))
            assert arrived.heard([], TRUTH) == []
            assert overheard.send_on([end(leg)]) >= 1, "with IPv6 its host may have asked after it, too"
            overheard.close()
        assert there.heard([], TRUTH) == []


def wg(place: Place, *words: str, stdin: str | None = None) -> str:
    return process.run(place.inner("wg", *words), input=stdin)


@contextmanager
def stranger(place: Place, at: HostPlace, leg: str, key: str) -> Iterator[str]:
    """Somebody else's WireGuard, with this private key, that greets a leg's end; yields its own public key."""
    name, port = STRANGER, listening(at, leg)
    program = shutil.which("wireguard-go")
    made = ["wireguard-go", name] if program else ["ip", "link", "add", name, "type", "wireguard"]
    process.run(place.inner(*made))
    try:
        peer = ["peer", wg(at, "show", leg, "public-key").strip(), "endpoint", f"{at.uplink}:{port}"]
        wg(place, "set", name, "listen-port", "15999", "private-key", "/dev/stdin", stdin=key)
        place.ip("link", "set", "dev", name, "up")
        wg(place, "set", name, *peer, "allowed-ips", "0.0.0.0/0", "persistent-keepalive", "1")
        yield wg(place, "show", name, "public-key").strip()
    finally:
        place.ip("link", "del", name)


def listening(host: HostPlace, name: str) -> int:
    return int(wg(host, "show", name, "listen-port"))


def greeted(place: Place) -> bool:
    return _has_greeted(place, STRANGER)


def initiation(port: int) -> bytes:
    """What WireGuard's first message looks like, by its ports: nothing else goes by these."""
    return struct.pack("!HH", 15999, port)


def test_one_end_greets_and_the_other_waits(encrypted: Legs) -> None:
    """Two that greet at once undo each other's greeting, where packets take longer than an orchestrator takes to join
    both ends; then nothing passes for 5 s."""
    town = encrypted.town
    home, away = town.one, town.two
    for place, every in ((home, "off"), (away, str(KEEPALIVE_S))):
        for name in encrypted.devices:
            assert wg(place, "show", name, "persistent-keepalive").split()[1:] == [every]
    for name in encrypted.devices:
        eventually(partial(_has_greeted, away, name), "its greeting, though nobody sends", within_s=4)


def _has_greeted(place: Place, name: str) -> bool:
    return any(int(line.split()[1]) for line in wg(place, "show", name, "latest-handshakes").splitlines())


def test_a_foreign_key_gets_no_answer(encrypted: Legs) -> None:
    """Not even one of the other host's own; once it is known it does, so that it is the key that counts."""
    town, ours = encrypted.town, encrypted.devices[0]
    port, heard = listening(town.one, ours), Ear(town.one, "uplink")
    answers = Ear(town.two, "uplink")
    with stranger(town.two, town.one, ours, wg(town.two, "genkey")) as public:
        heard.heard([], initiation(port))
        for _ in range(3):
            reaches(encrypted, 4)
        with town.client.udp(client(town, 4), 0) as sender:
            sender.sendto(TRUTH, (town.two.uplink, 7000))
        assert answers.heard([struct.pack("!HH", port, 15999)], TRUTH) == []
        assert not greeted(town.two)
        wg(town.one, "set", ours, "peer", public, "allowed-ips", "10.99.9.1/32")
        eventually(lambda: greeted(town.two), "an answer to a key that is known")


def test_the_right_key_from_another_address_gets_no_answer(encrypted: Legs) -> None:
    """Somebody on the WAN who has stolen it."""
    town, ours = encrypted.town, encrypted.devices[0]
    port, heard, answers = listening(town.one, ours), Ear(town.one, "uplink"), Ear(town.client, "uplink")
    with stranger(town.client, town.one, ours, wg(town.two, "show", ours, "private-key")):
        heard.heard([], initiation(port))
        reaches(encrypted, 4)
        with town.one.udp(town.one.uplink, 0) as sender:
            sender.sendto(TRUTH, (client(town, 4), 7009))
        assert answers.heard([struct.pack("!HH", port, 15999)], TRUTH) == []
        assert not greeted(town.client)


def test_keys_are_in_no_argument_file_or_name(encrypted: Legs) -> None:
    for host in (encrypted.town.one, encrypted.town.two):
        keys = [wg(host, "show", name, "private-key").strip() for name in encrypted.devices]
        assert len(set(keys)) == 2 and all(len(key) == 44 for key in keys)
        files = [f.read_bytes() for f in host.at("/run").rglob("*") if f.is_file() and f.stat().st_size < 1 << 20]
        commands = [
            Path(f"/proc/{pid}/{what}").read_bytes()
            for pid in host.processes("wireguard-go")
            for what in ("cmdline", "environ")
        ]
        links = host.ip("-d", "link").encode()
        assert not any(key.encode() in text for key in keys for text in (*files, *commands, links))


@pytest.mark.usefixtures("by_processes")
def test_a_process_that_dies_is_missed_and_its_end_is_made_anew(encrypted: Legs) -> None:
    """At either end, with a new key, which the other end then has instead of the old one."""
    town = encrypted.town
    before = {host.name: traces(host) for host in (town.one, town.two)}
    for host in (town.one, town.two):
        running = host.processes("wireguard-go")
        assert len(running) == 2, "one for each leg"
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda host=host: legs_at(town, host) == [], "its devices to go")  # type: ignore[misc]
        encrypted.open()
        assert len(legs_at(town, host)) == 2
        for version in (4, 6):
            reaches(encrypted, version)
        for each in (town.one, town.two):
            assert [len(wg(each, "show", name, "peers").split()) for name in encrypted.devices] == [1, 1]
    assert {host.name: traces(host) for host in (town.one, town.two)} == before


def test_a_leg_opens_again_as_soon_as_it_was_closed(town: Town) -> None:
    """What still ends of the last one does not touch the next."""
    for _ in range(5):
        with opened(legs_of(town, town.web, "wireguard")) as legs:
            reaches(legs, 4)
            assert len(legs_at(town, town.one)) == len(legs_at(town, town.two)) == 2


def legs_at(town: Town, host: HostPlace) -> list[str]:
    return [found.address for found in town.side(host).facts(BRIDGE, "", "").legs]


def traces(host: HostPlace) -> list[str]:
    """What a leg may leave at a host."""
    looks = [("link",), ("rule",), ("-6", "rule"), ("neigh", "show", "nud", "permanent"), ("neigh", "show", "proxy")]
    looks += [(v, "route", "show", "table", "all", "proto", "118") for v in ("-4", "-6")]
    found = [" ".join(line.split()[:12]) for look in looks for line in host.ip("-o", "-brief", *look).splitlines()]
    processes = [f"process {n}" for n, _ in enumerate(host.processes("wireguard-go"))]
    return sorted(found) + processes + sorted(str(p) for p in host.at("/run/wireguard").iterdir())


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("kind", ["wireguard", "vxlan"])
def test_nothing_is_left_of_legs(town: Town, kind: str, killed: bool) -> None:
    """Also where their processes have been killed first."""
    hosts = (town.one, town.two)
    before = {host.name: (traces(host), host.rules("inet", "vmacro-legs")) for host in hosts}
    with opened(legs_of(town, town.web, kind)) as legs:
        reaches(legs, 4)
        for host in hosts:
            assert "vmac-" in host.rules("inet", "vmacro-legs")
            for pid in host.processes("wireguard-go") if killed else []:
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not killed or not any(h.processes("wireguard-go") for h in hosts), "their end")
    eventually(lambda: not any(h.processes("wireguard-go") for h in hosts), "their end")
    assert {host.name: (traces(host), host.rules("inet", "vmacro-legs")) for host in hosts} == before
    assert all(rules == "" for _, rules in before.values())


def test_legs_of_one_number_get_ports_of_their_own(town: Town) -> None:
    """The number of a leg chooses its port, and there are fewer ports than numbers."""
    first, _ = legs_of(town, town.web, "wireguard").legs
    same = next(
        leg
        for n in range(100_000)
        if (leg := replace(first, move_id=f"other-{n}")) and end(leg).number % PORTS == end(first).number % PORTS
    )
    side = town.side(town.one)
    try:
        ports = [side.open(leg).port for leg in (first, same)]
        assert len(set(ports)) == 2 and ports == [side.open(leg).port for leg in (first, same)]
        assert [listening(town.one, device(leg)) for leg in (first, same)] == ports
    finally:
        for leg in (first, same):
            side.close(leg.move_id)


@pytest.mark.parametrize(
    ("missing", "kind", "said"),
    [
        ("nft", "wireguard", "no nft"),
        ("nft", "vxlan", "no nft"),
        ("wg", "wireguard", "wg is not installed"),
        ("wireguard-go", "wireguard", "the kernel has none .*, and wireguard-go is not installed"),
    ],
)
def test_what_a_host_lacks_is_said_and_nothing_is_made_without_it(
    town: Town, tmp_path: Path, missing: str, kind: str, said: str
) -> None:
    whole = town.side(town.one).facts(BRIDGE, "", "").wireguard
    if (whole, missing) == (KERNEL, "wireguard-go"):
        pytest.skip("WireGuard is the kernel's")
    for program in {"nft", "wg", "wireguard-go", "ip", "getent"} - {missing}:
        where = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if where is not None:
            (tmp_path / program).symlink_to(where)
    before = traces(town.one)
    command = town.one.python("vmacro.host", "--libvirt", "test:///default")
    place = command.index("env") + 1
    pipe = Pipe([*command[:place], f"PATH={tmp_path}", *command[place:]])
    try:
        side = SshHostSide(town.one.noun, Session("h1", pipe))
        facts = side.facts(BRIDGE, "", "")
        assert facts.filters is (missing != "nft") and ("wireguard" in facts.tunnels) is (missing == "nft")
        assert facts.wireguard == (whole if missing == "nft" else "")
        assert missing == "nft" or missing in facts.wireguard_why
        with pytest.raises(HostError, match=said):
            side.open(legs_of(town, town.web, kind).legs[0])
        assert side.facts(BRIDGE, "", "").legs == ()
    finally:
        pipe.close()
    assert traces(town.one) == before


def test_at_home_again_a_guest_keeps_the_address_that_is_reserved_for_it(town: Town) -> None:
    """Its leg is closed, connections still use it; DHCP keeps it for nobody's card as long as that is so."""
    kept, host = "10.71.1.99", town.one
    leg = replace(legs_of(town, town.local, "wireguard").legs[0], address=kept)
    town.local.holds(kept)
    host.reservations[kept] = "02:76:03:00:00:01"
    host.write_files()
    side = town.side(host)

    def allowed() -> bool:
        return kept in host.rules("bridge", "vmacro-guests")

    assert not allowed()
    side.open(leg)
    assert allowed(), "as soon as the leg is open"
    side.close(MOVE)
    assert allowed() and kept in host.ip("neigh", "show", "nud", "permanent")
    with town.local.udp(kept) as server, town.client.udp(client(town, 4), 0) as asker:
        asker.sendto(TRUTH, (kept, 7000))
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)
        assert asker.recv(100) == TRUTH
    del host.reservations[kept]
    host.write_files()
    eventually(lambda: not allowed(), "the address to be given up")
    assert kept not in host.ip("neigh", "show", "nud", "permanent")
