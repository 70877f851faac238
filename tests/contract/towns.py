"""Two hosts, their guests and a WAN in network namespaces, without any machine: the real host side, guard and firewall,
real wireguard-go, real packets. Needs root. A host has a /run, libvirt's files and a mount namespace of its own.
"""

from __future__ import annotations

import ipaddress
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import role
from tests.contract import frames
from tests.support import eventually
from vmacro.drivers.host_side import Session, SshHostSide
from vmacro.host import guests
from vmacro.lab import namespaces, process
from vmacro.model.nouns import Host
from vmacro.wire import messages

BRIDGE, GATEWAY_MAC = "front0", "52:54:00:76:6d:61"
PATIENCE_S = 10.0
OPERATOR = ["10.71.9.13", "fd71:9:3::1"]  # at the WAN, beside the client
START_S = 120.0
_PRIVATE = "mount -t tmpfs t /run && mount -t tmpfs t /var/lib && mkdir -p /run/libvirt/qemu /run/wireguard"
_PRIVATE += " /var/lib/libvirt/dnsmasq && echo ready && exec sleep infinity"


class Pipe:
    """A program by its standard input and output: implements drivers.host_side.Program."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, bufsize=0)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, data: bytes, timeout_s: float) -> int:
        assert self.process.stdin is not None
        return os.write(self.process.stdin.fileno(), data)

    def receive(self, timeout_s: float) -> bytes:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError
        return os.read(self.process.stdout.fileno(), 1 << 16)

    def wait_until_it_answers(self) -> None:
        """Under emulation it takes longer to start than any verb may take."""
        self.send(messages.encode_request(messages.Request("start", "unknown")), START_S)
        answer = self.receive(START_S)
        assert messages.decode_reply(answer.strip()).id == "start"

    def complaint(self) -> str:
        return ""

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait(10)


class Ear:
    """Hears what comes to a device, as frames; what the place itself sends there it hears only if `sent`."""

    def __init__(self, place: Place, device: str, sent: bool = False) -> None:
        self._sent = sent
        with place.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.socket.bind((device, 3))

    def heard(self, marks: Sequence[bytes], last: bytes) -> list[bytes]:
        """Those of the marks that came before the last one did, which must come."""
        found, deadline = [], time.monotonic() + PATIENCE_S
        while True:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.socket], [], [], left)[0], f"{last!r} never came"
            frame, (_, _, kind, _, _) = self.socket.recvfrom(1 << 16)
            if kind == socket.PACKET_OUTGOING and not self._sent:
                continue
            found += [mark for mark in marks if mark in frame and mark not in found]
            if last in frame:
                return found


@dataclass
class Place:
    """A network namespace."""

    name: str

    def inside(self) -> AbstractContextManager[None]:
        return namespaces.inside(self.name)

    def inner(self, *command: str) -> list[str]:
        """The command that runs it in there."""
        return ["ip", "netns", "exec", self.name, *command]

    def ip(self, *words: str) -> str:
        return process.run(["ip", "-n", self.name, *words])

    def udp(self, address: str, port: int = 7000) -> socket.socket:
        with self.inside():
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((address, port))
        sock.settimeout(PATIENCE_S)
        return sock

    def ping(self, address: str, sender: str = "") -> None:
        """Once, and it must be answered."""
        six = ":" in address
        with self.inside():
            family, protocol = (
                (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
            )
            sock = socket.socket(family, socket.SOCK_RAW, protocol)
        with sock:
            sock.settimeout(PATIENCE_S)
            if sender:
                sock.bind((sender, 0))
            body = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0x766D, 1)  # of IPv6 the kernel makes the checksum
            sock.sendto(body if six else frames.with_sum(body, 2), (address, 0))
            while True:
                reply, (peer, *_) = sock.recvfrom(2048)
                if peer == address and reply[0 if six else 20] == (129 if six else 0):
                    return

    def raw(self, device: str, ethertype: int = 0) -> socket.socket:
        with self.inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.bind((device, ethertype))
        return sock


@dataclass
class HostPlace(Place):
    """A host: what is written into its files it reads as libvirt's."""

    number: int
    holder: subprocess.Popen[str]
    peer: str = ""
    cards: dict[str, str] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)  # leases whose time has run out
    reservations: dict[str, str] = field(default_factory=dict)

    @property
    def uplink(self) -> str:
        return f"10.71.9.{4 * self.number + 2}"

    @property
    def noun(self) -> Host:
        return Host(f"h{self.number}", f"s{self.number}", "", "", self.uplink, "", "front", ssh="root@nowhere")

    @property
    def gateway(self) -> str:
        return f"10.71.{self.number}.1"

    def inner(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.holder.pid), "-m", "-n", *command]

    def python(self, module: str, *words: str) -> list[str]:
        found = f"{Path(__file__).parents[2]}:{os.environ.get('PYTHONPATH', '')}"
        return self.inner("env", f"PYTHONPATH={found}", sys.executable, "-m", module, *words)

    def at(self, path: str) -> Path:
        return Path(f"/proc/{self.holder.pid}/root{path}")

    def write_files(self) -> None:
        """As libvirt does, which renames what it has written."""
        devices = "".join(
            f"<interface type='network'><mac address='{m}'/><target dev='{t}'/></interface>"
            for t, m in self.cards.items()
        )
        status = f"<domstatus><domain><devices>{devices}</devices></domain></domstatus>"
        leases = json.dumps(
            [
                {"ip-address": a, "mac-address": m, **({"expiry-time": 1} if a in self.over else {})}
                for a, m in self.leases.items()
            ]
        )
        hosts = "".join(f"{m},{a}\n" for a, m in self.reservations.items())
        for path, text in (
            ("/var/lib/libvirt/dnsmasq/front0.status", leases),
            ("/var/lib/libvirt/dnsmasq/front.hostsfile", hosts),
            ("/run/libvirt/qemu/all.xml", status),
        ):
            part = self.at(path + ".new")
            part.write_text(text)
            part.rename(self.at(path))

    def flush(self) -> None:
        """All rules of the host, whoever's."""
        process.run(self.inner("nft", "flush", "ruleset"))

    def rules(self, family: str, table: str) -> str:
        done = subprocess.run(self.inner("nft", "list", "table", family, table), capture_output=True, text=True)
        return done.stdout

    def processes(self, program: str) -> list[int]:
        """Those of a name in this namespace."""
        found = []
        for pid in namespaces.processes_inside([self.name]):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if command[0].rpartition(b"/")[2] == program.encode():
                found.append(pid)
        return found


@dataclass
class GuestPlace(Place):
    """A guest: a card at a host's bridge, and addresses."""

    mac: str
    tap: str
    host: HostPlace

    def holds(self, *addresses: str) -> None:
        """One of another subnet alone, as the agent does it."""
        for address in addresses:
            local = address.startswith((f"10.71.{self.host.number}.", f"fd71:{self.host.number}:"))
            length = (64 if local else 128) if ":" in address else (24 if local else 32)
            self.ip("addr", "replace", f"{address}/{length}", "dev", "eth0", *nodad(address))

    def slaac(self, number: int) -> str:
        return str(guests.slaac(self.mac, ipaddress.IPv6Network(f"fd71:{number}::/64")))


@dataclass
class Town:
    """`web` is at host 2, and has kept its address of host 1; `evil` is its neighbour, `local` is at host 1."""

    wan: Place
    one: HostPlace
    two: HostPlace
    client: Place
    web: GuestPlace
    evil: GuestPlace
    local: GuestPlace
    sides: dict[str, SshHostSide] = field(default_factory=dict)

    def side(self, host: HostPlace) -> SshHostSide:
        return self.sides[host.name]


def nodad(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []


@contextmanager
def town(name: str, guard: bool = True, firewall: bool = True) -> Iterator[Town]:
    """Several may be there at once, of several test runs."""
    with ExitStack() as stack:

        def place(node: str) -> str:
            return stack.enter_context(_namespace(f"{name}{os.getpid()}-{node}"))

        wan, client = Place(place("wan")), Place(place("client"))
        one, two = (_host(stack, place(f"h{number}"), number) for number in (1, 2))
        one.peer, two.peer = two.uplink, one.uplink
        for number, each in ((1, one), (2, two), (3, client)):
            _link(wan, each, number)
        for host in (one, two):
            _make_host(wan, host)
        web = _guest(place("web"), two, 1)
        evil, local = _guest(place("evil"), two, 2), _guest(place("local"), one, 3)
        found = Town(wan, one, two, client, web, evil, local)
        for host in (one, two):
            host.write_files()
            if firewall:
                _load_firewall(host)
            if guard:
                stack.enter_context(_guarded(host))
            pipe = Pipe(host.python("vmacro.host", "--libvirt", "test:///default"))
            stack.callback(pipe.close)
            pipe.wait_until_it_answers()
            found.sides[host.name] = SshHostSide(host.noun, Session(host.noun.name, pipe))
        yield found


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    namespaces.remove_all([name])
    namespaces.create(name)
    with namespaces.inside(name):
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
        for scope in ("all", "default"):
            Path(f"/proc/sys/net/ipv4/conf/{scope}/rp_filter").write_text("2")
    try:
        yield name
    finally:
        for pid in namespaces.processes_inside([name]):
            process.end(pid)
        namespaces.remove_all([name])


def _host(stack: ExitStack, name: str, number: int) -> HostPlace:
    command = ["ip", "netns", "exec", name, "unshare", "--mount", "--propagation", "private", "sh", "-c", _PRIVATE]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    stack.callback(holder.wait)
    stack.callback(holder.terminate)
    return HostPlace(name, number, holder)


def _link(wan: Place, node: Place, number: int) -> None:
    base = f"10.71.9.{4 * number}".rpartition(".")
    near, far = (f"{base[0]}.{int(base[2]) + n}" for n in (1, 2))
    wan.ip("link", "add", f"to{number}", "type", "veth", "peer", "name", "uplink", "netns", node.name)
    for place, device, address, address6 in (
        (wan, f"to{number}", near, f"fd71:9:{number}::1"),
        (node, "uplink", far, f"fd71:9:{number}::2"),
    ):
        place.ip("addr", "add", f"{address}/30", "dev", device)
        place.ip("addr", "add", f"{address6}/64", "dev", device, "nodad")
        place.ip("link", "set", "dev", device, "up")
    node.ip("route", "add", "default", "via", near)
    node.ip("-6", "route", "add", "default", "via", f"fd71:9:{number}::1")


def _make_host(wan: Place, host: HostPlace) -> None:
    n = host.number
    host.ip(
        "link", "add", "name", BRIDGE, "address", GATEWAY_MAC, "type", "bridge", "stp_state", "0", "mcast_snooping", "0"
    )
    host.ip("addr", "add", f"10.71.{n}.1/24", "dev", BRIDGE)
    host.ip("addr", "add", f"fd71:{n}::1/64", "dev", BRIDGE, "nodad")
    host.ip("link", "set", "dev", BRIDGE, "up")
    wan.ip("route", "add", f"10.71.{n}.0/24", "via", host.uplink)
    wan.ip("-6", "route", "add", f"fd71:{n}::/64", "via", f"fd71:9:{n}::2")


def _guest(name: str, host: HostPlace, number: int) -> GuestPlace:
    mac, tap = f"52:54:00:00:00:{number:02x}", f"vnet{number}"
    guest = GuestPlace(name, mac, tap, host)
    host.ip("link", "add", tap, "type", "veth", "peer", "name", "eth0", "netns", name)
    host.ip("link", "set", "dev", tap, "master", BRIDGE, "up")
    guest.ip("link", "set", "dev", "eth0", "address", mac, "up")
    host.cards[tap], host.leases[guest_address(host, number)] = mac, mac
    guest.holds(guest_address(host, number), guest.slaac(host.number))
    guest.ip("route", "add", "default", "via", host.gateway)
    guest.ip("-6", "route", "add", "default", "via", f"fd71:{host.number}::1")
    return guest


def guest_address(host: HostPlace, number: int) -> str:
    return f"10.71.{host.number}.{50 + number}"


def own(guest: GuestPlace) -> str:
    return guest_address(guest.host, int(guest.mac[-2:], 16))


def own6(guest: GuestPlace) -> str:
    return guest.slaac(guest.host.number)


def client(town: Town, version: int) -> str:
    return "10.71.9.14" if version == 4 else "fd71:9:3::2"


def _load_firewall(host: HostPlace) -> None:
    """As the role hypervisor does."""
    n = host.number
    network = role.NETWORK | {"gateway": host.gateway, "subnet": f"10.71.{n}.0/24", "subnet6": f"fd71:{n}::/64"}
    peers = [{"address": address, "plain_tunnel": True} for address in (host.peer, f"fd71:9:{3 - n}::2")]
    given = {
        "vmacro_network": network,
        "vmacro_peers": peers,
        "vmacro_operators": OPERATOR,
        "vmacro_plain_tunnel": True,
    }
    rules = role.rendered("firewall.nft.j2", **given)
    process.run(host.inner("nft", "-f", "-"), input=rules)


@contextmanager
def _guarded(host: HostPlace) -> Iterator[None]:
    guard = subprocess.Popen(host.python("vmacro.host.guard_main", BRIDGE))
    try:
        eventually(lambda: bool(host.rules("bridge", guests.TABLE)), "the guard's rules", within_s=START_S)
        yield
    finally:
        guard.terminate()
        guard.wait()
