"""Small pure things: the WAN's delay, libvirt's XML, connections before and after, ULP attributes."""

import random
import struct

import pytest

from guest_agent import connections
from guest_agent.endpoint_ids import fresh_id
from vmacro.drivers.fake import connection
from vmacro.drivers.libvirt import xml
from vmacro.lab import guests, topology
from vmacro.lab.forwarder import Delay, Link
from vmacro.planning.outcome import all_followed, compare
from vmacro.wire.agent_verbs import Connection, Subflow


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


def test_a_domain_of_the_lab_reads_back() -> None:
    shape = topology.load(topology.DEFAULT)
    facts = xml.domain(guests.domain_xml(shape, "web", "qemu"))
    assert (facts.accelerator, facts.memory_mib, facts.network) == ("qemu", 256, "front")
    assert facts.channels == ("org.vmacro.agent.0",)
    (disk,) = facts.disks
    assert (disk.writable, disk.shared) == (False, True)


def test_connections_before_and_after() -> None:
    stays, gone, tcp = connection(1, "A", True), connection(2, "A", True), connection(0, "A", False)
    after = [connection(1, "B", True), connection(0, "A", False)]
    outcomes = {o.key: (o.kept, o.followed) for o in compare([stays, gone, tcp], after, ("B",), [])}
    assert outcomes == {"0x00000001": (True, True), "0x00000002": (False, False), tcp.key: (False, False)}


def test_who_cannot_follow_is_carried_on_an_old_address() -> None:
    refuses, tcp = connection(1, "A", False), connection(0, "A", False)
    for found in compare([refuses, tcp], [refuses, tcp], ("B",), carried=["A"]):
        assert (found.kept, found.followed, found.carried) == (True, False, True)


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


def test_connections_without_subflows_are_compared_too() -> None:
    """A journal may say that there were some; to stumble over them after the arrival would leave all at the hosts."""
    for token in (0, 7):
        (found,) = compare([Connection(token, ())], [Connection(token, ())], ("B",), ["A"])
        assert not found.followed and not found.carried and found.client == ""


def test_who_is_waited_for() -> None:
    assert all_followed(["0x00000001"], [connection(1, "B", True), connection(2, "A", False)], ("B",))
    assert not all_followed(["0x00000001", "0x00000002"], [connection(1, "B", True), connection(2, "A", True)], ("B",))


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
    plain = connections.parse(message)
    assert plain is not None and plain[0] == 0
    assert connections.parse(message.replace(bytes([10, 50, 1, 97]), bytes([127, 0, 0, 1]))) is None


def test_endpoint_ids_are_fresh() -> None:
    assert fresh_id([], 0) == 1
    assert fresh_id([2, 3], 1) == 4
    assert fresh_id([1], 255) == 2
