"""What a guest's domain takes of its host, so that nobody else there may have it: read, asked for, and found."""

from __future__ import annotations

import errno
import fcntl
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.test_domains import House, codes, with_devices
from vmacro.drivers.libvirt import definition
from vmacro.host import taken
from vmacro.model.definitions import CID, FILE, PORT, TAP, Definition, Need
from vmacro.model.facts import FileFacts
from vmacro.planning.taking import taking, taps
from vmacro.wire.host_verbs import OTHER
from vmacro.wire.taken_verbs import MOST_PORTS, TCP, UDP, Port, Taken, Taking

DOMAIN = "<domain type='kvm'><memory>1024</memory><devices>{}</devices></domain>"


def read(live: str, stored: str = "") -> Definition:
    return definition.definition(DOMAIN.format(live), DOMAIN.format(stored or live))


CARD = "<interface type='{}'><mac address='52:54:00:00:00:07'/><target dev='{}'{}/></interface>"
BIND = "<serial type='{}'><source mode='bind' host='{}' service='{}'/></serial>"


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("<graphics type='vnc' port='5942' listen='0.0.0.0'/>", {"tcp/5942/"}),
        ("<graphics type='vnc' port='5942' autoport='no'/>", {"tcp/5942/"}),
        ("<graphics type='spice' port='5942' tlsPort='5943' autoport='no'/>", {"tcp/5942/", "tcp/5943/"}),
        ("<graphics type='vnc' port='5901' autoport='yes'/>", set()),
        ("<graphics type='vnc' port='-1' autoport='no'/>", set()),
        ("<graphics type='vnc' socket='/run/x'/>", set()),
        (BIND.format("tcp", "", "4555"), {"tcp/4555/"}),
        (BIND.format("tcp", "0.0.0.0", "4555"), {"tcp/4555/"}),
        (BIND.format("tcp", "localhost", "4555"), {"tcp/4555/127.0.0.1"}),
        (BIND.format("tcp", "0:0::1", "4555"), {"tcp/4555/::1"}),
        (BIND.format("udp", "192.0.2.7", "4555"), {"udp/4555/192.0.2.7"}),
        (BIND.format("tcp", "logs.example.net", "4555"), {"tcp/4555/"}),
        (BIND.format("tcp", "fe80::1%eth0", "4555"), {"tcp/4555/"}),
        (BIND.format("tcp", "::ffff:192.0.2.7", "4555"), {"tcp/4555/192.0.2.7"}),
        (BIND.format("tcp", "", "telnet"), set()),
        (BIND.format("tcp", "", "70000"), set()),
        (BIND.format("unix", "", "4555"), set()),
        (BIND.format("tcp", "", "4555").replace("bind", "connect"), set()),
        (CARD.format("bridge", "one-42-0", ""), {"one-42-0"}),
        (CARD.format("direct", "web0", ""), {"web0"}),
        (CARD.format("network", "vnet7", ""), set()),
        (CARD.format("direct", "macvtap3", ""), set()),
        (CARD.format("bridge", "vif4.0", ""), set()),
        (CARD.format("ethernet", "web0", " managed='no'"), set()),
        (CARD.format("bridge", "a-name-of-sixteen", ""), set()),
        ("<vsock><cid auto='no' address='42'/></vsock>", {"42"}),
        ("<vsock><cid auto='yes' address='42'/></vsock>", set()),
    ],
)
def test_what_libvirt_does_not_choose_anew_there_is_taken(device: str, named: set[str]) -> None:
    needs = [need for need in read(device).needs if need.kind in (PORT, TAP, CID)]
    assert {need.name for need in needs} == named and all(need.live and need.next for need in needs)


def test_a_guests_vsock_needs_its_hosts() -> None:
    needs = read("<vsock><cid auto='yes' address='42'/></vsock>").named(FILE)
    assert [need.name for need in needs] == ["/dev/vhost-vsock"]


def test_hosts_are_asked_about_each_port_once_and_not_about_very_many() -> None:
    seen = read(BIND.format("tcp", "", "4555") + BIND.format("tcp", "", "4555").replace("serial", "console"))
    assert taking(seen) == Taking((Port(TCP, 4555),)) and taps(seen) == ()
    many = read("".join(BIND.format("tcp", "", n) for n in range(4000, 4100)))
    asked = taking(many)
    assert asked is not None and asked.ports == tuple(Port(TCP, n) for n in range(4000, 4000 + MOST_PORTS))
    assert taking(read("")) is None is taking(None)
    odd = Definition(needs=(Need(PORT, "tcp/x/", "VNC"), Need(CID, "2", "vsock"), Need(CID, "x", "vsock")))
    assert taking(odd) is None, "a journal's, or a fake's"


# The host's own sockets.

Listen = Callable[[str, str], int]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """By protocol and address; on which port."""
    opened: list[socket.socket] = []

    def listening(protocol: str, address: str) -> int:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened.append(socket.socket(family, socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM))
        opened[-1].bind((address, 0))
        if protocol == TCP:
            opened[-1].listen()
        return int(opened[-1].getsockname()[1])

    yield listening
    for each in opened:
        each.close()


def in_use(*ports: Port) -> tuple[Port, ...]:
    return taken.taken(Taking(ports)).ports


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize(("at", "other"), [("127.0.0.1", "127.0.0.2"), ("::1", "127.0.0.1"), ("0.0.0.0", "")])
def test_a_port_is_taken_where_somebody_has_it(listen: Listen, protocol: str, at: str, other: str) -> None:
    number = listen(protocol, at)
    meets = [Port(protocol, number), Port(protocol, number, at)]
    apart = [Port(TCP if protocol == UDP else UDP, number), *([Port(protocol, number, other)] if other else [])]
    assert in_use(*meets, *apart) == tuple(meets)
    assert in_use(Port(protocol, number, "192.0.2.7")) == (), "none of this host's addresses"


def test_asking_takes_nothing(listen: Listen) -> None:
    number = listen(TCP, "127.0.0.1")
    for _ in range(3):
        assert in_use(Port(TCP, number)) != ()
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = Port(TCP, free.getsockname()[1])
    assert in_use(port, port) == ()
    with closing(socket.create_server(("127.0.0.1", port.number))):
        assert in_use(port) == (port,)


def test_a_connection_that_has_just_ended_keeps_no_port(listen: Listen) -> None:
    """TIME_WAIT: QEMU listens there all the same."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        number = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", number))
        accepted, _ = server.accept()
        accepted.close()
        client.close()
    assert in_use(Port(TCP, number)) == ()


@pytest.mark.parametrize(("number", "found"), [(errno.EADDRINUSE, (42,)), (errno.EINVAL, ()), (0, ())])
def test_a_number_by_vsock_is_asked_of_the_kernel(
    number: int, found: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, asked = tmp_path / "vhost-vsock", list[tuple[int, bytes]]()
    device.touch()

    def ioctl(_file: object, request: int, packed: bytes) -> None:
        asked.append((request, packed))
        if number:
            raise OSError(number, "")

    monkeypatch.setattr(taken, "VSOCK", device)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert taken.taken(Taking((), (42,))).cids == found
    assert asked == [(0x4008AF60, (42).to_bytes(8, "little"))]


def test_a_host_without_vsock_has_given_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken, "VSOCK", tmp_path / "nowhere")
    assert taken.taken(Taking((), (42,))) == Taken()


# A move.

VNC = "<graphics type='vnc' port='5942' listen='0.0.0.0'/>"
VSOCK_OF_HOST = "/dev/vhost-vsock"
VSOCK = "<vsock model='virtio'><cid auto='no' address='42'/></vsock>"


def taking_all() -> House:
    house = with_devices(VNC + VSOCK)
    house.live = house.live.replace("<source network='front'/>", "<source network='front'/><target dev='web0'/>", 1)
    for host in house.hosts.values():
        host.files |= {VSOCK_OF_HOST: FileFacts(VSOCK_OF_HOST, OTHER)}
    return house


def test_what_is_free_there_stands_against_nothing() -> None:
    assert codes(taking_all().findings()) == []


def test_what_somebody_has_there_stops_a_move_before_anything_is_touched() -> None:
    """libvirt and QEMU refuse it in the copy: after a base was sent."""
    house = taking_all()
    there = house.hosts["berlin"]
    there.taken, there.devices = Taken((Port(TCP, 5942, "10.9.0.2"), Port(TCP, 5943)), (42,)), {"web0"}
    found = house.findings()
    assert codes(found) == ["taken-there"] * 3, [(f.code, f.message) for f in found]
    told = " ".join(f.message for f in found)
    assert "TCP port 5942 already, which the guest takes: VNC" in told and "device 'web0'" in told and "CID 42" in told


def test_what_only_the_next_start_takes_is_warned_of() -> None:
    house = House(name="uefi")
    house.stored = house.live.replace("</devices>", f"{VNC}</devices>")
    house.hosts["berlin"].taken = Taken((Port(TCP, 5942),))
    found = house.findings()
    assert codes(found) == ["?taken-there"] and "VNC, at its next start" in found[0].message


def test_of_more_ports_than_a_host_is_asked_about_it_is_told_that_nobody_has_looked() -> None:
    house = with_devices("".join(BIND.format("tcp", "", n) for n in range(4000, 4000 + MOST_PORTS + 1)))
    (found,) = house.findings()
    assert found.code == "taken-unknown" and f"{4000 + MOST_PORTS}" in found.message
    assert f"{4000 + MOST_PORTS - 1}" not in found.message
