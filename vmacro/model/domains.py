"""What libvirt says of a domain: state, disks and cards; with bounds, as all that others say (model/facts.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vmacro.wire import fields
from vmacro.wire.fields import Items, Said, Text

Mac = Annotated[str, fields.Mac()]
MaybeMac = Annotated[str, fields.Mac(optional=True)]
Name = Annotated[str, Text(255)]
Word = Annotated[str, Text(40)]
LONGEST_PATH = 1000
Path = Annotated[str, Text(LONGEST_PATH)]
MOST_DISKS = 256
MOST_CARDS = 256
MOST_BELOW = 64  # files of one image
SHUT_OFF, CRASHED, SUSPENDED = "shut off", "crashed", "suspended by itself"  # states of a domain
PV = "xenpv"  # machine type of a guest of Xen that knows what it is, without the help of the processor
LEAVING, ARRIVING = "migration to elsewhere", "migration to here"  # jobs of a domain


@dataclass(frozen=True)
class Disk:
    """`kind` is libvirt's: file, block, network or volume; `backing`: the file below, '' where there is none, and
    `chain` those below that. `shared`: declared so, or by network. `tied`: to what, so that its file by itself is not
    what the guest reads; '' where it is."""

    target: Word
    source: Path
    writable: bool
    shared: bool
    kind: Word = "file"
    format: Word = ""
    backing: Path = ""
    backing_format: Word = ""
    chain: Annotated[tuple[Path, ...], Items(MOST_BELOW)] = ()
    tied: Annotated[str, Said(80)] = ""


@dataclass(frozen=True)
class Card:
    """A network card of a domain. `mac` is '' where libvirt names none; `kind` is libvirt's: network,
    bridge, direct or another. `network` is the libvirt network that it is on, `device` the bridge or interface of the
    host; `tap` is the host's device for this card alone. Each is '' where libvirt names none."""

    mac: MaybeMac
    kind: Word
    network: Name = ""
    device: Name = ""
    model: Word = ""
    tap: Name = ""


@dataclass(frozen=True)
class DomainFacts:
    """`state` is libvirt's word, or a bare number where it is none that we know; `reason` says why. `accelerator` is
    libvirt's domain type: kvm, qemu (TCG) or xen. Sizes in MiB. `job`: what its libvirt is at work on, whoever has
    asked for it; '' where that is nothing. `reports_free_pages`: its balloon gives memory that the guest frees back to
    the host, so that it is zero."""

    name: Name
    uuid: Word
    state: Word
    reason: Word
    persistent: bool
    accelerator: Word
    machine: Annotated[str, Text(100)]
    memory_mib: int
    cards: Annotated[tuple[Card, ...], Items(MOST_CARDS)]
    disks: Annotated[tuple[Disk, ...], Items(MOST_DISKS)]
    has_agent_channel: bool
    job: Word = ""
    reports_free_pages: bool = False

    @property
    def migrating(self) -> bool:
        """Whether a copy of it to elsewhere is under way."""
        return self.job == LEAVING

    @property
    def active(self) -> bool:
        """Whether it is here, running or not; one that a migration is just bringing is not yet."""
        return self.state != SHUT_OFF and self.job != ARRIVING

    @property
    def running(self) -> bool:
        """Whether its CPUs run; a paused guest is not running."""
        return self.state == "running"
