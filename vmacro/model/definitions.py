"""What a domain's definitions name on its host, what libvirt keeps beside them, and what another host has of it; with
bounds, as all that others say (model/facts.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vmacro.model.domains import MOST_DISKS, Name, Path, Word
from vmacro.model.filters import Filters
from vmacro.wire.fields import Choice, Items, Number, Said, Text

# Kinds of what a domain needs on its host; a volume is named POOL/NAME, a secret by its UUID, or as TYPE:USAGE, a port
# group NETWORK/NAME. The last three it takes, so that nobody else there may have them: a port
# (PROTOCOL/NUMBER/ADDRESS), the name of a card's tap, its number by vsock.
KINDS = ("file", "volume", "network", "device", "filter", "secret", "address", "port group", "port", "tap", "cid")
FILE, VOLUME, NETWORK, DEVICE, FILTER, SECRET, ADDRESS, PORT_GROUP, PORT, TAP, CID = KINDS
MOST_NEEDS = 1024
OF_THE_HOSTS_SIZE = 1  # KiB of huge pages of which none is said: each host has a default (default_hugepagesz)
PASSED_THROUGH = "the guest has its host's own as it is (host-passthrough)"
FITS, DIFFERS, UNKNOWN = "fits", "differs", "unknown"
_Sentence = Annotated[str, Said(300)]
_What = Annotated[str, Said(60)]


@dataclass(frozen=True)
class Need:
    """Something of its host that a domain names. `what` it is to the guest, for people. `live`: the running domain has
    it; `next`: it gets it when it is started anew, by its persistent definition. `optional`: libvirt starts the domain
    without it (startupPolicy). `read`: the guest reads from it, so that it must be the same elsewhere."""

    kind: Annotated[str, Choice(KINDS)]
    name: Path
    what: _What
    live: bool = False
    next: bool = False
    optional: bool = False
    read: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What is asked for, whatever for."""
        return self.kind, self.name


@dataclass(frozen=True)
class Stay:
    """A device that no live migration takes along; `why`, for people. `live`: the running domain has it, not only its
    next one."""

    what: _What
    why: _Sentence
    live: bool


@dataclass(frozen=True)
class Device:
    """A device by which a domain asks something of its hypervisor, in the words of formatdomaincaps: element, enum and
    value, such as `graphics`, `type`, `spice`."""

    element: Word
    aspect: Word
    value: Word


@dataclass(frozen=True)
class Pages:
    """So much memory in huge pages of `kib`, or OF_THE_HOSTS_SIZE."""

    kib: int
    mib: Annotated[int, Number(0, 1 << 50)]


@dataclass(frozen=True)
class Definition:
    """A domain by its live and its persistent definition. `processor`: its <cpu/> as XML, '' where it has none;
    `pages`: what of its memory lies in huge ones, by either; `huge_mib`: all that does now. `cpus`, `nodes`: how many
    processors and NUMA nodes of its host it names, by its highest. `arguments`: it has some for QEMU that libvirt does
    not understand. `unread`: what it needs by a name that nobody can be asked for, for people. `labels`: models of the
    security drivers that are to confine it. `filters`: what its cards' ones hold them to, on the host where it is.

    What libvirt keeps beside it: `snapshots` and `checkpoints` are counted; `saved`: an image of its memory, which its
    next start would resume; `autostart`: its host starts it; `block_jobs`: the disks at which one works."""

    emulator: Path = ""
    arch: Word = ""
    machine: Annotated[str, Text(100)] = ""
    accelerator: Word = ""
    processor: Annotated[str, Text(1 << 16)] = ""
    memory_mib: int = 0
    pages: Annotated[tuple[Pages, ...], Items()] = ()
    huge_mib: int = 0
    cpus: int = 0
    nodes: int = 0
    arguments: bool = False
    needs: Annotated[tuple[Need, ...], Items(MOST_NEEDS)] = ()
    stays: Annotated[tuple[Stay, ...], Items(MOST_NEEDS)] = ()
    devices: Annotated[tuple[Device, ...], Items(MOST_NEEDS)] = ()
    unread: Annotated[tuple[Annotated[str, Said(200)], ...], Items(MOST_NEEDS)] = ()
    labels: Annotated[tuple[Word, ...], Items(MOST_NEEDS)] = ()
    filters: Filters = ()
    snapshots: int = 0
    checkpoints: int = 0
    saved: bool = False
    autostart: bool = False
    block_jobs: Annotated[tuple[Word, ...], Items(MOST_DISKS)] = ()

    def named(self, kind: str) -> tuple[Need, ...]:
        """What it needs of one kind."""
        return tuple(need for need in self.needs if need.kind == kind)


@dataclass(frozen=True)
class Fit:
    """What a host's libvirt says of a domain that may come. Of what it needs: `absent`, and `unasked`, what cannot be
    found out there. `namesake`: the domain with its UUID and another name. `refusal`: why that hypervisor runs no such
    domain. `processor`: whether its own has all that the domain's has, and `processor_why` not. Of its devices, what
    its hypervisor `lacks`, and what it is `silent` about. `free_pages`: huge ones of the domain's sizes. `filters`:
    what its own ones would hold the domain's cards to."""

    absent: Annotated[tuple[Need, ...], Items(MOST_NEEDS)] = ()
    unasked: Annotated[tuple[Need, ...], Items(MOST_NEEDS)] = ()
    namesake: Name = ""
    refusal: _Sentence = ""
    processor: Annotated[str, Choice((FITS, DIFFERS, UNKNOWN))] = FITS
    processor_why: _Sentence = ""
    lacks: Annotated[tuple[Device, ...], Items(MOST_NEEDS)] = ()
    silent: Annotated[tuple[Device, ...], Items(MOST_NEEDS)] = ()
    free_pages: Annotated[tuple[Pages, ...], Items()] = ()
    cpus: Annotated[int, Number(0, 1 << 20)] = 1 << 20
    nodes: Annotated[int, Number(0, 1 << 20)] = 1 << 20
    filters: Filters = ()
