"""What the host side may be asked, and what it answers. Sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from vmacro.wire.fields import Choice, Items, Matches, Number, Text, Unicast, Word
from vmacro.wire.messages import Nothing, Verb
from vmacro.wire.taken_verbs import TAKEN
from vmacro.wire.way_verbs import MOST_WIDE, NARROW, WIDEN, WideWay

HOME, AWAY = "home", "away"
VXLAN, WIREGUARD = "vxlan", "wireguard"
KERNEL, USERSPACE = "kernel", "wireguard-go"
GUEST, TUNNEL = "guest", "tunnel"
STAYED, FENCED, UNKNOWN = "stayed", "fenced", "unknown"
FORMATS = ("qcow2", "raw")
MOST_TURNS = 64
MOST_FLOWS = 4096  # of an address, of a kind: that many or more
MOST_ASKED = 16  # addresses at once
MOST_USERS = 64  # of a MAC that are told
MOST_DEVICES = 256
MOST_COMPRESSIONS = 32
MOST_ANSWERING = 4  # cards, for one address
LONGEST_DEVICE = 15  # characters of a name (IFNAMSIZ)

_Address = Annotated[str, Unicast()]
_MaybeAddress = Annotated[str, Unicast(optional=True)]
_MAC = "(?:[0-9a-f]{2}:){5}[0-9a-f]{2}"
_Direction = Annotated[str, Choice((GUEST, TUNNEL))]
_Domain = Annotated[str, Word()]
_Move = Annotated[str, Word()]
# Neither a slash nor a leading dot: interfaces' names go into paths below /proc/sys.
_Interface = Annotated[str, Matches("[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", "an interface's name")]
_MaybeInterface = Annotated[str, Matches("(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,14})?", "an interface's name")]
_MaybeMac = Annotated[str, Matches(f"(?:{_MAC})?", "six bytes in lower case")]
_Device = Annotated[str, Text(LONGEST_DEVICE)]
_MaybeSubnet = Annotated[str, Matches("(?:[0-9a-f:.]+/[0-9]{1,3})?", "a subnet", 50)]
_PublicKey = Annotated[str, Matches("(?:[A-Za-z0-9+/]{43}=)?", "a WireGuard key")]
_DiskId = Annotated[str, Matches("[a-z0-9]{4,32}", "a disk's id")]
# No comma: QEMU's options are separated by them, and systemd's by what folders lack besides. No hidden file: a pool may
# be somebody's home.
_Path = Annotated[
    str, Matches(r"""(?:/(?!\.{1,2}/)[^/,:%$\\"'\s]+)+/[^/,.][^/,]*""", "an absolute and plain path of a file", 1000)
]
# As inventories name hosts, and certificates do in their common names.
_HostName = Annotated[str, Matches("[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a host's name")]
_TlsName = Annotated[str, Matches("[A-Za-z0-9._-]+", "a name in a certificate", 253)]
_Size = Annotated[int, Number(0, 1 << 62)]
_AnyPath = Annotated[str, Matches("/.*", "an absolute path", 1000)]
ABSENT, PLAIN, FOLDER, OTHER = "absent", "file", "folder", "other"
MOST_FILES = 64  # asked for at once
_Trouble = Annotated[str, Text(500)]


@dataclass(frozen=True)
class End:
    """One end of a leg: `side` is which end this host is; `move`, `domain`, `mac` name whose leg it is; `bridge` is
    where guests attach here; `peer` is the other host's address, outside of the tunnel."""

    side: Annotated[str, Choice((HOME, AWAY))]
    kind: Annotated[str, Choice((VXLAN, WIREGUARD))]
    move: _Move
    domain: _Domain
    address: _Address
    mac: Annotated[str, Matches(_MAC, "six bytes in lower case")]
    bridge: _Interface
    peer: _Address


@dataclass(frozen=True)
class Open:
    """`subnet` is that of the guests at the leg's home; '' where the orchestrator does not know it."""

    end: End
    subnet: _MaybeSubnet = ""


@dataclass(frozen=True)
class FoundLegEnd(End):
    """One end of a leg as found on a host. `points_to`: where its packets go, to the guest here or into the tunnel."""

    points_to: _Direction


@dataclass(frozen=True)
class Facts:
    """Which bridge is meant; `peer`: the other host's address, '' for none; `probe`: an address of which to find out
    who on the bridge uses it, '' for none; `mac`: of which to find out who has it here, '' for none; `devices`: of
    which to find out whether there are any."""

    bridge: _Interface
    peer: _MaybeAddress = ""
    probe: _MaybeAddress = ""
    mac: _MaybeMac = ""
    devices: Annotated[tuple[_Device, ...], Items(MOST_DEVICES)] = ()


@dataclass(frozen=True)
class MacUser:
    """Who has a MAC at a host: a domain, in its live or its persistent definition (`active`: it is no mere definition);
    or, where `domain` is '', whoever is behind `device`, a port of the guests' bridge that frames from it came by."""

    domain: Annotated[str, Text(255)]
    device: _Device
    active: bool


@dataclass(frozen=True)
class LinkFacts:
    """What a host's own side says. `tunnels`: the kinds it can make, best first; `wireguard`: who does that here, ''
    for nobody, and `wireguard_why` it is not the kernel. MTUs of the guests' bridge and of
    the way to the other host, 0 where none was asked about; `used_by` is the MAC that answers for the address asked
    about; `resolves_own_name`: the host's own name has an address on the host itself. `filters`: it can say what may
    pass a leg; `guarded`: it holds the guests of the bridge to their own addresses. `mac_users`: who has the MAC asked
    about; `devices`: those of the devices asked about that there are. `wide`: the ways that moves have widened;
    `compressions`: by what its QEMU can send and take memory as it was built (MultiFDCompression of
    qapi/migration.json), () where nobody knows."""

    version: Annotated[str, Text(50)]
    tunnels: Annotated[tuple[Annotated[str, Word()], ...], Items(8)]
    bridge_mac: _MaybeMac
    bridge_mtu: Annotated[int, Number(0, 1 << 20)]
    path_mtu: Annotated[int, Number(0, 1 << 20)]
    forwarding: bool
    used_by: _MaybeMac = ""
    legs: Annotated[tuple[FoundLegEnd, ...], Items(1024)] = ()
    resolves_own_name: bool = True
    wireguard: Annotated[str, Choice(("", KERNEL, USERSPACE))] = ""
    wireguard_why: _Trouble = ""
    filters: bool = False  # one of an older vmacro says nothing, and lets pass what comes
    guarded: bool = False
    mac_users: Annotated[tuple[MacUser, ...], Items(MOST_USERS)] = ()
    devices: Annotated[tuple[_Device, ...], Items(MOST_DEVICES)] = ()
    wide: Annotated[tuple[WideWay, ...], Items(MOST_WIDE)] = ()
    compressions: Annotated[tuple[Annotated[str, Word()], ...], Items(MOST_COMPRESSIONS)] = ()


@dataclass(frozen=True)
class Offer:
    """What one end of a tunnel must know of the other; empty for VXLAN. The private key never leaves its host."""

    public_key: _PublicKey = ""
    port: Annotated[int, Number(0, 65535)] = 0


@dataclass(frozen=True)
class Join:
    """The leg of a move and an address, and what its far end offered."""

    move: _Move
    address: _Address
    far: Offer


@dataclass(frozen=True)
class Domain:
    """A libvirt domain, by name."""

    domain: _Domain


@dataclass(frozen=True)
class Turn:
    """A host turned a guest's legs by an event: when, how long that took, how many packets were sent on
    that had come too late for the guest, and what went wrong, if anything."""

    to: _Direction
    wall_ns: Annotated[int, Number(0, 1 << 63)]
    took_us: int
    rescued: int = 0
    trouble: _Trouble = ""


@dataclass(frozen=True)
class Turned:
    """Oldest first."""

    turns: Annotated[tuple[Turn, ...], Items(MOST_TURNS)]


@dataclass(frozen=True)
class TurnAll:
    """All ends of a domain's legs that the host has."""

    domain: _Domain
    to: _Direction


@dataclass(frozen=True)
class Point:
    """The leg of a move and an address."""

    move: _Move
    address: _Address
    to: _Direction


@dataclass(frozen=True)
class Departure:
    """What became of a domain that was to leave: it stayed, was fenced as it paused, or nobody listened."""

    leaving: Annotated[str, Choice((STAYED, FENCED, UNKNOWN))]


@dataclass(frozen=True)
class FlowsOf:
    """The addresses of a guest that are meant."""

    addresses: Annotated[tuple[_Address, ...], Items(MOST_ASKED)]


@dataclass(frozen=True)
class Flows:
    """How many flows of datagrams an address has: of UDP, and of ICMP's echoes. MOST_FLOWS: that many or more."""

    address: _Address
    udp: Annotated[int, Number(0, MOST_FLOWS)] = 0
    icmp: Annotated[int, Number(0, MOST_FLOWS)] = 0

    @property
    def any(self) -> bool:
        """Whether the address is in use by datagrams."""
        return self.udp + self.icmp > 0


@dataclass(frozen=True)
class Tracked:
    """What a host's kernel tracks (conntrack) of the addresses asked about. Where it tracks nothing at all, `tracking`
    is False, and nobody knows."""

    tracking: bool
    flows: Annotated[tuple[Flows, ...], Items(MOST_ASKED)] = ()


@dataclass(frozen=True)
class Reach:
    """Ask for addresses by packets, again and again under one `name`. `bridge`: where they are attached here, '' where
    they are elsewhere; `port`: of TCP, one that they serve, 0 for none; `whole`: also by packets as large as this host
    believes that the way takes, which nobody may fragment."""

    name: _Move
    addresses: Annotated[tuple[_Address, ...], Items(MOST_ASKED)]
    bridge: _MaybeInterface = ""
    port: Annotated[int, Number(0, 65535)] = 0
    whole: bool = False


@dataclass(frozen=True)
class Heard:
    """Who has answered for an address since it was first asked for under a name. `macs`: cards at the bridge, by ARP or
    neighbour discovery. `answered`: the size of the largest packet that was, by an echo or by anything that TCP says, 0
    for none; `tried`: of the largest that was sent."""

    address: _Address
    macs: Annotated[tuple[Annotated[str, Matches(_MAC, "six bytes in lower case")], ...], Items(MOST_ANSWERING)] = ()
    answered: Annotated[int, Number(0, 1 << 16)] = 0
    tried: Annotated[int, Number(0, 1 << 16)] = 0


@dataclass(frozen=True)
class HeardOf:
    """Of each address that was asked for, in that order."""

    heard: Annotated[tuple[Heard, ...], Items(MOST_ASKED)]


@dataclass(frozen=True)
class Close:
    """All legs of a move, or its one of an address."""

    move: _Move
    address: _MaybeAddress = ""


@dataclass(frozen=True)
class Disk:
    """One disk that moves: the path of its base, the base's format, and the id that base and overlay share."""

    id: _DiskId
    base: _Path
    format: Annotated[str, Choice(FORMATS)]


@dataclass(frozen=True)
class BaseFacts:
    """A disk's base as one host has it: `same`, the very one, untouched since it was frozen. `bytes` it takes up."""

    exists: bool
    same: bool
    overlay: bool
    bytes: _Size


@dataclass(frozen=True)
class Paths:
    """Of files that a guest's domain names: disks, media, firmware, programs."""

    paths: Annotated[tuple[_AnyPath, ...], Items(MOST_FILES)]


@dataclass(frozen=True)
class FileFacts:
    """What is at a path, or where a link there leads. `bytes`: a plain file's length; `allocated`: what it takes up."""

    path: _AnyPath
    kind: Annotated[str, Choice((ABSENT, PLAIN, FOLDER, OTHER))]
    bytes: _Size = 0
    allocated: _Size = 0


@dataclass(frozen=True)
class Files:
    """Those that could be looked at."""

    files: Annotated[tuple[FileFacts, ...], Items(MOST_FILES)]


@dataclass(frozen=True)
class Serve:
    """`address`: the host's own, to listen at. `reader`: the host that may read it, by the name in its certificate."""

    disk: Disk
    address: _Address
    reader: _HostName


@dataclass(frozen=True)
class Served:
    """The port to read the base from."""

    port: Annotated[int, Number(1, 65535)]


@dataclass(frozen=True)
class Fetch:
    """From whom: its address, port and name in its certificate; at most `bytes_s` bytes per
    second, 0 for any rate."""

    disk: Disk
    address: _Address
    port: Annotated[int, Number(1, 65535)]
    tls_name: _TlsName
    bytes_s: Annotated[int, Number(0, 1 << 40)] = 0


@dataclass(frozen=True)
class Fetching:
    """How far the copy of a base is. `trouble`: how it failed."""

    done: bool
    bytes: _Size
    trouble: _Trouble = ""


@dataclass(frozen=True)
class Stop:
    """`drop_overlay`: the overlay goes too."""

    disk: Disk
    drop_overlay: bool = False


_NETWORK_S = 15.0
_DISK_S = 30.0  # systemd-run waits for qemu-nbd and qemu-img, port after port

FACTS = Verb("facts", Facts, LinkFacts, _NETWORK_S)
OPEN = Verb("open", Open, Offer, _NETWORK_S)
JOIN = Verb("join", Join, Nothing, _NETWORK_S)
ARM = Verb("arm", Domain, Nothing, _NETWORK_S)
TURNED = Verb("turned", Domain, Turned, _NETWORK_S)
TURN = Verb("turn", TurnAll, Nothing, _NETWORK_S)
POINT = Verb("point", Point, Nothing, _NETWORK_S)
LEAVING = Verb("leaving", Domain, Departure, _NETWORK_S)
CLOSE = Verb("close", Close, Nothing, _NETWORK_S)
FLOWS = Verb("flows", FlowsOf, Tracked, _NETWORK_S)
REACH = Verb("reach", Reach, HeardOf, _NETWORK_S)
DISK_FILES = Verb("disk-files", Paths, Files, _DISK_S)
DISK_LOOK = Verb("disk-look", Disk, BaseFacts, _DISK_S)
DISK_SERVE = Verb("disk-serve", Serve, Served, _DISK_S)
DISK_FETCH = Verb("disk-fetch", Fetch, Nothing, _DISK_S)
DISK_FETCHED = Verb("disk-fetched", Disk, Fetching, _DISK_S)
DISK_CREATE_OVERLAY = Verb("disk-create-overlay", Disk, Nothing, _DISK_S)
DISK_STOP = Verb("disk-stop", Stop, Nothing, _DISK_S)
DISK_REMOVE = Verb("disk-remove", Disk, Nothing, _DISK_S)

_LEGS: tuple[Verb[Any, Any], ...] = (OPEN, JOIN, ARM, TURNED, TURN, POINT, LEAVING, CLOSE)
_NETWORK: tuple[Verb[Any, Any], ...] = (FACTS, *_LEGS, FLOWS, REACH, TAKEN, WIDEN, NARROW)
_DISKS = (DISK_FILES, DISK_LOOK, DISK_SERVE, DISK_FETCH, DISK_FETCHED, DISK_CREATE_OVERLAY, DISK_STOP, DISK_REMOVE)
VERBS: dict[str, Verb[Any, Any]] = {verb.name: verb for verb in (*_NETWORK, *_DISKS)}
