"""Small pure things: the WAN's delay, libvirt's XML, connections before and after, ULP attributes."""

import contextlib
import errno
import random
import socket
import struct
from types import SimpleNamespace
from typing import cast

import pytest

from guest_agent import connections, kernel_events, netlink
from guest_agent.endpoint_ids import fresh_id
from guest_agent.ports import SubflowClosed
from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.fake.world import FakeWorld
from vmacro.drivers.libvirt import xml
from vmacro.errors import LabError
from vmacro.lab import guests, topology
from vmacro.lab.forwarder import Delay, Link
from vmacro.model.facts import MOST_CARDS, Card
from vmacro.wire.agent_verbs import Subflow


def delay(**settings: float) -> Delay:
    return Delay(Link(1, **{"delay_ms": 25.0, **settings}), random.Random(1))


def test_packets_wait_their_time_and_leave_together() -> None:
    line = delay()
    assert line.take(1, now=10.0) and line.take(2, now=10.01)
    assert line.due(10.0249) is None
    assert line.due(10.025) == 1
    assert line.due(10.5) == 2 and line.due(11) is None


def test_jitter_keeps_the_order() -> None:
    line = delay(jitter_ms=20)
    for packet in range(200):
        line.take(packet, now=packet / 1000)
    times = [at for at, _ in line.waiting]
    assert times == sorted(times) and len(set(times)) > 20


def test_loss_takes_its_share() -> None:
    line = delay(loss_percent=25)
    kept = sum(line.take(packet, now=0.0) for packet in range(4000))
    assert 2800 < kept < 3200


def test_spanning_tree_is_on_unless_it_is_off() -> None:
    text = "<network><name>n</name><bridge name='b'/><ip address='10.0.0.1' prefix='24'/></network>"
    facts = xml.network(text, True, [])
    assert facts.stp and facts.dhcp_free is None


def test_a_network_with_several_subnets_is_that_of_its_dhcp() -> None:
    entry = "<host mac='52:54:00:00:00:01' ip='10.0.2.9'/>"
    text = (
        "<network><name>n</name><bridge name='b'/><ip family='ipv6' address='fd00::1' prefix='64'><dhcp/></ip>"
        "<ip address='10.0.1.1' prefix='24'><dhcp><bootp file='x'/></dhcp></ip>"
        f"<ip address='10.0.2.1' prefix='24'><dhcp><range start='10.0.2.8' end='10.0.2.9'/>{entry}</dhcp></ip>"
        "</network>"
    )
    facts = xml.network(text, True, [])
    assert (facts.subnet, facts.gateway, facts.dhcp_range) == ("10.0.2.0/24", "10.0.2.1", ("10.0.2.8", "10.0.2.9"))
    assert (facts.dhcp_free, [r.address for r in facts.reserved]) == (1, ["10.0.2.9"])


@pytest.mark.parametrize(
    ("dhcp", "free"),
    [
        ("", None),
        ("<dhcp/>", None),
        ("<dhcp><host mac='52:54:00:00:00:01' ip='10.0.0.9'/></dhcp>", 0),
        ("<dhcp><host mac='52:54:00:00:00:01' name='web'/></dhcp>", 0),
        ("<dhcp><range start='10.0.0.8' end='10.0.0.9'/><host mac='52:54:00:00:00:01' ip='10.0.0.9'/></dhcp>", 1),
    ],
)
def test_reservations_alone_are_dhcp_too(dhcp: str, free: int | None) -> None:
    """As libvirt configures dnsmasq: with a range, or with `static` for hosts alone."""
    text = f"<network><name>n</name><bridge name='b'/><ip address='10.0.0.1' prefix='24'>{dhcp}</ip></network>"
    assert xml.network(text, True, []).dhcp_free == free


def test_of_several_ranges_one_with_an_address_left_counts() -> None:
    ranges = "<range start='10.0.0.8' end='10.0.0.8'/><range start='10.0.0.98' end='10.0.0.99'/>"
    text = f"<network><name>n</name><ip address='10.0.0.1' prefix='24'><dhcp>{ranges}</dhcp></ip></network>"
    card = "52:54:00:00:00:09"
    facts = xml.network(text, True, [("10.0.0.8", card)])
    assert (facts.dhcp_range, facts.dhcp_free) == (("10.0.0.98", "10.0.0.99"), 2)
    facts = xml.network(text, True, [(f"10.0.0.{n}", card) for n in (8, 98, 99)])
    assert (facts.dhcp_range, facts.dhcp_free) == (("10.0.0.8", "10.0.0.8"), 0)


def test_a_domain_of_the_lab_reads_back() -> None:
    shape = topology.load(topology.DEFAULT)
    facts = xml.domain(guests.domain_xml(shape, "web", "qemu"))
    (card,) = facts.cards
    assert (facts.accelerator, facts.memory_mib, card.network, card.model) == ("qemu", 256, "front", "virtio")
    assert facts.channels == ("org.vmacro.agent.0",)
    (disk,) = facts.disks
    assert (disk.writable, disk.shared) == (False, True)


CARDS = """<domain type='kvm'><memory>1024</memory><devices>
 <interface type='bridge'><mac address='52:54:00:AB:CD:0E'/><source bridge='br7'/><target dev='vnet3'/></interface>
 <interface type='network'><mac address='52:54:00:00:00:01'/><source network='front' portid='x' bridge='front0'/>
 <target dev='vnet4'/><model type='virtio'/></interface>
 <interface type='direct'><mac address='52:54:00:00:00:02'/><source dev='eth1' mode='bridge'/></interface>
 <interface type='user'/></devices></domain>"""


def test_all_cards_of_a_domain_are_read_in_order() -> None:
    assert xml.domain(CARDS).cards == (
        Card("52:54:00:ab:cd:0e", "bridge", "", "br7", "", "vnet3"),
        Card("52:54:00:00:00:01", "network", "front", "front0", "virtio", "vnet4"),
        Card("52:54:00:00:00:02", "direct", "", "eth1"),
        Card("", "user"),
    )


def test_a_domain_may_have_only_so_many_cards() -> None:
    many = CARDS.replace("<interface type='user'/>", "<interface type='user'/>" * MOST_CARDS)
    with pytest.raises(ValueError, match="cards: 259 items"):
        xml.domain(many)


@pytest.mark.parametrize(
    "mac", ["20-52:54:00:00:00:0b:00:00", "52:54:00:00:00:0b:00", "06-52:54:00", "01-", "*", "\ud800", 7]
)
def test_a_guest_with_an_odd_card_does_not_keep_its_hosts_network_from_being_described(mac: object) -> None:
    """As dnsmasq 2.90 has told of DHCP messages with such htype and hlen, which libvirt passes on."""
    text = (
        "<network><name>front</name><ip address='10.1.0.1' prefix='24'><dhcp><range start='10.1.0.10' end='10.1.0.20'/>"
    )
    found = xml.network(f"{text}</dhcp></ip></network>", True, [("10.1.0.11", mac)])
    assert found.taken == (("10.1.0.11", ""),) and found.dhcp_free == 10


def test_mptcp_attributes_of_a_socket() -> None:
    """As the kernel nests them: name "mptcp", then MPTCP_SUBFLOW_ATTR_*."""

    def attribute(kind: int, payload: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)

    inner = attribute(2, struct.pack("=I", 0xCAFE)) + attribute(8, struct.pack("=I", 0x44)) + attribute(10, b"\x07")
    ulp = attribute(19, attribute(1, b"mptcp\0") + attribute(0x8003, inner))
    ends = bytes([10, 50, 1, 97]) + bytes(12) + bytes([10, 9, 0, 14]) + bytes(12)
    message = struct.pack(">BBxxHH", 2, 1, 7000, 40001) + ends + bytes(32)
    assert connections.parse(message + attribute(8, b"\0") + ulp) == (
        0xCAFE,
        Subflow("10.50.1.97", 7000, "10.9.0.14", 40001, joined=True, backup=False, established=True),
    )
    assert connections.parse(message)[0] == 0


@pytest.mark.parametrize("client", ["10.9.0.14", "2001:db8::14", "2001:db8:1:2::ffff:14", "::ffff:10.9.0.14"])
def test_the_path_manager_and_the_list_of_sockets_have_one_name_for_a_client(client: str) -> None:
    """Else a subflow's end is nobody's, and a connection that was reset is taken for one that its client closed."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    remote, local = (socket.inet_pton(family, text) for text in (client, "::9" if ":" in client else "10.1.0.9"))
    kinds = (6, 8) if ":" in client else (5, 7)
    told = struct.pack("=BBH", 11, 1, 0) + b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
        for kind, value in [
            (1, struct.pack("=I", 7)),
            (kinds[0], local),
            (kinds[1], remote),
            (9, struct.pack(">H", 7000)),
            (10, struct.pack(">H", 40001)),
        ]
    )
    listed = (
        struct.pack(">BBxxHH", family, 1, 7000, 40001) + local.ljust(16, b"\0") + remote.ljust(16, b"\0") + bytes(32)
    )
    event = kernel_events.path_manager_event(told)
    assert isinstance(event, SubflowClosed) and event.ends == connections.ends_of(listed)


@pytest.mark.parametrize("outgoing", [True, False])
def test_half_a_connection_is_one_until_its_application_closes_it(
    outgoing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload after the guest's own goodbye, or a question that ends with it. By this machine's kernel."""
    monkeypatch.setattr(connections, "_with_itself", lambda *_: False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    mine, peer = (far, near) if outgoing else (near, far)
    ends = (*mine.getsockname(), *peer.getsockname())

    def seen() -> tuple[list[bool], bool]:
        there, closing = connections.look()
        return [s.outgoing for c in there for s in c.subflows if connections._ends(s) == ends], ends in closing

    with peer, mine:
        assert seen() == ([outgoing], False)
        mine.shutdown(socket.SHUT_WR)
        for word in (b"one", b"two"):
            peer.send(word)
            assert mine.recv(3) == word and seen() == ([outgoing], False)
        mine.close()
        assert seen() == ([], True), "its peer has said no goodbye yet"


@pytest.mark.parametrize("half_closed", [False, True], ids=["FIN_WAIT1", "LAST_ACK"])
@pytest.mark.parametrize("outgoing", [True, False])
def test_a_connection_that_was_closed_goes_on_until_its_peer_has_all_that_was_sent(
    outgoing: bool, half_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that closes after its answer: the kernel has most of that still in its buffer."""
    monkeypatch.setattr(connections, "_with_itself", lambda *_: False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    mine, peer = (far, near) if outgoing else (near, far)
    ends = (*mine.getsockname(), *peer.getsockname())
    with peer:
        with mine:
            if half_closed:
                peer.shutdown(socket.SHUT_WR)
                assert mine.recv(1) == b""
            mine.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    mine.send(bytes(1 << 16))
        there, closing = connections.look()
        found = [s for c in there for s in c.subflows if connections._ends(s) == ends]
        assert [s.outgoing for s in found] == [outgoing] and ends not in closing
        while peer.recv(1 << 20):
            pass
        there, _ = connections.look()
        assert not [s for c in there for s in c.subflows if connections._ends(s) == ends]


def test_a_list_of_netlink_that_ends_with_an_error_is_no_complete_one() -> None:
    def message(kind: int, payload: bytes) -> bytes:
        return struct.pack("=IHHII", 16 + len(payload), kind, 0, 1, 0) + payload + b"\0" * (-len(payload) % 4)

    some = message(20, b"one") + message(20, b"two")
    for end in (b"", message(3, struct.pack("=i", 0)), message(2, struct.pack("=i", 0)), message(20, b"")[:15]):
        assert list(netlink.payloads(some + end)) == [b"one", b"two"]
    for kind in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
        with pytest.raises(OSError, match="refused") as refused:
            list(netlink.payloads(some + message(kind, struct.pack("=i", -errno.EMFILE))))
        assert refused.value.errno == errno.EMFILE
    assert list(netlink.payloads(struct.pack("=IHHII", 3, 20, 0, 1, 0))) == [], "shorter than itself"


def test_endpoint_ids_are_fresh() -> None:
    assert fresh_id([], 0) == 1
    assert fresh_id([2, 3], 1) == 4
    assert fresh_id([1], 255) == 2


@pytest.mark.timeout(30)
def test_a_guest_that_gets_no_lease_is_given_up() -> None:
    """Its agent answers all the while."""
    fake = FakeWorld()
    fake.guest.address = ""
    agents = cast(ChannelAgents, SimpleNamespace(open=fake.world.agent))
    with pytest.raises(LabError, match="guest web: not ready after 0 s: its agent answers, and has no lease"):
        guests.wait_until_ready(agents, fake.inventory.hosts[0], "web", 0.2)
