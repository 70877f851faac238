"""A lab, whole: up, status, down. What it makes carries its name; down removes it and proves it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmacro import inventory
from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.ssh import Ssh
from vmacro.drivers.transports import Transports
from vmacro.errors import LabError, UnreachableError, without_subject
from vmacro.lab import (
    accelerator,
    cgroups,
    cloud,
    guests,
    images,
    inventories,
    namespaces,
    paths,
    preparation,
    process,
    requirements,
    seat,
    topology,
    wan,
)
from vmacro.lab.machines import GUEST_IMAGES, BaseLayers, Machine
from vmacro.lab.topology import OPERATOR, Topology
from vmacro.model.facts import AgentFacts
from vmacro.model.nouns import Host
from vmacro.provisioning import ansible_inventory
from vmacro.provisioning.runner import Options
from vmacro.rtt.wire import DEFAULT_PORT

# Several labs may boot at once, under emulation.
HOST_DEADLINE_S = 300.0
GUEST_DEADLINE_S = 600.0
STATUS_DEADLINE_S = 3.0
Report = Callable[[str], None]


@dataclass(frozen=True)
class GuestStatus:
    """Where a guest runs, and what its agent says; `site` and `host` are '' if it runs nowhere."""

    name: str
    site: str
    host: str
    agent: AgentFacts | None
    trouble: str = ""


@dataclass(frozen=True)
class Status:
    """What runs in a lab, and the round trips as measured. `delay_by`: what makes the delay; `hosts`: whether each
    runs."""

    delay_by: str
    accelerator: str
    measured: tuple[wan.Measured, ...]
    hosts: dict[str, bool]
    guests: tuple[GuestStatus, ...]


class Lab:
    """One lab by name. Everything of it lies under `folder` and in namespaces vmacro-NAME-*."""

    def __init__(self, shape: Topology) -> None:
        self.topology = shape
        self.folder = paths.lab_dir(shape.name)

    @classmethod
    def running(cls, name: str) -> Lab:
        """A lab that is up. Raises LabError."""
        saved = paths.lab_dir(name) / "topology.toml"
        if not saved.exists():
            up = ", ".join(paths.names()) or "none"
            raise LabError(f"lab {name}: is not up", f"labs that are: {up}; `vmacro lab up` starts one")
        return cls(topology.load(saved))

    @property
    def bare(self) -> bool:
        """Its operator provisions the hosts, by an inventory of their own."""
        return seat.is_there(self.folder)

    @property
    def inventory_file(self) -> Path:
        """The inventory of the lab; in a lab with bare hosts, the one that its operator writes."""
        return seat.inventory_file(self.folder)

    @property
    def credentials(self) -> Path:
        """The operator's certificate and key."""
        return seat.etc(self.folder) / "pki" if self.bare else self.folder / "operator"

    def host(self, name: str) -> Machine:
        """The machine of a host, or of a client that has one."""
        return preparation.machine(self.topology, name, self.folder)

    def namespace(self, node: str) -> str:
        """The network namespace of a node."""
        return self.topology.network_namespace(node)

    def up(self, source: Path, report: Report) -> None:
        """Idempotent: what runs already, stays. Raises LabError, ConfigurationError."""
        guest_images = self._prepare(source, report)
        chosen = self._chosen(guest_images, report)
        if self.bare and not self.inventory_file.exists():
            hint = f"vmacro lab shell operator --lab {self.topology.name}; there: vmacro init, and so on"
            raise LabError(f"lab {self.topology.name}: its hosts are bare", hint)
        if not self._hosts_are_up():
            binds = {f"{GUEST_IMAGES}/{n}": p for n, p in guest_images.items()}
            self._raise_hosts(preparation.base_layers(self.topology, report), binds, chosen, report)
        report(f"WAN: delay by {wan.start(self.topology, self.folder)}")
        with self._connected() as (connections, hosts):
            self._start_guests(connections, hosts, chosen, report)

    def up_bare(self, source: Path, report: Report) -> None:
        """Hosts that nobody has touched yet, and where their operator sits; guests come with `up`, later. Idempotent.
        Raises LabError, ConfigurationError."""
        guest_images = self._prepare(source, report)
        ansible_inventory.parts()  # the operator's network reaches no index
        kvm = self._chosen(guest_images, report) == accelerator.KVM
        report(f"WAN: delay by {wan.start(self.topology, self.folder)}")
        binds = {f"{GUEST_IMAGES}/{n}": p for n, p in guest_images.items()}
        preparation.boot(self.topology, self.folder, preparation.untouched(self.topology, report), binds, kvm)
        seat.create(self.folder)
        for name in self.topology.machines:
            report(f"host {name}: {self.host(name).address}, bare, lets us in by SSH")

    def _prepare(self, source: Path, report: Report) -> dict[str, Path]:
        """Returns the guests' images."""
        requirements.require(self.topology)
        guest_images = {n: images.build(n, report).folder for n in self._guest_images()}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remember(source)
        report("network: namespaces and links")
        namespaces.create_all(self.topology)
        return guest_images

    def _chosen(self, guest_images: dict[str, Path], report: Report) -> str:
        """What guests run under."""
        if self.topology.hypervisor == "xen":
            (self.folder / "accelerator").write_text(accelerator.XEN)
            report("guests run under Xen, and Xen under TCG")
            return accelerator.XEN
        image = images.build(self.topology.image(next(iter(self.topology.hosts))), report)
        layers = preparation.installed(image, report).layers
        chosen = accelerator.choose(layers, next(iter(guest_images.values())))
        (self.folder / "accelerator").write_text(chosen)
        report(f"guests run under {'KVM' if chosen == accelerator.KVM else 'TCG (no KVM that boots a stock kernel)'}")
        return chosen

    def _guest_images(self) -> list[str]:
        return sorted({self.topology.guest_image(g) for g in self.topology.guests}) or ["guest"]

    def _hosts_are_up(self) -> bool:
        ready = self.bare or (self.folder / "provisioned").exists()
        return ready and all(self.host(name).leader is not None for name in self.topology.machines)

    def _raise_hosts(self, layers: dict[str, BaseLayers], binds: dict[str, Path], chosen: str, report: Report) -> None:
        """Bare ones, provisioned over SSH; or as that has left them before, if nothing has changed since."""
        kvm, xen = chosen == accelerator.KVM, chosen == accelerator.XEN
        text = inventories.text(self.topology, self.folder, emulation=not kvm and not xen, xen=xen)
        kept = preparation.ready_hosts(self.topology, layers, text)
        if preparation.usable(kept):
            preparation.restore(self.folder, kept)
            preparation.boot(self.topology, self.folder, layers, binds, kvm, kept)
            report(f"hosts: as provisioned before ({kept.name})")
        else:
            first = self.topology.as_containers
            if xen:
                namespaces.renew(first)
            preparation.boot(first, self.folder, layers, binds, kvm)
            self.inventory_file.write_text(text)
            recap = preparation.provision(self.topology, self.folder, Options(), report)
            report(f"hosts: provisioned over SSH, {recap.total('changed')} changes")
            preparation.keep(first, self.folder, kept)
            images.forget_others(f"hosts-{self.topology.name}-", kept)
            if xen:
                preparation.stop(first, self.folder)
                namespaces.renew(self.topology)
                preparation.boot(self.topology, self.folder, layers, binds, kvm, kept)
        (self.folder / "provisioned").touch()

    def down(self) -> list[str]:
        """Remove everything; returns what is left all the same, which should be nothing."""
        names = namespaces.existing(self.topology.name)
        wan.stop(self.folder)
        for name in self.topology.machines:
            self.host(name).stop()
        for pid in namespaces.processes_inside(names):
            process.end(pid)
        left = [f"process {pid} in a namespace of the lab" for pid in namespaces.processes_inside(names)]
        namespaces.remove_all(names)
        shutil.rmtree(self.folder, ignore_errors=True)
        return left + leftovers(self.topology.name)

    def status(self) -> Status:
        """What runs now; measures round trips, which takes a moment."""
        hosts = {name: self.host(name).leader is not None for name in self.topology.machines}
        saved = self.folder / "accelerator"
        chosen = saved.read_text() if saved.exists() else "unknown"
        measured = wan.measure(self.topology) if all(hosts.values()) else []
        found = []
        if self.inventory_file.exists():
            with self._connected() as (connections, up):
                found = [self._guest_status(name, connections, up) for name in self.topology.guests]
        delay_by = wan.start(self.topology, self.folder)
        return Status(delay_by, chosen, tuple(measured), hosts, tuple(found))

    def guest(self, name: str) -> GuestStatus:
        """One guest's, without measuring anything."""
        with namespaces.inside(self.namespace(OPERATOR)), self._connected() as (connections, up):
            return self._guest_status(name, connections, up)

    def _start_guests(self, connections: Connections, hosts: dict[str, Host], chosen: str, report: Report) -> None:
        opened = {name: connections.get(host) for name, host in hosts.items()}
        for name, connection in opened.items():
            guests.wait_for_network(connection, name, HOST_DEADLINE_S)
            report(f"host {name}: up, libvirt answers over TLS")
        for name, guest in self.topology.guests.items():
            if guests.find(opened, name) is None:
                home = self.topology.home(name)
                if guest.own_disk:
                    image = images.image(guest.image).folder
                    cloud.create_disk(self.topology, name, self.host(home), image, self.folder)
                guests.start(opened[home], self.topology, name, chosen)
                report(f"guest {name}: booting at {home}")
        self._provision_guests(opened, report)
        for name, guest in self.topology.guests.items():
            place = guests.find(opened, name)
            if place is None:
                raise LabError(f"guest {name}: stopped while it booted", "see its console log on the host")
            if guest.agent and self.topology.hypervisor == "xen":  # each question costs dom0 seconds
                guests.wait_for_lease(opened[place], self.topology, name, GUEST_DEADLINE_S)
            if guest.agent:
                ready = self._ready(connections, hosts[place], name, GUEST_DEADLINE_S)
                up = f"{ready.agent.uptime_s:.0f} s after boot"
                report(f"guest {name}: {ready.agent.address} at {place}, agent ready {up}")
        for name in (n for n, g in self.topology.guests.items() if g.agent and not g.own_disk):
            self._wait_until_it_serves(name, connections, hosts)
            report(f"guest {name}: answers probes")

    def _provision_guests(self, opened: dict[str, Any], report: Report) -> None:
        """Those that people have, once, as `vmacro provision guests` does it."""
        addresses, marks = {}, self.folder / "guests"
        for name, guest in self.topology.guests.items():
            place = guests.find(opened, name)
            if guest.own_disk and place is not None and not (marks / name).exists():
                addresses[name] = cloud.wait_for_ssh(opened[place], self.topology, name, GUEST_DEADLINE_S)
                report(f"guest {name}: {addresses[name]} at {place}, lets us in by SSH")
        chosen = {name: address for name, address in addresses.items() if self.topology.guests[name].agent}
        if chosen:
            recap = preparation.provision_guests(self.topology, self.folder, chosen, report)
            report(f"guests: provisioned over SSH, {recap.total('changed')} changes")
        marks.mkdir(exist_ok=True)
        for name in addresses:
            (marks / name).touch()

    def _wait_until_it_serves(self, name: str, connections: Connections, hosts: dict[str, Host]) -> None:
        deadline = process.Deadline(GUEST_DEADLINE_S)
        while True:
            status = self._guest_status(name, connections, hosts)
            if status.agent is not None:
                self.wait_for_responder(status.agent.address)
                return
            if deadline.over:
                raise LabError(f"guest {name}: {without_subject(status.trouble, f'guest {name}')}")
            deadline.nap(0.2)

    def wait_for_responder(self, address: str) -> None:
        """Until the operator can reach it. Raises LabError."""
        deadline = process.Deadline(GUEST_DEADLINE_S)
        while True:
            try:
                with namespaces.inside(self.namespace(OPERATOR)):
                    socket.create_connection((address, DEFAULT_PORT), timeout=5).close()
                return
            except OSError as error:
                if deadline.over:
                    raise LabError(f"{address}: its RTT responder does not answer: {error}") from error
            deadline.nap(0.2)

    def _guest_status(self, name: str, connections: Connections, hosts: dict[str, Host]) -> GuestStatus:
        place = guests.find({n: connections.get(h) for n, h in hosts.items()}, name)
        if place is None:
            return GuestStatus(name, "", "", None, "runs nowhere")
        site = self.topology.hosts[place].site
        try:
            ready = self._ready(connections, hosts[place], name, timeout_s=STATUS_DEADLINE_S)
        except LabError as error:
            return GuestStatus(name, site, place, None, error.message)
        return GuestStatus(name, site, place, ready.agent)

    def _ready(self, connections: Connections, host: Host, name: str, timeout_s: float) -> guests.Ready:
        """Some agents are reached by libvirt, others by SSH, hence from the operator's place. Raises LabError."""
        settings = inventory.load(self.inventory_file).orchestrator
        agents = ChannelAgents(Transports(connections, Ssh(settings.ssh_key, settings.ssh_known_hosts)))
        with namespaces.inside(self.namespace(OPERATOR)):
            return guests.wait_until_ready(agents, host, name, timeout_s)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Connections, dict[str, Host]]]:
        """Connections from the operator's namespace to all hosts, waiting for those that boot; and the inventory's
        hosts by their node here, which an operator of bare ones calls as they like."""
        known = inventory.load(self.inventory_file).inventory
        connections = Connections(self.credentials)
        try:
            with namespaces.inside(self.namespace(OPERATOR)):
                for host in known.hosts:
                    self._wait_for(connections, host)
            yield connections, {self._node(h): h for h in known.hosts}
        finally:
            connections.close()

    def _node(self, host: Host) -> str:
        for node in self.topology.hosts:
            if str(self.topology.uplink(node).node.ip) == host.address:
                return node
        raise LabError(f"host {host.name}: its address {host.address} is none of lab {self.topology.name}")

    def _wait_for(self, connections: Connections, host: Host) -> None:
        deadline = process.Deadline(HOST_DEADLINE_S)
        while True:
            try:
                connections.get(host)
                return
            except UnreachableError as error:
                lab_host = self.host(self._node(host))
                if deadline.over or lab_host.leader is None:
                    hint = f"its console ends with: {lab_host.console()[-400:]}"
                    said = without_subject(error.message, f"host {host.name}")
                    raise LabError(f"host {host.name}: libvirt is not up: {said}", hint) from error
            deadline.nap(0.1)

    def _remember(self, source: Path) -> None:
        saved = self.folder / "topology.toml"
        text = source.read_text()
        if topology.load(source).hypervisor != self.topology.hypervisor:
            text = f'hypervisor = "{self.topology.hypervisor}"\n{text}'
        if saved.exists() and saved.read_text() != text:
            raise LabError(
                f"lab {self.topology.name}: is up with another topology",
                f"`vmacro lab down {self.topology.name}` first, or give this one another name",
            )
        saved.write_text(text)


def leftovers(name: str) -> list[str]:
    """What still exists of a lab: namespaces, mounts, cgroups, processes, files."""
    folder = paths.lab_dir(name)
    left = [f"namespace {n}" for n in namespaces.existing(name)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    left += [f"mount {m.split()[1]}" for m in mounts if str(folder) in m]
    left += [f"cgroup {path}" for path in cgroups.existing(name)]
    left += [f"process {pid}" for pid in _processes_naming(f"vmacro-{name}-")]
    return left + ([f"folder {folder}"] if folder.exists() else [])


def _processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found
