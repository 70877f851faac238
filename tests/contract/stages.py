"""Where contracts are tried: the world in memory, or the hosts of a lab. Both have guest `web` and a domain of no use.

The scratch domain has no operating system, a card and a disk of its own: what hosts do with domains can be seen on it,
and nobody minds.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from tests.support import clients, on_host, other_site, site_of, virsh
from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.fake import FakeWorld, card, connection, domain
from vmacro.drivers.hooks import Executables
from vmacro.drivers.host_side import HostSides
from vmacro.drivers.libvirt.channel import VirtioChannels
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.hypervisors import hypervisor
from vmacro.drivers.no_names import NoNames
from vmacro.drivers.ssh import Ssh
from vmacro.drivers.system import SystemClock
from vmacro.lab import namespaces
from vmacro.lab.lab import Lab
from vmacro.model.facts import Connection, Disk, DiskCopy, Reservation
from vmacro.model.filters import LIVE, Filter
from vmacro.model.nouns import Host, Inventory
from vmacro.ports import World
from vmacro.wire import fields
from vmacro.wire.agent_verbs import CLOSED

SCRATCH = "scratch"
SCRATCH_NUMBER = 0x5C
FIRST_MAC = "52:54:00:ab:cd:5b"  # of a card that the scratch domain has before its own
OWN_FILTER = "contract-pins"
POOL = "/var/lib/libvirt/contract"
_XML = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os><devices>
<interface type='network'><source network='front'/><mac address='{first}'/></interface>
<interface type='network'><source network='front'/><mac address='{mac}'/><model type='virtio'/></interface>
<disk type='file'><driver name='qemu' type='raw'/><source file='{path}'/><target dev='vda' bus='virtio'/></disk>
</devices></domain>"""


FilterOf = tuple[str, tuple[str, ...]]


class Backstage(Protocol):
    """What happens to hosts and guests behind the ports."""

    def start_scratch(self) -> None:
        """At `here`, running."""

    def stop_scratch(self) -> None:
        """And nothing is left of it at either host."""

    def shut_scratch_off(self) -> None:
        """Its definition stays at `here`."""

    def set_running(self, running: bool) -> None: ...

    def put_up_filters(self, first: FilterOf, own: FilterOf) -> None:
        """Each of the scratch domain's cards gets a network filter, by name, and the addresses that are written there;
        OWN_FILTER is one that refers to no-ip-spoofing. It is shut off then."""

    def put_file(self, host: Host, path: str) -> None: ...

    def plain_client(self, address: str) -> AbstractContextManager[None]:
        """A plain TCP connection of somebody with the guest `web`."""

    def deaf_client(self, address: str) -> AbstractContextManager[None]:
        """An MPTCP connection of somebody with the guest `web`, who joins no announced address."""

    def pin(self, card: str, address: str, name: str) -> None:
        """An operator's DHCP reservation at `here`, with the card as it is written."""


@dataclass(frozen=True)
class Stage:
    """A world in which the domain `web` runs on `here`. `disk` is the scratch domain's; `another` is the world of
    another orchestrator, with connections of its own."""

    world: World
    here: Host
    there: Host
    dead: Host
    bandwidth_mib_s: int
    backstage: Backstage
    disk: DiskCopy
    another: Callable[[], AbstractContextManager[World]]


class FakeBackstage:
    def __init__(self, fake: FakeWorld, disk: DiskCopy) -> None:
        self._fake, self._disk = fake, disk

    def start_scratch(self) -> None:
        here = self._fake.hosts["bucharest"]
        disk = Disk("vda", self._disk.base, True, False, "file", "raw")
        found = domain("qemu", SCRATCH, SCRATCH_NUMBER)
        cards = (card(FIRST_MAC), *found.cards)
        here.domains[SCRATCH] = replace(found, cards=cards, disks=(disk,), has_agent_channel=False)
        here.disks.bases[self._disk.base] = ""

    def stop_scratch(self) -> None:
        self._fake.hosts["bucharest"].domains.pop(SCRATCH, None)

    def shut_scratch_off(self) -> None:
        domains = self._fake.hosts["bucharest"].domains
        domains[SCRATCH] = replace(domains[SCRATCH], state="shut off")

    def set_running(self, running: bool) -> None:
        self._fake.set_running("bucharest", SCRATCH, running)

    def put_up_filters(self, first: FilterOf, own: FilterOf) -> None:
        self.shut_scratch_off()
        pairs = ((FIRST_MAC, first), (mac(), own))
        self._fake.filters[SCRATCH] = tuple(Filter(m, name, LIVE, (4,), allowed) for m, (name, allowed) in pairs)

    def put_file(self, host: Host, path: str) -> None:
        self._fake.hosts[host.name].disks.bases[path] = ""

    def plain_client(self, address: str) -> AbstractContextManager[None]:
        return self._client(connection(0, address, willing=False))

    def deaf_client(self, address: str) -> AbstractContextManager[None]:
        return self._client(connection(0xDEAF, address, willing=False))

    @contextmanager
    def _client(self, client: Connection) -> Iterator[None]:
        self._fake.guest.connections.append(client)
        yield
        if client in self._fake.guest.connections:
            self._fake.guest.end(client, CLOSED)

    def pin(self, card: str, address: str, name: str) -> None:
        here = self._fake.inventory.hosts[0]
        entry = fields.decode(Reservation, {"address": address, "mac": card, "name": name})
        self._fake.world.hypervisor(here).reserve(here.network, entry)


class LabBackstage:
    """By the hosts' own virsh, hence independent of our drivers."""

    def __init__(self, lab: Lab, here: str, there: str, disk: DiskCopy) -> None:
        self._lab, self._here, self._there, self._disk = lab, here, there, disk

    def start_scratch(self) -> None:
        for host in (self._here, self._there):
            script = f"mkdir -p {POOL} && virsh -q pool-create-as contract dir --target {POOL} >&2"
            on_host(self._lab, host, "sh", "-c", script)
        self._put_file(self._here, self._disk.base)
        xml = _XML.format(name=SCRATCH, path=self._disk.base, mac=mac(), first=FIRST_MAC.upper())
        on_host(self._lab, self._here, "sh", "-c", f'echo "{xml}" > {POOL}/xml && virsh -q create {POOL}/xml >&2')

    def stop_scratch(self) -> None:
        away = f"virsh -q destroy {SCRATCH}; virsh -q undefine {SCRATCH}; virsh -q nwfilter-undefine {OWN_FILTER}; true"
        on_host(self._lab, self._here, "sh", "-c", away)
        for host in (self._here, self._there):
            on_host(self._lab, host, "sh", "-c", f"virsh -q pool-destroy contract; rm -rf {POOL}")

    def shut_scratch_off(self) -> None:
        define = f"virsh dumpxml --inactive {SCRATCH} > {POOL}/xml && virsh -q define {POOL}/xml"
        on_host(self._lab, self._here, "sh", "-c", f"{define} >&2 && virsh -q destroy {SCRATCH} >&2")

    def set_running(self, running: bool) -> None:
        virsh(self._lab, self._here, "resume" if running else "suspend", SCRATCH)

    def put_up_filters(self, first: FilterOf, own: FilterOf) -> None:
        """Of a domain that is shut off they are only read."""
        made = f"<filter name='{OWN_FILTER}' chain='root'><filterref filter='no-ip-spoofing'/></filter>"
        self._told("nwfilter-define", made)
        root = ElementTree.fromstring(virsh(self._lab, self._here, "dumpxml", "--inactive", SCRATCH))
        for each, (name, allowed) in zip(root.iterfind("./devices/interface"), (first, own), strict=True):
            reference = ElementTree.SubElement(each, "filterref", filter=name)
            for address in allowed:
                ElementTree.SubElement(reference, "parameter", name="IP", value=address)
        self._told("define", ElementTree.tostring(root, encoding="unicode"))
        virsh(self._lab, self._here, "destroy", SCRATCH)

    def _told(self, verb: str, xml: str) -> None:
        """virsh, of a file."""
        on_host(
            self._lab, self._here, "sh", "-c", f"cat > {POOL}/xml <<'END'\n{xml}\nEND\nvirsh -q {verb} {POOL}/xml >&2"
        )

    def put_file(self, host: Host, path: str) -> None:
        self._put_file(host.name, path)

    def _put_file(self, host: str, path: str) -> None:
        on_host(self._lab, host, "sh", "-c", f"head -c 4M /dev/urandom > {path}")

    @contextmanager
    def plain_client(self, address: str) -> Iterator[None]:
        """Of an address that DHCP keeps for the guest meanwhile: from another one the host's guard lets nothing out."""
        card = virsh(self._lab, self._here, "domiflist", "web").split()[-1]
        kept = f"<host mac='{card}' ip='{address}'/>"
        virsh(self._lab, self._here, "net-update", "front", "add", "ip-dhcp-host", kept, "--live")
        try:
            with clients(self._lab, "client", address, "tcp-idle"):
                yield
        finally:
            virsh(self._lab, self._here, "net-update", "front", "delete", "ip-dhcp-host", kept, "--live")

    @contextmanager
    def deaf_client(self, address: str) -> Iterator[None]:
        with clients(self._lab, "deaf", address, "idle"):
            yield

    def pin(self, card: str, address: str, name: str) -> None:
        entry = f"<host mac='{card}' name='{name}' ip='{address}'/>"
        virsh(self._lab, self._here, "net-update", "front", "add", "ip-dhcp-host", entry, "--live", "--config")


@contextmanager
def in_memory() -> Iterator[Stage]:
    fake = FakeWorld()
    here, there = fake.inventory.hosts
    fake.hosts["dead"] = replace(fake.hosts["berlin"], domains={}, reachable=False)
    disk = DiskCopy("c0ntract", "vda", "/images/scratch.raw", "raw")
    dead, backstage = replace(there, name="dead"), FakeBackstage(fake, disk)
    yield Stage(fake.world, here, there, dead, 0, backstage, disk, lambda: nullcontext(fake.world))


@contextmanager
def in_lab(lab: Lab, known: Inventory) -> Iterator[Stage]:
    site = site_of(lab, "web")
    here, there = known.host(site), known.host(other_site(site))
    assert here is not None and there is not None
    connections = Connections(lab.folder / "operator")
    sides = HostSides(Ssh(lab.folder / "ssh/id_ed25519", lab.folder / "ssh/known_hosts"))
    disk = DiskCopy("c0ntract", "vda", f"{POOL}/scratch.raw", "raw")
    with namespaces.inside(lab.namespace("operator")):
        world = World(
            lambda host: hypervisor(host, connections),
            ChannelAgents(VirtioChannels(connections)).open,
            sides.get,
            sides.get,
            SystemClock(),
            lambda _event: None,
            known,
            names=NoNames(),
            hooks=Executables(),
        )
        dead = replace(there, name="dead", uri=there.uri.replace("/system", ":9/system"))
        try:
            backstage = LabBackstage(lab, here.name, there.name, disk)
            yield Stage(world, here, there, dead, 2, backstage, disk, lambda: _another(world, lab))
        finally:
            sides.close()
            connections.close()


@contextmanager
def _another(world: World, lab: Lab) -> Iterator[World]:
    """For a thread, which has entered no namespace yet."""
    connections = Connections(lab.folder / "operator")
    with namespaces.inside(lab.namespace("operator")):
        try:
            yield replace(world, hypervisor=lambda host: hypervisor(host, connections))
        finally:
            connections.close()


def mac() -> str:
    return f"52:54:00:00:00:{SCRATCH_NUMBER:02x}"
