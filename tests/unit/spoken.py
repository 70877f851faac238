"""The world in memory, spoken to as the real one is: agents by their channel's lines, host sides by their session's,
libvirt by its calls and XML, each through its real driver. `lie` gets what a party is about to say, and returns what it
says instead."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import libvirt

from vmacro.drivers.agent import ChannelAgent
from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.host_side import Session, SshHostSide
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.errors import AgentError, HostError, UnreachableError
from vmacro.model.facts import AgentFacts, DiskCopy, DomainFacts, Leg, NetworkFacts, Pool
from vmacro.model.nouns import Host
from vmacro.ports import Agent, World
from vmacro.wire import agent_verbs, fields, host_verbs, messages
from vmacro.wire.names import AGENT_CHANNEL

READ_OF_LIBVIRT = ("facts", "domain", "network", "pools", "statistics")


@dataclass(frozen=True)
class Said:
    """What is about to be said: by whom (`agent`, `host side` or `libvirt`), in answer to what, and what: a reply's
    result, XML, or what a call of libvirt gives."""

    party: str
    verb: str
    what: Any


Lie = Callable[[Said], Any]


def world(fake: FakeWorld, lie: Lie = lambda said: said.what) -> World:
    """The fake's, through the real drivers."""
    plain = fake.world

    @contextmanager
    def agent(host: Host, domain: str) -> Iterator[Agent]:
        with plain.agent(host, domain) as found:
            yield ChannelAgent(domain, _Channel(found, lie))

    def side(host: Host) -> SshHostSide:
        answers = _HostSide(fake, host, lie)
        return SshHostSide(host, Session(host.name, answers))

    def hypervisor(host: Host) -> Any:
        return _Hypervisor(fake, host, lie)

    return replace(plain, agent=agent, host_network=side, host_disks=side, hypervisor=hypervisor)


class _Channel:
    """Implements ports.AgentStream: an agent that answers at once, or never."""

    def __init__(self, agent: Agent, lie: Lie) -> None:
        self._agent, self._lie = agent, lie
        self._answer = b""

    def send(self, data: bytes, deadline_s: float) -> None:
        request = messages.decode_request(data.strip())
        args = agent_verbs.VERBS[request.verb].decode_args(request)
        try:
            result = fields.encode(self._carry_out(request.verb, args))
        except AgentError as error:
            self._answer = b""
            if error.code != "silent":
                reply = messages.Reply(request.id, {}, error.code, error.message)
                self._answer = messages.encode_reply(reply)
            return
        self._answer = _line(request.id, self._lie(Said("agent", request.verb, result)))

    def recv(self, deadline_s: float) -> bytes:
        answer, self._answer = self._answer, b""
        if not answer:
            raise TimeoutError
        return answer

    def _carry_out(self, verb: str, args: Any) -> Any:
        agent = self._agent
        if verb == "status":
            return _status(agent.status())
        if verb == "claim":
            agent.claim(args.move, args.by, args.seconds)
            return agent_verbs.Claim(args.move, args.by, 0.0)
        if verb in ("connections", "consent"):
            found = agent.consent(args.timeout_ms) if verb == "consent" else agent.connections()
            return agent_verbs.Connections(found, len(found))
        if verb == "arrive":
            return agent.arrive(args.left)
        if verb == "retire":
            return agent_verbs.Retired(agent.retire(args.address, args.force), 0)
        if verb == "release":
            agent.release(args.move)
        else:
            agent.prepare(args.address, args.address6)
        return messages.Nothing()


def _status(facts: AgentFacts) -> agent_verbs.Status:
    leased = facts.address
    return agent_verbs.Status(
        agent=facts.version,
        boot_id=facts.boot_id,
        kernel=facts.kernel,
        hostname=facts.hostname,
        uptime_s=facts.uptime_s,
        interface="eth0",
        mac=facts.mac,
        lease=agent_verbs.Lease(leased, 24, facts.gateway, facts.gateway, 3600) if leased else None,
        address6=facts.address6,
        extra_addresses=facts.extra_addresses,
        verbs=facts.verbs,
        claim=facts.claim,
        rp_filter=facts.rp_filter,
    )


class _HostSide:
    """Implements host_side.Program."""

    alive = True

    def __init__(self, fake: FakeWorld, host: Host, lie: Lie) -> None:
        self._fake, self._host, self._lie = fake, host, lie
        self._network, self._disks = fake.world.host_network(host), fake.world.host_disks(host)
        self._answer = b""

    def send(self, data: bytes, timeout_s: float) -> int:
        request = messages.decode_request(data.strip())
        args = host_verbs.VERBS[request.verb].decode_args(request)
        try:
            result = fields.encode(self._carry_out(request.verb, args))
            self._answer = _line(request.id, self._lie(Said("host side", request.verb, result)))
        except UnreachableError as error:
            raise OSError(error.message) from error
        except HostError as error:
            self._answer = messages.encode_reply(messages.Reply(request.id, {}, "refused", error.message))
        return len(data)

    def receive(self, timeout_s: float) -> bytes:
        answer, self._answer = self._answer, b""
        if not answer:
            raise TimeoutError
        return answer

    def complaint(self) -> str:
        return ""

    def close(self) -> None:
        self.alive = False

    def _carry_out(self, verb: str, args: Any) -> Any:
        if verb == "facts":
            return self._network.facts(args.bridge, args.peer, args.probe)
        if verb == "open":
            return self._network.open(self._leg(args.end, args.subnet))
        if verb == "turned":
            return host_verbs.Turned(self._network.turned(args.domain))
        if verb == "leaving":
            return host_verbs.Departure(self._network.leaving(args.domain).value)
        if verb.startswith("disk-"):
            return self._of_disk(verb, args)
        if verb == "join":
            self._network.join(self._known(args), args.far)
        elif verb == "point":
            self._network.point(self._known(args), args.to == host_verbs.GUEST)
        elif verb == "turn":
            self._network.turn(args.domain, args.to == host_verbs.GUEST)
        elif verb == "close":
            self._network.close(args.move, args.address)
        else:
            self._network.arm(args.domain)
        return messages.Nothing()

    def _of_disk(self, verb: str, args: Any) -> Any:
        disks, disk = self._disks, _disk(getattr(args, "disk", args))
        if verb == "disk-look":
            return disks.look(disk)
        if verb == "disk-fetched":
            return disks.fetched(disk)
        if verb == "disk-serve":
            reader = next(h for h in self._fake.inventory.hosts if h.name == args.reader)
            return host_verbs.Served(disks.serve(disk, reader))
        if verb == "disk-fetch":
            source = next(h for h in self._fake.inventory.hosts if h.address == args.address)
            disks.fetch(disk, source, args.port, args.bytes_s)
        elif verb == "disk-stop":
            disks.stop(disk, args.drop_overlay)
        elif verb == "disk-remove":
            disks.remove(disk)
        else:
            disks.create_overlay(disk)
        return messages.Nothing()

    def _leg(self, end: host_verbs.End, subnet: str) -> Leg:
        other = next(h for h in self._fake.inventory.hosts if h.address == end.peer)
        home, away = (self._host, other) if end.side == host_verbs.HOME else (other, self._host)
        return Leg(end.move, end.domain, end.mac, end.address, end.kind, home, away, end.bridge, end.bridge, subnet)

    def _known(self, args: Any) -> Leg:
        """As far as the fake asks."""
        found = self._fake.hosts[self._host.name].legs.get((args.move, args.address))
        domain = found.domain if found is not None else ""
        return Leg(args.move, domain, "", args.address, "vxlan", self._host, self._host, "", "")


def _disk(disk: host_verbs.Disk) -> DiskCopy:
    return DiskCopy(disk.id, "vda", disk.base, disk.format)


class _Hypervisor:
    """Implements ports.Hypervisor: what is read of libvirt comes through its driver, the rest is the fake's."""

    def __init__(self, fake: FakeWorld, host: Host, lie: Lie) -> None:
        self._plain = fake.world.hypervisor(host)
        connections = cast(Connections, _Libvirt(self._plain, lie))
        self._driver = QemuHypervisor(host, connections)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._driver if verb in READ_OF_LIBVIRT else self._plain, verb)


class _Libvirt:
    """Implements connection.Connections and virConnect, as far as the driver reads them."""

    def __init__(self, plain: Any, lie: Lie) -> None:
        self._plain, self._lie = plain, lie

    def get(self, _host: Host) -> _Libvirt:
        return self

    def certificate_days_left(self, _host: Host) -> None:
        return None

    def getMemoryStats(self, _cells: int) -> Any:  # noqa: N802 libvirt's names
        return self._says("getMemoryStats", {"free": self._plain.facts().free_memory_mib << 10})

    def getCapabilities(self) -> Any:  # noqa: N802
        machines = "".join(f"<machine canonical='{m}'>{m}</machine>" for m in self._plain.facts().machine_types)
        live = "<migration_features><live/></migration_features>"
        return self._says(
            "getCapabilities",
            f"<capabilities><host>{live}</host><guest><arch name='x'>{machines}</arch></guest></capabilities>",
        )

    def getHostname(self) -> Any:  # noqa: N802
        return self._says("getHostname", self._plain.facts().hostname)

    def getType(self) -> Any:  # noqa: N802
        return self._says("getType", self._plain.facts().hypervisor)

    def getVersion(self) -> Any:  # noqa: N802
        return self._says("getVersion", _number(self._plain.facts().hypervisor_version))

    def getLibVersion(self) -> Any:  # noqa: N802
        return self._says("getLibVersion", _number(self._plain.facts().libvirt_version))

    def lookupByName(self, name: str) -> Any:  # noqa: N802
        found = self._plain.domain(name)
        if found is None:
            raise _error(libvirt.VIR_ERR_NO_DOMAIN)
        return SimpleNamespace(
            name=lambda: name,
            state=lambda: (_state(found.state), 1),
            XMLDesc=lambda: self._says("virDomainGetXMLDesc", _domain_xml(found)),
            UUIDString=lambda: found.uuid,
            isPersistent=lambda: found.persistent,
            jobStats=lambda flags=0: self._says("virDomainGetJobStats", self._job(found, flags)),
        )

    def _job(self, found: DomainFacts, flags: int) -> dict[str, int]:
        if not flags:
            leaves = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT if found.migrating else 0
            return {"operation": leaves, "type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED if found.migrating else 0}
        known = self._plain.statistics(found.name)
        if known is None:
            return {}
        figures = {"downtime": known.downtime_ms, "time_elapsed": known.elapsed_ms}
        return figures | {"memory_processed": known.bytes_transferred, "memory_iteration": known.iterations}

    def networkLookupByName(self, name: str) -> Any:  # noqa: N802
        found = self._plain.network(name)
        if found is None:
            raise _error(libvirt.VIR_ERR_NO_NETWORK)
        leases = [{"ipaddr": a, "mac": m, "iface": "x"} for a, m in found.taken if (a, m) not in found.reserved]
        return SimpleNamespace(
            isActive=lambda: found.active,
            DHCPLeases=lambda: self._says("virNetworkGetDHCPLeases", leases),
            XMLDesc=lambda: self._says("virNetworkGetXMLDesc", _network_xml(found)),
        )

    def listAllStoragePools(self, _flags: int) -> Any:  # noqa: N802
        def pool(found: Pool) -> Any:
            return SimpleNamespace(
                XMLDesc=lambda: self._says("virStoragePoolGetXMLDesc", _pool_xml(found)),
                info=lambda: self._says("virStoragePoolGetInfo", [2, 0, 0, found.available_bytes]),
            )

        return [pool(found) for found in self._plain.pools()]

    def _says(self, call: str, what: Any) -> Any:
        return self._lie(Said("libvirt", call, what))


def _line(request_id: str, said: Any) -> bytes:
    """A reply, whatever its result is; bytes are said as they are."""
    if isinstance(said, bytes):
        return said
    message = {"v": messages.VERSION, "id": request_id, "ok": True, "result": said}
    return json.dumps(message).encode() + b"\n"


def _number(version: tuple[int, int, int]) -> int:
    return version[0] * 1_000_000 + version[1] * 1000 + version[2]


def _state(word: str) -> int:
    words = {"running": libvirt.VIR_DOMAIN_RUNNING, "paused": libvirt.VIR_DOMAIN_PAUSED}
    return int(words.get(word, libvirt.VIR_DOMAIN_SHUTOFF))


def _error(code: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("not there")
    error.err = (code, 0, "not there", 0, "", "", "", 0, 0)
    return error


def _element(parent: ElementTree.Element | None, tag: str, text: str = "", **attributes: str) -> ElementTree.Element:
    made = ElementTree.Element(tag, attributes) if parent is None else ElementTree.SubElement(parent, tag, attributes)
    made.text = text
    return made


def _domain_xml(found: DomainFacts) -> str:
    root = _element(None, "domain", type=found.accelerator)
    _element(root, "name", found.name)
    _element(root, "memory", str(found.memory_mib), unit="MiB")
    _element(_element(root, "os"), "type", "hvm", machine=found.machine)
    devices = _element(root, "devices")
    for disk in found.disks:
        drawn = _element(devices, "disk", type=disk.kind, device="disk")
        _element(drawn, "driver", name="qemu", type=disk.format)
        _element(drawn, "source", file=disk.source)
        _element(drawn, "target", dev=disk.target)
        if disk.backing:
            below = _element(drawn, "backingStore", type="file")
            _element(below, "format", type=disk.backing_format)
            _element(below, "source", file=disk.backing)
    card = _element(devices, "interface", type="network")
    _element(card, "mac", address=found.mac)
    _element(card, "source", network=found.network)
    if found.has_agent_channel:
        _element(_element(devices, "channel", type="unix"), "target", type="virtio", name=AGENT_CHANNEL)
    return ElementTree.tostring(root, encoding="unicode")


def _network_xml(found: NetworkFacts) -> str:
    root = _element(None, "network")
    _element(root, "name", found.name)
    _element(root, "forward", mode=found.forward)
    _element(root, "bridge", name=found.bridge, stp="on" if found.stp else "off", delay=str(found.forward_delay_s))
    ip = _element(root, "ip", address=found.gateway, prefix=found.subnet.rpartition("/")[2])
    if found.dhcp_range is not None:
        dhcp = _element(ip, "dhcp")
        _element(dhcp, "range", start=found.dhcp_range[0], end=found.dhcp_range[1])
        for address, mac in found.reserved:
            _element(dhcp, "host", mac=mac, ip=address)
    if found.subnet6:
        gateway, _, prefix = found.subnet6.partition("/")
        _element(root, "ip", family="ipv6", address=f"{gateway}1", prefix=prefix)
    return ElementTree.tostring(root, encoding="unicode")


def _pool_xml(found: Pool) -> str:
    root = _element(None, "pool", type=found.kind)
    _element(root, "name", found.name)
    _element(_element(root, "target"), "path", found.path)
    return ElementTree.tostring(root, encoding="unicode")


def opened(fake: FakeWorld, lie: Lie) -> Callable[[Host, str], AbstractContextManager[Agent]]:
    """How its agents are opened."""
    return world(fake, lie).agent
