"""Every finding as an operator reads it: one world each that has it, and all of its words."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

import pytest

from tests.unit import test_fleet
from tests.unit.faults import Call, Faults
from vmacro.cli import reference
from vmacro.drivers.fake import QEMU, Effect, FakeHost, FakeWorld, card, connection, domain
from vmacro.drivers.fake.state import DEFINITION, KERNEL, mac_of
from vmacro.errors import HostError, UnsupportedError
from vmacro.fleet.placement import place
from vmacro.model import batches, marks
from vmacro.model.batches import Maintenance
from vmacro.model.definitions import (
    ADDRESS,
    CID,
    DEVICE,
    DIFFERS,
    FILE,
    FILTER,
    NETWORK,
    OF_THE_HOSTS_SIZE,
    PASSED_THROUGH,
    PORT,
    PORT_GROUP,
    SECRET,
    TAP,
    UNKNOWN,
    VOLUME,
    Device,
    Fit,
    Need,
    Pages,
    Stay,
)
from vmacro.model.facts import NO_PAST, Card, Claim, Disk, FileFacts, Flows, FoundLegEnd, Pool, Reservation
from vmacro.model.filters import LIVE, STORED, Filter
from vmacro.model.moves import Finding
from vmacro.model.nouns import Compression
from vmacro.planning import checks, closed, evacuation
from vmacro.planning.evacuation import Candidate
from vmacro.planning.handoffs import HANDOFFS, RENUMBER, SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import doctor, measured
from vmacro.wire import host_verbs
from vmacro.wire.taken_verbs import TCP, UDP, Port, Taken

Result = TypeVar("Result")
Breaking = Callable[[FakeWorld], None]
WORDS = Path(__file__).with_name("findings.txt")


def host(name: str, **change: object) -> Breaking:
    return lambda fake: _set(fake.hosts[name], change)


def facts(name: str, **change: object) -> Breaking:
    return lambda fake: _set(fake.hosts[name], {"facts": replace(fake.hosts[name].facts, **change)})  # type: ignore[arg-type]


def policy(**change: object) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        fake.inventory = replace(fake.inventory, policy=replace(fake.inventory.policy, **change))  # type: ignore[arg-type]

    return broken


def links(name: str, **change: object) -> Breaking:
    return lambda fake: _set(fake.hosts[name], {"links": replace(fake.hosts[name].links, **change)})  # type: ignore[arg-type]


def network(name: str, **change: object) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        networks = fake.hosts[name].networks
        networks["front"] = replace(networks["front"], **change)  # type: ignore[arg-type]

    return broken


def guest(**change: object) -> Breaking:
    return lambda fake: fake.guest.__dict__.update(change)


def web(**change: object) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        domains = fake.hosts["bucharest"].domains
        domains["web"] = replace(domains["web"], **change)  # type: ignore[arg-type]

    return broken


def also(name: str, **change: object) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        fake.hosts[name].domains["web"] = replace(domain(), **change)  # type: ignore[arg-type]

    return broken


def emptied(subject: str, is_site: bool) -> Breaking:
    mark = Maintenance(subject, is_site, "ada@desk", 0.0)
    return lambda fake: setattr(fake, "maintenance", (mark,))


def gone(fake: FakeWorld) -> None:
    fake.hosts["bucharest"].domains.clear()


def unknown_network(fake: FakeWorld) -> None:
    fake.hosts["berlin"].networks.clear()


def strangers(fake: FakeWorld) -> None:
    local = fake.guest.address
    fake.guest.connections = [connection(0xB2, local, False), connection(0, local, False)]


def strangers_of_a_pinned_guest(fake: FakeWorld) -> None:
    strangers(fake)
    pinned = Reservation(fake.guest.address, fake.guest.mac, "operators")
    network("bucharest", reserved=(pinned,))(fake)


def full_or_of_ipv6(fake: FakeWorld) -> None:
    """One client has joined as many addresses as it may; the other has no IPv4."""
    full, six = connection(0xB2, fake.guest.address, False), connection(0xB3, "fd50:1::97", False)
    further = replace(full.subflows[0], local="10.50.1.80", joined=True)
    fake.guest.connections = [
        replace(full, subflows=(*full.subflows, further)),
        replace(six, subflows=(replace(six.subflows[0], remote="fd09::14"),)),
    ]


def filtered(fake: FakeWorld) -> None:
    here, there = fake.inventory.sites
    fake.inventory = replace(fake.inventory, sites=(here, replace(there, anti_spoofing=True)))


def with_disk(*more: Breaking) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        fake.give_disk()
        for each in more:
            each(fake)

    return broken


def both(one: Breaking, other: Breaking) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        one(fake)
        other(fake)

    return broken


def writing(mib_s: float, **policy: object) -> Breaking:
    """So much in a second."""

    def broken(fake: FakeWorld) -> None:
        fake.hosts["bucharest"].dirtied["web"] = mib_s
        fake.inventory = replace(fake.inventory, policy=replace(fake.inventory.policy, **policy))  # type: ignore[arg-type]

    return broken


def _without_verb(fake: FakeWorld, verb: str) -> None:
    fake.guest.verbs = tuple(known for known in fake.guest.verbs if known != verb)


def taken_volume(fake: FakeWorld) -> None:
    fake.hosts["berlin"].disks.bases["/images/web.qcow2"] = ""


def mute_side(name: str) -> Breaking:
    """The host answers, and its own side does not."""

    def broken(fake: FakeWorld) -> None:
        def before(effect: Effect) -> None:
            if effect.host == name and effect.startswith(("link.", "disk.")):
                raise HostError(f"host {name}: no SSH", "is sshd up?")

        fake.before = before

    return broken


def unsupported(name: str) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        def before(effect: Effect) -> None:
            if effect == f"facts {name}":
                raise UnsupportedError(f"host {name}: runs ESX: this vmacro drives QEMU, Xen only", "take it out")

        fake.before = before

    return broken


def lesser(name: str, **lacks: bool) -> Breaking:
    return facts(name, capabilities=replace(QEMU, **lacks))


def at_berlin(fake: FakeWorld) -> None:
    here, there = fake.hosts["bucharest"], fake.hosts["berlin"]
    there.domains["web"] = here.domains.pop("web")
    fake.guest.address, there.leases[fake.guest.mac] = "10.50.2.97", "10.50.2.97"
    fake.guest.connections.clear()


def used_address(fake: FakeWorld) -> None:
    fake.hosts["berlin"].used["10.50.2.10"] = "52:54:00:99:99:99"


def held_address(fake: FakeWorld) -> None:
    network("berlin", dhcp_range=("10.50.2.10", "10.50.2.10"), dhcp_free=1)(fake)
    fake.guest.kept.append("10.50.2.10")


def many_leases(fake: FakeWorld) -> None:
    kept = [f"10.50.1.{n}" for n in range(100, 112)]
    network("bucharest", taken=tuple((address, fake.guest.mac) for address in (fake.guest.address, *kept)))(fake)
    fake.hosts["bucharest"].leases.clear()
    fake.guest.kept = kept


def with_cards(*cards: Card, elsewhere: Breaking = lambda _fake: None) -> Breaking:
    """Of the guest besides its own one, all of them before it; `elsewhere`: what the destination has."""

    def broken(fake: FakeWorld) -> None:
        web(cards=(*cards, card(fake.guest.mac)))(fake)
        elsewhere(fake)

    return broken


def storage_too(name: str) -> Breaking:
    """A host has a network of that name."""

    def broken(fake: FakeWorld) -> None:
        networks = fake.hosts[name].networks
        networks["storage"] = replace(networks["front"], name="storage", bridge="storage0")

    return broken


def renamed(fake: FakeWorld) -> None:
    """The destination's network for guests has another name, and one of the guest's network's name is there, too."""
    written("berlin", network="storage")(fake)
    storage_too("berlin")(fake)


def a_namesake(state: str) -> Breaking:
    """At the destination is another domain with a card of the guest's MAC."""

    def broken(fake: FakeWorld) -> None:
        twin = replace(domain(name="copy", number=9), state=state, cards=(card(fake.guest.mac),))
        fake.hosts["berlin"].domains["copy"] = twin

    return broken


def heard(fake: FakeWorld) -> None:
    fake.hosts["berlin"].heard[fake.guest.mac] = "eth1"


def answered_by_its_own_mac(fake: FakeWorld) -> None:
    fake.hosts["berlin"].used["10.50.2.10"] = fake.guest.mac


def reserved_alone(*macs: str) -> Breaking:
    entries = tuple(Reservation(f"10.50.2.{20 + n}", mac) for n, mac in enumerate(macs))
    taken = tuple((entry.address, entry.mac) for entry in entries)
    return network("berlin", dhcp_range=None, dhcp_free=0, reserved=entries, taken=taken)


def a_leg_of_nobodys(fake: FakeWorld) -> None:
    mac = fake.guest.mac
    end = FoundLegEnd("home", "vxlan", "web-0", "web", "10.50.1.97", mac, "front0", "10.9.0.2", "tunnel")
    fake.hosts["bucharest"].legs[("web-0", end.address)] = end


def written(name: str, **change: object) -> Breaking:
    """What the inventory says of a host."""

    def broken(fake: FakeWorld) -> None:
        sites = []
        for site in fake.inventory.sites:
            hosts = tuple(replace(h, **change) if h.name == name else h for h in site.hosts)  # type: ignore[arg-type]
            sites.append(replace(site, hosts=hosts))
        fake.inventory = replace(fake.inventory, sites=tuple(sites))

    return broken


def kept(name: str, *entries: Reservation) -> Breaking:
    """What DHCP keeps there."""
    taken = tuple((entry.address, entry.mac) for entry in entries)
    return network(name, reserved=entries, taken=taken)


MAC = mac_of(1)
STRANGER = "52:54:00:77:77:77"
WHY = "the kernel has none (EOPNOTSUPP)"


def no_wireguard(fake: FakeWorld) -> None:
    links("berlin", tunnels=("vxlan",), wireguard="", wireguard_why=f"{WHY}, and wireguard-go is not installed")(fake)


def said_of_hosts(fake: FakeWorld, names: tuple[str, ...], **change: bool) -> None:
    marked = (
        replace(s, hosts=tuple(replace(h, **change) if h.name in names else h for h in s.hosts))  # type: ignore[arg-type]
        for s in fake.inventory.sites
    )
    fake.inventory = replace(fake.inventory, sites=tuple(marked))


def plain(broken: Breaking, *names: str) -> Breaking:
    """The inventory says of these hosts that their legs may be."""

    def both(fake: FakeWorld) -> None:
        broken(fake)
        said_of_hosts(fake, names, plain_tunnel=True)

    return both


def unguarded(fake: FakeWorld) -> None:
    said_of_hosts(fake, ("berlin",), guard=True)
    links("berlin", guarded=False)(fake)


class Mute(Faults):
    """At the `at`-th call its party does not answer, nor afterwards where it is `for_ever`."""

    def __init__(self, at: int, for_ever: bool) -> None:
        super().__init__(at)
        self._for_ever, self._mute = for_ever, ""

    def around(self, call: Call, act: Callable[[], Result]) -> Result:
        number = len(self.calls)
        self.calls.append(call)
        if number == self.at:
            self._mute = call.subject
        if number == self.at or (self._for_ever and call.subject == self._mute):
            raise call.error()
        return act()


def _set(of: FakeHost, change: dict[str, object]) -> None:
    for name, value in change.items():
        setattr(of, name, value)


def named(*addresses: str, ttl_s: int = 30, **policy: float) -> Breaking:
    """The guest has a name, which leads there."""

    def broken(fake: FakeWorld) -> None:
        fake.zone.put("www.example.net", *addresses, ttl_s=ttl_s)
        guests = tuple(replace(guest, names=("www.example.net",)) for guest in fake.inventory.guests)
        changed = replace(fake.inventory.policy, linger_s=None, **policy)  # type: ignore[arg-type]
        fake.inventory = replace(fake.inventory, guests=guests, policy=changed)

    return broken


def zone(**change: object) -> Breaking:
    return lambda fake: fake.zone.__dict__.update(change)


HERE = "10.50.1.97"
OF_EARLIER_MOVES = tuple(f"10.50.3.{n}" for n in range(1, 8))


def datagrams(fake: FakeWorld) -> None:
    fake.flows["10.50.1.97"] = Flows("10.50.1.97", udp=2, icmp=1)


def clients_on_the_internet(number: int) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        ((first, flow),) = ((c, c.subflows[0]) for c in fake.guest.connections)
        remotes = (replace(flow, remote=f"8.8.4.{n}") for n in range(1, number + 1))
        fake.guest.connections = [replace(first, token=n, subflows=(flow,)) for n, flow in enumerate(remotes, 1)]

    return broken


def pinned(name: str, *allowed: str, where: str = LIVE, known: bool = True) -> Breaking:
    """A filter of the guest's card."""
    versions = (4,) if known else ()
    return lambda fake: fake.filters.update(web=(Filter(MAC, name, where, versions, allowed, known),))


def needing(*needs: Need, **more: object) -> Breaking:
    """What the guest's domain names on its host besides, and what else it is."""

    def broken(fake: FakeWorld) -> None:
        found = replace(DEFINITION, needs=(*DEFINITION.needs, *needs))
        fake.hosts["bucharest"].definitions["web"] = replace(found, **more)  # type: ignore[arg-type]
        there = (FileFacts(need.name, host_verbs.PLAIN, 7) for need in needs if need.kind == FILE)
        fake.hosts["bucharest"].files |= {file.path: file for file in there}

    return broken


def has(name: str, path: str, length: int = 7) -> Breaking:
    """A file of that length."""

    def broken(fake: FakeWorld) -> None:
        fake.hosts[name].files[path] = FileFacts(path, host_verbs.PLAIN, length)

    return broken


def fitting(**change: object) -> Breaking:
    """What berlin's libvirt says of the guest's domain."""
    return host("berlin", fit=Fit(**change))  # type: ignore[arg-type]


def asked_in_vain(verb: str, name: str) -> Breaking:
    def broken(fake: FakeWorld) -> None:
        def before(effect: Effect) -> None:
            if effect == f"{verb} {name}":
                raise HostError(f"host {name}: {verb} cannot be had")

        fake.before = before

    return broken


def named_so(domain_name: str) -> Breaking:
    """Of the guest's domain."""

    def broken(fake: FakeWorld) -> None:
        here = fake.hosts["bucharest"]
        here.domains[domain_name] = replace(here.domains.pop("web"), name=domain_name)
        fake.guests[domain_name] = fake.guests.pop("web")
        fake.guest.name = domain_name
        fake.inventory = replace(fake.inventory, guests=(replace(fake.inventory.guests[0], domain=domain_name),))

    return broken


def a_clone(fake: FakeWorld) -> None:
    """At the destination is another domain with the guest's UUID."""
    fake.hosts["berlin"].domains["clone"] = replace(domain(name="clone", number=9), uuid="uuid-1", state="shut off")


def with_a_chain(fake: FakeWorld) -> None:
    """Its disk builds on two files, of which one lies in no pool."""
    fake.give_disk()
    (disk,) = fake.hosts["bucharest"].domains["web"].disks
    web(disks=(replace(disk, backing="/images/golden.qcow2", backing_format="qcow2", chain=("/srv/first.raw",)),))(fake)
    golden = FileFacts("/images/golden.qcow2", host_verbs.PLAIN, 9, 1 << 40)
    fake.hosts["bucharest"].files[golden.path] = golden


CD = Need(FILE, "/isos/debian.iso", "cdrom sda", live=True, next=True, read=True)
NEXT_CD = Need(FILE, "/isos/debian.iso", "cdrom sda", next=True)
OPTIONAL_CD = replace(CD, optional=True)
FILTERED = Need(FILTER, "clean-web", "card 52:54:00:00:00:01", live=True, next=True)
KEY = Need(SECRET, "8a1f6c1e-5a60-4d2c-8f39-1c1a52b5d6c1", "login of disk vda", live=True, next=True)
OFFICE = Need(PORT_GROUP, "front/office", "card 52:54:00:00:00:01", live=True, next=True)
HUGE = (Pages(2048, 256),)
VOLUME_CD = Need(VOLUME, "isos/debian.iso", "cdrom sda", live=True, optional=True)
TAKES = (
    Need(PORT, "tcp/5942/", "VNC", live=True, next=True),
    Need(CID, "42", "vsock", live=True, next=True),
    Need(TAP, "web0", "card 52:54:00:00:00:01", live=True, next=True),
    Need(PORT, "tcp/4555/127.0.0.1", "serial", live=True),
    Need(PORT, "tcp/4556/", "console", next=True),
)
SPICE, SOUND = Device("graphics", "type", "spice"), Device("sound", "model", "ich9")
VFIO = "it is a device of its host"
STORAGE = card("52:54:00:00:07:01", "storage", "storage0")
BRIDGED = card("52:54:00:00:07:02", "", "br7")
DIRECT = Card("52:54:00:00:07:03", "direct", "", "eth1", "virtio", "macvtap0")
USERS = Card("52:54:00:00:07:04", "user")
NAMELESS = Card("", "user")
POOL = Pool("default", "dir", "/images", 1 << 20, shared=False)
NFS = replace(POOL, kind="netfs", shared=True, source="nas-1:/images")
CASES: dict[str, tuple[str, Breaking]] = {
    "all is well": (RENUMBER, lambda _fake: None),
    "the destination does not answer": (RENUMBER, host("berlin", reachable=False)),
    "the source does not answer": (RENUMBER, host("bucharest", reachable=False)),
    "a certificate expires": (RENUMBER, facts("berlin", certificate_days_left=29.94)),
    "it runs nowhere": (RENUMBER, gone),
    "it runs twice": (RENUMBER, also("berlin")),
    "it runs twice on what may be one host": (
        RENUMBER,
        both(also("berlin"), both(facts("bucharest", uuid="u-1"), facts("berlin", uuid="u-1"))),
    ),
    "it is paused": (RENUMBER, web(state="paused", reason="after an I/O error")),
    "it is suspended by itself": (RENUMBER, web(state="suspended by itself", reason="")),
    "it has crashed": (RENUMBER, web(state="crashed", reason="reason 1")),
    "it is shutting down": (RENUMBER, web(state="shutting down", reason="reason 1")),
    "it is in a state that nobody knows": (RENUMBER, web(state="state 9", reason="reason 7")),
    "it is shut off": (RENUMBER, web(state="shut off", reason="it has crashed")),
    "it is shut off, and a host does not answer": (
        RENUMBER,
        both(web(state="shut off"), host("berlin", reachable=False)),
    ),
    "a backup of it is under way": (SEAMLESS, web(job="backup")),
    "a job that nobody knows is under way": (SEAMLESS, web(job="job 77")),
    "it migrates, by whomever": (SEAMLESS, lambda fake: fake.hosts["bucharest"].leaving.update(web="berlin")),
    "it is being brought from where nobody answers": (
        SEAMLESS,
        both(lambda fake: fake.hosts["bucharest"].leaving.update(web="berlin"), host("bucharest", reachable=False)),
    ),
    "another domain of its name": (RENUMBER, also("berlin", state="shut off", uuid="uuid-2")),
    "another hypervisor": (RENUMBER, facts("berlin", hypervisor="Xen")),
    "an older hypervisor": (RENUMBER, facts("berlin", hypervisor_version=(9, 2, 1))),
    "an unknown machine type": (RENUMBER, facts("berlin", machine_types=("pc-q35-9.2",))),
    "it is there": (RENUMBER, at_berlin),
    "a site in maintenance": (RENUMBER, emptied("berlin", is_site=True)),
    "a host in maintenance": (RENUMBER, emptied("berlin", is_site=False)),
    "a destination of another kind": (RENUMBER, unsupported("berlin")),
    "a source of another kind": (RENUMBER, unsupported("bucharest")),
    "QEMU without KVM before 9.0": (
        RENUMBER,
        both(web(accelerator="qemu"), facts("berlin", hypervisor_version=(8, 2, 2))),
    ),
    "a hypervisor that cannot do much": (
        SEAMLESS,
        with_disk(lesser("berlin", live_migration=False, encrypted_copy=False, agent_channel=False, local_disks=False)),
    ),
    "a hypervisor that heeds no policy": (
        SEAMLESS,
        lesser("bucharest", max_downtime=False, abort=False, abort_standing=False),
    ),
    "a guest that changes memory faster than it is sent": (SEAMLESS, writing(90, bandwidth_mib_s=19)),
    "the same, not to be slowed down": (SEAMLESS, writing(90, bandwidth_mib_s=19, auto_converge=False)),
    "an agent that drops no page cache": (
        SEAMLESS,
        both(
            both(writing(1, drop_page_cache=True), web(reports_free_pages=True)),
            lambda fake: _without_verb(fake, "drop"),
        ),
    ),
    "pages that are let go and sent": (SEAMLESS, writing(1, drop_page_cache=True)),
    "compression that a host lacks": (
        SEAMLESS,
        both(lesser("berlin", compressed_copy=False), writing(1, compression=Compression.ZSTD)),
    ),
    "a PV guest, and no shadow paging": (RENUMBER, both(web(machine="xenpv"), facts("bucharest", shadow_paging=False))),
    "a PV guest, and nobody knows of shadow paging": (RENUMBER, web(machine="xenpv")),
    "a PV guest that may stand still": (
        RENUMBER,
        both(web(machine="xenpv"), both(facts("bucharest", shadow_paging=False), policy(allow_standstill=True))),
    ),
    "too little memory": (RENUMBER, facts("berlin", free_memory_mib=255)),
    "a network that is down": (RENUMBER, network("berlin", active=False)),
    "no network": (RENUMBER, unknown_network),
    "spanning tree": (RENUMBER, network("berlin", stp=True)),
    "forward delay": (RENUMBER, network("berlin", forward_delay_s=2.0)),
    "no DHCP": (RENUMBER, network("berlin", dhcp_free=None)),
    "no address left": (RENUMBER, network("berlin", dhcp_free=0)),
    "one subnet at both sites": (RENUMBER, network("berlin", subnet="10.50.1.0/24")),
    "a subnet in the other site's": (RENUMBER, network("berlin", subnet="10.50.1.128/25")),
    "a subnet with another host in it": (RENUMBER, network("berlin", subnet="10.9.0.0/24")),
    "a subnet that is not the inventory's": (RENUMBER, written("berlin", subnet="10.60.2.0/24")),
    "IPv6 that the inventory has and libvirt has not": (RENUMBER, written("bucharest", subnet6="fd50:1::/64")),
    "no network card": (RENUMBER, web(cards=())),
    "a card on another network alone": (RENUMBER, web(cards=(STORAGE, BRIDGED, DIRECT, USERS))),
    "a card on another network alone, and one without a MAC": (RENUMBER, web(cards=(STORAGE, BRIDGED, NAMELESS))),
    "a card of QEMU's own without a MAC": (SEAMLESS, with_cards(NAMELESS)),
    "a card first that stays": (RENUMBER, with_cards(STORAGE, elsewhere=storage_too("berlin"))),
    "a card on a network that is missing there": (RENUMBER, with_cards(STORAGE)),
    "a card on a bridge, and no host side": (RENUMBER, with_cards(BRIDGED)),
    "a card on a bridge that is missing there": (SEAMLESS, with_cards(BRIDGED, DIRECT)),
    "a card on a bridge that is there": (SEAMLESS, with_cards(BRIDGED, elsewhere=host("berlin", devices={"br7"}))),
    "a card of QEMU's own": (SEAMLESS, with_cards(USERS)),
    "a card on the guests' bridge itself": (SEAMLESS, web(cards=(card("52:54:00:00:00:01", ""),))),
    "an agent at another card": (SEAMLESS, both(with_cards(STORAGE), guest(mac=STORAGE.mac))),
    "an agent at no card of its domain": (SEAMLESS, guest(mac="52:54:00:00:00:77")),
    "two cards on the network": (SEAMLESS, with_cards(card("52:54:00:00:00:77"))),
    "two cards on the network, and a silent agent": (
        SEAMLESS,
        both(with_cards(card("52:54:00:00:00:77")), guest(answers=False)),
    ),
    "two cards of one MAC": (SEAMLESS, with_cards(card("52:54:00:00:00:01"))),
    "another network for guests there": (SEAMLESS, renamed),
    "the network that the inventory names is not there": (SEAMLESS, written("berlin", network="lan")),
    "a domain of its MAC there": (SEAMLESS, a_namesake("running")),
    "a paused domain of its MAC there": (SEAMLESS, a_namesake("paused")),
    "a domain of its MAC there, shut off": (SEAMLESS, a_namesake("shut off")),
    "a machine of its MAC there": (SEAMLESS, heard),
    "its own MAC answers for its address to come": (SEAMLESS, answered_by_its_own_mac),
    "DHCP for reserved cards alone": (SEAMLESS, reserved_alone("52:54:00:00:00:01")),
    "DHCP for reserved cards alone, and it is none": (RENUMBER, reserved_alone("52:54:00:00:00:77")),
    "no channel": (RENUMBER, web(has_agent_channel=False)),
    "a silent agent": (RENUMBER, guest(answers=False)),
    "no lease": (RENUMBER, guest(address="")),
    "an address that DHCP did not give": (RENUMBER, guest(address="10.50.1.99")),
    "an agent without claims": (RENUMBER, guest(verbs=("arrive", "status"))),
    "somebody else moves it": (RENUMBER, guest(claim=Claim("web-9", "them@there", 42.0))),
    "somebody unnamed moves it": (RENUMBER, guest(claim=Claim("web-9", "", 42.0))),
    "clients that cannot follow": (RENUMBER, strangers),
    "clients that cannot be asked": (RENUMBER, strangers_of_a_pinned_guest),
    "clients that cannot follow by what they have": (RENUMBER, full_or_of_ipv6),
    "clients that cannot follow, and an old address that may go": (
        RENUMBER,
        both(full_or_of_ipv6, guest(kept=["10.50.3.1"])),
    ),
    "a filter of sources": (RENUMBER, filtered),
    "a filter of its card that learns its address": (SEAMLESS, pinned("clean-traffic")),
    "a filter of its card with its address, and a guarded host": (
        SEAMLESS,
        both(pinned("clean-traffic", "10.50.1.97"), lambda fake: said_of_hosts(fake, ("berlin",), guard=True)),
    ),
    "a filter of its card with all addresses": (SEAMLESS, pinned("clean-traffic", "10.50.1.97", "10.50.2.10")),
    "a filter of its card with three others": (SEAMLESS, pinned("ours", *(f"10.50.3.{n}" for n in (1, 2, 3)))),
    "a filter of its card with four others": (SEAMLESS, pinned("ours", *(f"10.50.3.{n}" for n in (1, 2, 3, 4)))),
    "a filter of its card from its next start on": (RENUMBER, pinned("ours", "10.50.1.97", where=STORED)),
    "a filter of its card that is another there": (
        SEAMLESS,
        both(pinned("ours", "10.50.1.97", "10.50.2.10"), fitting(filters=(Filter(MAC, "ours", LIVE, (4,)),))),
    ),
    "a filter of its card that nobody knows there": (
        RENUMBER,
        both(pinned("ours", "10.50.1.97", "10.50.2.10"), fitting(filters=(Filter(MAC, "ours", LIVE, known=False),))),
    ),
    "a filter of its card that nobody knows": (SEAMLESS, pinned("ours", known=False)),
    "datagrams that nothing carries": (RENUMBER, datagrams),
    "a host that tracks nothing": (SEAMLESS, host("bucharest", tracking=False)),
    "a client beyond private addresses": (SEAMLESS, clients_on_the_internet(1)),
    "three clients beyond private addresses": (SEAMLESS, clients_on_the_internet(3)),
    "four clients beyond private addresses": (SEAMLESS, clients_on_the_internet(4)),
    "a disk goes along": (SEAMLESS, with_disk()),
    "a disk on a block device": (SEAMLESS, web(disks=(Disk("vda", "/dev/vg/web", True, False, "block", "raw"),))),
    "a disk of no known format": (SEAMLESS, web(disks=(Disk("vda", "/images/web.vmdk", True, False),))),
    "a pool elsewhere": (SEAMLESS, with_disk(host("berlin", pools=(replace(POOL, path="/other"),)))),
    "no pool": (SEAMLESS, with_disk(host("berlin", pools=()))),
    "a full pool": (SEAMLESS, with_disk(host("berlin", pools=(POOL,)))),
    "a shared pool that one host has": (
        SEAMLESS,
        with_disk(host("bucharest", pools=(NFS,)), host("berlin", pools=(replace(POOL, path="/other"),))),
    ),
    "a shared pool of a volume that one host has": (
        SEAMLESS,
        both(
            web(disks=(Disk("vda", "default", True, False, "volume", ""),)),
            both(host("bucharest", pools=(NFS,)), host("berlin", pools=(replace(POOL, name="local"),))),
        ),
    ),
    "a shared pool of another server": (
        SEAMLESS,
        with_disk(host("bucharest", pools=(NFS,)), host("berlin", pools=(replace(NFS, source="nas-2:/images"),))),
    ),
    "a volume in the way": (SEAMLESS, with_disk(taken_volume)),
    "no forwarding": (SEAMLESS, links("berlin", forwarding=False)),
    "a host that does not know its name": (SEAMLESS, links("berlin", resolves_own_name=False)),
    "a path too narrow": (SEAMLESS, links("bucharest", path_mtu=1349)),
    "a path just wide enough": (SEAMLESS, links("bucharest", path_mtu=1350)),
    "a path that loses large packets": (SEAMLESS, host("bucharest", narrow=1400)),
    "a path that answers small pings alone": (SEAMLESS, host("bucharest", narrow=64)),
    "a path that passes nothing that asks": (SEAMLESS, host("bucharest", narrow=0)),
    "a network with NAT": (SEAMLESS, network("berlin", forward="nat")),
    "no WireGuard": (SEAMLESS, no_wireguard),
    "no WireGuard, and one of them says plain": (SEAMLESS, plain(no_wireguard, "berlin")),
    "no WireGuard, and nobody says why": (SEAMLESS, links("berlin", tunnels=("vxlan",), wireguard="")),
    "plain tunnels": (SEAMLESS, plain(no_wireguard, "bucharest", "berlin")),
    "plain tunnels that a host cannot make": (SEAMLESS, plain(links("berlin", tunnels=()), "bucharest", "berlin")),
    "WireGuard without the kernel's": (SEAMLESS, links("berlin", wireguard="wireguard-go", wireguard_why=WHY)),
    "no filter for legs": (SEAMLESS, links("berlin", filters=False)),
    "guests that nobody guards": (SEAMLESS, unguarded),
    "another gateway": (SEAMLESS, links("berlin", bridge_mac="52:54:00:bb:bb:bb")),
    "only held addresses left": (SEAMLESS, held_address),
    "an address that somebody uses": (SEAMLESS, used_address),
    "a reservation that fits": (SEAMLESS, kept("berlin", Reservation("10.50.2.77", MAC, "web"))),
    "a reservation that the guest cannot have": (
        SEAMLESS,
        both(kept("berlin", Reservation("10.50.2.77", MAC, "web")), guest(kept=["10.50.2.77"])),
    ),
    "a reservation that no guest can have": (SEAMLESS, kept("berlin", Reservation("10.50.2.1", MAC, "web"))),
    "a reservation of ours that was left": (
        SEAMLESS,
        both(kept("berlin", marks.reservation("web-0", "10.50.2.77", MAC)), guest(kept=["10.50.2.77"])),
    ),
    "a reservation of what another has": (
        SEAMLESS,
        both(kept("berlin", Reservation("10.50.2.77", MAC)), host("berlin", leases={STRANGER: "10.50.2.77"})),
    ),
    "the guest's address at home, kept for another": (
        SEAMLESS,
        kept("bucharest", Reservation("10.50.1.97", STRANGER, "printer")),
    ),
    "the guest's address at home, left for nobody by an older vmacro": (
        SEAMLESS,
        kept("bucharest", Reservation("10.50.1.97", marks.placeholder_mac("10.50.1.97"))),
    ),
    "its kernel has room for no other address": (SEAMLESS, guest(endpoints=OF_EARLIER_MOVES)),
    "its kernel has room for no other address to announce": (RENUMBER, guest(endpoints=(HERE, *OF_EARLIER_MOVES))),
    "addresses that a guest gave itself": (SEAMLESS, guest(kept=["10.50.1.5", "10.50.1.6"])),
    "three addresses that a guest gave itself": (SEAMLESS, guest(kept=[f"10.50.1.{n}" for n in (5, 6, 7)])),
    "four addresses that a guest gave itself": (SEAMLESS, guest(kept=[f"10.50.1.{n}" for n in (5, 6, 7, 8)])),
    "an address of the destination's own subnet": (SEAMLESS, network("berlin", subnet="10.50.0.0/16")),
    "a guest that leases many addresses": (SEAMLESS, many_leases),
    "a leg that no move has opened": (SEAMLESS, a_leg_of_nobodys),
    "an agent that cannot prepare": (SEAMLESS, guest(verbs=("arrive", "claim", "status"))),
    "a strict reverse-path filter": (SEAMLESS, guest(rp_filter=1)),
    "a mute host side": (SEAMLESS, mute_side("berlin")),
    "a mute host side, and a silent agent": (SEAMLESS, both(mute_side("berlin"), guest(answers=False))),
    "no filter for legs, and a silent agent": (SEAMLESS, both(links("berlin", filters=False), guest(answers=False))),
    "no filter for legs, and no channel": (
        SEAMLESS,
        both(links("berlin", filters=False), web(has_agent_channel=False)),
    ),
    "no filter for legs, and paused": (SEAMLESS, both(links("berlin", filters=False), web(state="paused", reason="5"))),
    "no network at the source": (SEAMLESS, lambda fake: fake.hosts["bucharest"].networks.clear()),
    "no network at the destination": (SEAMLESS, unknown_network),
    "a disk and a mute host side at the source": (SEAMLESS, with_disk(mute_side("bucharest"))),
    "a disk and a mute host side at the destination": (SEAMLESS, with_disk(mute_side("berlin"))),
    "a name that leads to it": (SEAMLESS, named(HERE)),
    "a name that leads to it and to others": (SEAMLESS, named(HERE, "10.9.9.9")),
    "a name that leads elsewhere": (SEAMLESS, named("10.9.9.9", "10.9.9.8")),
    "a name that leads elsewhere by IPv6": (SEAMLESS, both(named(HERE, "fd00::9"), guest(address6="fd50:1::9"))),
    "a name that leads nowhere": (SEAMLESS, named()),
    "a name whose TTL is followed": (SEAMLESS, named(HERE, ttl_s=3600)),
    "a name that others keep for too long": (SEAMLESS, named(HERE, ttl_s=86_400)),
    "a name that others keep for longer than carriages last": (
        SEAMLESS,
        named(HERE, ttl_s=600, carry_deadline_s=300.0),
    ),
    "a name server that is down": (SEAMLESS, both(named(HERE), zone(up=False))),
    "a name server that does not take our key": (SEAMLESS, both(named(HERE), zone(key=False))),
    "a name server that refuses to change a name": (SEAMLESS, both(named(HERE), zone(closed=True))),
    "a name, and no leg for who comes late": (RENUMBER, named(HERE)),
    "a CD that only its host has": (SEAMLESS, needing(CD)),
    "a CD that only its host has, and may be taken out": (SEAMLESS, needing(OPTIONAL_CD)),
    "a CD of the next start that only its host has": (SEAMLESS, needing(NEXT_CD)),
    "a CD of the next start that nobody has": (
        SEAMLESS,
        both(needing(NEXT_CD), host("bucharest", files={})),
    ),
    "a kernel that is another there": (SEAMLESS, has("berlin", KERNEL, 8)),
    "a CD that both hosts have": (SEAMLESS, both(needing(CD), has("berlin", CD.name))),
    "a CD that is another there": (SEAMLESS, both(needing(CD), has("berlin", CD.name, 8))),
    "a CD, and no host side": (RENUMBER, both(needing(CD), mute_side("berlin"))),
    "a CD, and a host side that does not know": (SEAMLESS, both(needing(CD), asked_in_vain("disk.files", "berlin"))),
    "a disk of the next start that is another there": (
        SEAMLESS,
        both(needing(replace(NEXT_CD, read=True)), has("berlin", CD.name, 8)),
    ),
    "a disk on a chain of files": (SEAMLESS, with_a_chain),
    "a filter that is missing there": (SEAMLESS, both(needing(FILTERED), fitting(absent=(FILTERED,)))),
    "filters that nobody can ask for": (SEAMLESS, both(needing(FILTERED), fitting(unasked=(FILTERED,)))),
    "four filters that nobody can ask for": (SEAMLESS, fitting(unasked=(FILTERED,) * 4)),
    "five filters that nobody can ask for": (SEAMLESS, fitting(unasked=(FILTERED,) * 5)),
    "a secret that is missing there": (SEAMLESS, both(needing(KEY), fitting(absent=(KEY,)))),
    "a volume that is missing there": (SEAMLESS, both(needing(VOLUME_CD), fitting(absent=(VOLUME_CD,)))),
    "a volume that is missing there and needed": (
        SEAMLESS,
        both(needing(VOLUME_CD), fitting(absent=(replace(VOLUME_CD, optional=False),))),
    ),
    "a network of the next start": (SEAMLESS, needing(Need(NETWORK, "lan", "card 52:54:00:00:07:09", next=True))),
    "a bridge of the next start": (SEAMLESS, needing(Need(DEVICE, "br9", "card 52:54:00:00:07:09", next=True))),
    "a bridge of the next start that is there": (
        SEAMLESS,
        both(needing(Need(DEVICE, "br9", "card x", next=True)), host("berlin", devices={"br9"})),
    ),
    "a bridge of the next start, and nobody looks": (RENUMBER, needing(Need(DEVICE, "br9", "card x", next=True))),
    "graphics at its host's address": (SEAMLESS, needing(Need(ADDRESS, "10.9.0.1", "VNC", live=True, next=True))),
    "graphics at an address that nobody knows": (SEAMLESS, needing(Need(ADDRESS, "192.0.2.9", "VNC", live=True))),
    "graphics at any address": (SEAMLESS, needing(Need(ADDRESS, "0.0.0.0", "VNC", live=True, next=True))),
    "a port, a tap and a number that somebody there has": (
        SEAMLESS,
        both(
            needing(*TAKES),
            host("berlin", taken=Taken((Port(TCP, 5942),), (42,)), devices={"web0"}),
        ),
    ),
    "a port of a console at one address that somebody there has": (
        SEAMLESS,
        both(
            needing(Need(PORT, "udp/4555/127.0.0.1", "serial", next=True)),
            host("berlin", taken=Taken((Port(UDP, 4555, "127.0.0.1"),))),
        ),
    ),
    "ports and such that nobody there has": (SEAMLESS, needing(*TAKES)),
    "ports and such, and nobody looks": (RENUMBER, both(needing(*TAKES), mute_side("berlin"))),
    "ports and such, and a host side that does not know": (
        SEAMLESS,
        both(needing(*TAKES), asked_in_vain("link.taken", "berlin")),
    ),
    "a definition that cannot be read": (SEAMLESS, asked_in_vain("definition", "bucharest")),
    "a host that cannot be asked for it": (SEAMLESS, asked_in_vain("fit", "berlin")),
    "a device of its host": (SEAMLESS, needing(stays=(Stay("PCI device 0000:01:00.0", VFIO, live=True),))),
    "a device of its host at the next start": (
        SEAMLESS,
        needing(stays=(Stay("PCI device 0000:01:00.0", VFIO, live=False),)),
    ),
    "arguments of its own": (SEAMLESS, needing(arguments=True)),
    "snapshots": (SEAMLESS, needing(snapshots=2)),
    "checkpoints": (SEAMLESS, needing(checkpoints=1)),
    "a saved state": (SEAMLESS, needing(saved=True)),
    "a name that hosts do not take": (SEAMLESS, named_so("Büro server")),
    "a name that hosts do not take, and need not": (RENUMBER, named_so("Büro server")),
    "two hosts of one UUID": (SEAMLESS, both(facts("bucharest", uuid="u-1"), facts("berlin", uuid="u-1"))),
    "a clone of its UUID there": (SEAMLESS, a_clone),
    "a hypervisor that refuses it": (
        SEAMLESS,
        both(needing(machine="pc-q35-10.0"), fitting(refusal="KVM is not supported by it")),
    ),
    "a device that its hypervisor lacks": (SEAMLESS, fitting(lacks=(SPICE,))),
    "devices that nobody tells of": (SEAMLESS, fitting(silent=(SOUND, SPICE))),
    "too few huge pages": (SEAMLESS, both(needing(pages=HUGE, huge_mib=256), fitting(free_pages=(Pages(2048, 254),)))),
    "too few huge pages of whatever size": (
        SEAMLESS,
        both(
            needing(pages=(Pages(OF_THE_HOSTS_SIZE, 256),), huge_mib=256),
            fitting(free_pages=(Pages(OF_THE_HOSTS_SIZE, 254),)),
        ),
    ),
    "enough huge pages": (SEAMLESS, both(needing(pages=HUGE, huge_mib=256), fitting(free_pages=HUGE))),
    "enough huge pages, and no other memory": (
        SEAMLESS,
        both(needing(pages=HUGE, huge_mib=256), both(fitting(free_pages=HUGE), facts("berlin", free_memory_mib=9))),
    ),
    "huge pages from its next start on, and no memory until then": (
        SEAMLESS,
        both(needing(pages=HUGE), both(fitting(free_pages=HUGE), facts("berlin", free_memory_mib=9))),
    ),
    "some of it in huge pages, and too little memory for the rest": (
        SEAMLESS,
        both(needing(pages=HUGE, huge_mib=100), both(fitting(free_pages=HUGE), facts("berlin", free_memory_mib=155))),
    ),
    "a security driver that is missing there": (
        SEAMLESS,
        both(needing(labels=("apparmor", "dac")), facts("berlin", security_models=("none", "dac"))),
    ),
    "a security driver of which nobody tells": (SEAMLESS, needing(labels=("apparmor", "dac"))),
    "a port group that is missing there": (SEAMLESS, both(needing(OFFICE), fitting(absent=(OFFICE,)))),
    "names that nobody can be asked for": (
        SEAMLESS,
        needing(unread=("cdrom sda: /isos/a\\u202fb.iso", *(f"disk vd{n}: odd" for n in "abcd"))),
    ),
    "block jobs of which its XML says nothing": (SEAMLESS, needing(block_jobs=("vda", "vdb"))),
    "a disk that is not its file alone": (
        SEAMLESS,
        web(disks=(Disk("vda", "/images/web.qcow2", True, False, "file", "qcow2", tied="a part of its file"),)),
    ),
    "processors that are not there": (SEAMLESS, both(needing(cpus=9, nodes=2), fitting(cpus=8, nodes=1))),
    "another processor": (SEAMLESS, fitting(processor=DIFFERS)),
    "a processor that nobody compares": (SEAMLESS, fitting(processor=UNKNOWN, processor_why=PASSED_THROUGH)),
    "a processor that nobody compares, nor says why": (SEAMLESS, fitting(processor=UNKNOWN)),
    "the same processor and hypervisor, whatever libvirt says": (
        SEAMLESS,
        both(
            fitting(processor=DIFFERS),
            both(facts("bucharest", processor="<cpu/>"), facts("berlin", processor="<cpu/>")),
        ),
    ),
    "the same processor, passed through": (
        SEAMLESS,
        both(
            fitting(processor=UNKNOWN, processor_why=PASSED_THROUGH),
            both(facts("bucharest", processor="<cpu/>"), facts("berlin", processor="<cpu/>")),
        ),
    ),
}


def found(handoff: str, broken: Breaking, take_over: bool = False, faults: Faults | None = None) -> list[Finding]:
    fake = FakeWorld()
    broken(fake)
    wanted = Request(
        fake.inventory.guests[0], fake.inventory.sites[1], handoff, fake.inventory.policy, take_over=take_over
    )
    world = faults.world(fake) if faults is not None else fake.world
    seen = measured.look(fake.inventory, wanted, world, ask_clients=True)
    return checks.check(wanted, replace(seen, views=closed.marked(seen.views, fake.maintenance)))


def told(handoff: str, broken: Breaking, take_over: bool = False) -> list[str]:
    return read(found(handoff, broken, take_over))


def read(findings: Iterable[Finding]) -> list[str]:
    hints = ((f, f"\n  hint: {f.hint}" if f.hint else "") for f in findings)
    return [f"{f.severity} {f.code}\n  {f.subject}: {f.message}{hint}" for f, hint in hints]


def rendered() -> str:
    cases = {f"{name} ({handoff})": told(handoff, broken) for name, (handoff, broken) in CASES.items()}
    cases["a host that cannot be asked (doctor)"] = read(examined(host("berlin", reachable=False)))
    cases["no host to go to, and this program runs in it (batch)"] = [
        f"stays {stay.code}\n  {stay.why}\n  hint: {stay.hint}" for stay in of_batches()
    ]
    return "".join(f"# {name}\n" + "".join(f"{line}\n" for line in lines) + "\n" for name, lines in cases.items())


def test_all_words_are_as_they_were_read_last() -> None:
    """Changed on purpose? python -m tests.unit.test_findings, and read what changed."""
    assert rendered() == WORDS.read_text()


def test_each_place_that_makes_a_finding_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only one of those that have its code: each has words of its own."""
    folder, make, seen = Path(checks.__file__).parent, Finding.__init__, set[tuple[str, int]]()

    def noted(self: Finding, *args: object, **kwargs: object) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and Path(frame.f_code.co_filename).parent == folder:
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        make(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Finding, "__init__", noted)
    rendered()
    places = [
        (str(file), range(node.lineno, (node.end_lineno or node.lineno) + 1))
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Finding", "blocker")
    ]
    assert len(places) > 100
    assert [place for place in places if not any(file == place[0] and at in place[1] for file, at in seen)] == []


def test_every_finding_is_provoked_as_it_is_explained() -> None:
    """So that what follows is about all of them."""
    seen = {(f.code, f.severity.value) for handoff, broken in CASES.values() for f in found(handoff, broken)}
    seen |= {(stay.code, "blocker") for stay in of_batches()} | of_policies()
    explained = {code: said["kind"] for code, said in reference.findings().items()}
    assert {code for code, _ in seen} == set(explained)
    assert [(code, severity) for code, severity in seen if severity not in explained[code]] == []


def of_batches() -> tuple[batches.Stay, ...]:
    """What only who empties a site meets."""
    fake = FakeWorld()
    (guest,), site = fake.inventory.guests, fake.inventory.sites[1]
    wanted = Request(guest, site, SEAMLESS, fake.inventory.policy)
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=False)
    candidates = [Candidate(wanted, seen, (), hosts_us=us) for us in (True, False)]
    candidates.append(Candidate(replace(wanted, source="oslo"), seen, site.hosts))
    return evacuation.plan(candidates, fake.inventory, evacuation.Pace())[1]


def of_policies() -> set[tuple[str, str]]:
    """Codes that only who follows a policy meets."""
    made = [test_fleet.dear_and_cheap(**change) for change, _ in test_fleet.FAULTS] + [test_fleet.shut_in()]  # type: ignore[arg-type]
    return {(finding.code, finding.severity.value) for fleet in made for finding in place(fleet).findings}


def test_who_takes_over_is_only_warned() -> None:
    (found,) = told(RENUMBER, guest(claim=Claim("web-9", "them@there", 42.0)), take_over=True)
    assert found.startswith("warning guest-claimed")


def empty(findings: Iterable[Finding]) -> list[Finding]:
    """Those whose message or hint begins or ends where something is missing; a hint there need not be."""
    texts = ((f, (f.subject, f.message, *([f.hint] if f.hint else []))) for f in findings)
    return [f for f, said in texts if not all(text and text == text.strip(" ;,:").removeprefix("or ") for text in said)]


def examined(broken: Breaking, faults: Faults | None = None) -> list[Finding]:
    """By `vmacro doctor`."""
    fake = FakeWorld()
    broken(fake)
    world = faults.world(fake) if faults is not None else fake.world
    return doctor.examine(fake.inventory, world, lambda _what: None, lambda _guest: NO_PAST)


@pytest.mark.parametrize("handoff", HANDOFFS)
@pytest.mark.parametrize("case", CASES)
def test_every_finding_says_something(case: str, handoff: str) -> None:
    """Also with the handoff that the case is not made for, and to who looks at all hosts."""
    _, broken = CASES[case]
    assert empty(found(handoff, broken)) == [] and empty(examined(broken)) == []


@pytest.mark.parametrize("look", [*HANDOFFS, "doctor"])
@pytest.mark.parametrize("broken", [lambda _fake: None, with_disk()], ids=["", "with a disk"])
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
def test_every_finding_says_something_whoever_is_mute(look: str, broken: Breaking, for_ever: bool) -> None:
    """Each call of a look fails, or from then on all of the same party."""

    def findings(faults: Faults) -> list[Finding]:
        return examined(broken, faults) if look == "doctor" else found(look, broken, faults=faults)

    counted = Faults()
    findings(counted)
    assert len(counted.calls) > 10
    for number, call in enumerate(counted.calls):
        assert empty(findings(Mute(number, for_ever))) == [], call


if __name__ == "__main__":
    WORDS.write_text(rendered())
