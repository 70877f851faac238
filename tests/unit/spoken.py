"""The world in memory, spoken to as the real one is: agents by their channel's lines, host sides by their session's,
libvirt by its calls and XML, each through its real driver. `lie` gets what a party is about to say, and returns what it
says instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from tests.unit.spoken_libvirt import Libvirt
from vmacro.drivers.agent import ChannelAgent
from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.host_side import Session, SshHostSide
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.errors import AgentError, HostError, UnreachableError
from vmacro.model.facts import AgentFacts, DiskCopy, Leg
from vmacro.model.nouns import Host
from vmacro.ports import Agent, World
from vmacro.wire import agent_verbs, fields, host_verbs, messages

READ_OF_LIBVIRT = ("facts", "domain", "definition", "fit", "network", "networks", "pools", "statistics")


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
        if verb == "watch":
            watched = agent.watch()
            return agent_verbs.Connections(watched.connections, len(watched.connections), watched.name)
        if verb == "page":
            every = agent.all_connections()
            return agent_verbs.Page(every[args.at : args.at + agent_verbs.MAX_CONNECTIONS], len(every), "page-1")
        if verb == "count":
            return agent.count(args)
        if verb == "endings":
            return agent.endings()
        if verb == "arrive":
            return agent.arrive(args.left)
        if verb == "retire":
            return agent_verbs.Retired(agent.retire(args.address, args.force), 0)
        if verb == "drop":
            return agent_verbs.Dropped(agent.drop_page_cache())
        return self._without_result(verb, args)

    def _without_result(self, verb: str, args: Any) -> messages.Nothing:
        agent = self._agent
        if verb == "release":
            agent.release(args.move)
        elif verb == "publish":
            agent.publish(args.address, args.public)
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
        interface=facts.interface,
        mac=facts.mac,
        lease=agent_verbs.Lease(leased, 24, facts.gateway, facts.gateway, 3600) if leased else None,
        address6=facts.address6,
        extra_addresses=facts.extra_addresses,
        verbs=facts.verbs,
        claim=facts.claim,
        rp_filter=facts.rp_filter,
        endpoints=facts.endpoints,
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
            return self._network.facts(args.bridge, args.peer, args.probe, args.mac, args.devices)
        if verb == "open":
            return self._network.open(self._leg(args.end, args.subnet))
        if verb == "turned":
            return host_verbs.Turned(self._network.turned(args.domain))
        if verb == "leaving":
            return host_verbs.Departure(self._network.leaving(args.domain).value)
        if verb == "flows":
            return self._network.flows(args.addresses)
        if verb == "taken":
            return self._network.taken(args)
        if verb == "reach":
            return host_verbs.HeardOf(self._network.reach(args))
        if verb.startswith("disk-"):
            return self._of_disk(verb, args)
        return self._without_result(verb, args)

    def _without_result(self, verb: str, args: Any) -> messages.Nothing:
        if verb == "join":
            self._network.join(self._known(args), args.far)
        elif verb == "point":
            self._network.point(self._known(args), args.to == host_verbs.GUEST)
        elif verb == "turn":
            self._network.turn(args.domain, args.to == host_verbs.GUEST)
        elif verb == "close":
            self._network.close(args.move, args.address)
        elif verb == "widen":
            self._network.widen(args.move, args.address)
        elif verb == "narrow":
            self._network.narrow(args.move)
        else:
            self._network.arm(args.domain)
        return messages.Nothing()

    def _of_disk(self, verb: str, args: Any) -> Any:
        if verb == "disk-files":
            return host_verbs.Files(self._disks.files(args.paths))
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
        connections = cast(Connections, Libvirt(self._plain, lambda call, what: lie(Said("libvirt", call, what))))
        self._driver = QemuHypervisor(host, connections)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._driver if verb in READ_OF_LIBVIRT else self._plain, verb)


def _line(request_id: str, said: Any) -> bytes:
    """A reply, whatever its result is; bytes are said as they are."""
    if isinstance(said, bytes):
        return said
    message = {"v": messages.VERSION, "id": request_id, "ok": True, "result": said}
    return json.dumps(message).encode() + b"\n"


def opened(fake: FakeWorld, lie: Lie) -> Callable[[Host, str], AbstractContextManager[Agent]]:
    """How its agents are opened."""
    return world(fake, lie).agent
