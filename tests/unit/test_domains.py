"""Domains as people have them (tests/domains): nothing is against its move, or every obstacle is named at once. They
are looked at only; tests/lab/test_domains.py moves one, and compares its definition.

The definitions go through the real reading of XML, and through the questions that the real driver asks of a libvirt;
hosts and guest beside that are the world in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.unit.spoken_libvirt import error
from vmacro.drivers.fake import FakeWorld, host
from vmacro.drivers.fake.hypervisor import FakeHypervisor
from vmacro.drivers.libvirt import definition, fit, xml
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.errors import HostError
from vmacro.model.definitions import (
    FILTER,
    OF_THE_HOSTS_SIZE,
    SECRET,
    UNKNOWN,
    VOLUME,
    Definition,
    Device,
    Fit,
    Need,
    Pages,
)
from vmacro.model.facts import DiskCopy, DomainFacts, FileFacts
from vmacro.model.moves import Finding, Severity
from vmacro.model.nouns import Host
from vmacro.planning import checks
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import measured
from vmacro.wire.host_verbs import OTHER, PLAIN
from vmacro.wire.names import AGENT_CHANNEL

DOMAINS = Path(__file__).parents[1] / "domains"
MACHINES = ("pc-i440fx-10.0", "pc-q35-10.0")
# Of a host of the house: Debian's firmware, and what every Linux has.
FILES = (
    *(f"/usr/share/OVMF/OVMF_{name}_4M{kind}.fd" for name in ("CODE", "VARS") for kind in ("", ".ms")),
    *("/dev/urandom", "/var/log/libvirt/qemu"),
)
CAPABILITIES = """<domainCapabilities><devices>
<disk supported='yes'>
  <enum name='diskDevice'><value>disk</value><value>cdrom</value><value>floppy</value>{lun}</enum>
  <enum name='bus'><value>ide</value><value>fdc</value><value>virtio</value><value>usb</value><value>sata</value></enum>
</disk>
<graphics supported='yes'><enum name='type'><value>vnc</value>{spice}</enum></graphics>
<video supported='yes'><enum name='modelType'>
  <value>vga</value><value>cirrus</value><value>virtio</value><value>none</value></enum></video>
<tpm supported='{tpm}'><enum name='model'><value>tpm-tis</value><value>tpm-crb</value></enum>
  <enum name='backendModel'><value>passthrough</value><value>emulator</value></enum></tpm>
<rng supported='yes'><enum name='model'><value>virtio</value></enum></rng>
<redirdev supported='yes'><enum name='bus'><value>usb</value></enum></redirdev>
<channel supported='yes'><enum name='type'><value>pty</value><value>unix</value>{agent}</enum></channel>
</devices></domainCapabilities>"""


@dataclass(frozen=True)
class Berlin:
    """The destination's libvirt: Debian's, with KVM. `spice`, `tpm`: whether its QEMU has these."""

    spice: bool = True
    tpm: bool = True
    kvm: bool = True
    has: frozenset[str] = frozenset({"no-mac-spoofing"})
    lun: bool = False
    pages: tuple[tuple[int, int], ...] = ((2048, 100),)  # free ones, by size in KiB
    compared: int = libvirt.VIR_CPU_COMPARE_SUPERSET

    def _known(self, name: str, code: int) -> str:
        if name not in self.has:
            raise error(code)
        return name

    def nwfilterLookupByName(self, name: str) -> str:  # noqa: N802 libvirt's names
        return self._known(name, libvirt.VIR_ERR_NO_NWFILTER)

    def secretLookupByUUIDString(self, uuid: str) -> str:  # noqa: N802
        return self._known(uuid, libvirt.VIR_ERR_NO_SECRET)

    def secretLookupByUsage(self, _kind: int, usage: str) -> str:  # noqa: N802
        return self._known(usage, libvirt.VIR_ERR_NO_SECRET)

    def storagePoolLookupByName(self, name: str) -> str:  # noqa: N802
        return self._known(name, libvirt.VIR_ERR_NO_STORAGE_POOL)

    def networkLookupByName(self, name: str) -> SimpleNamespace:  # noqa: N802
        groups = "<network><portgroup name='office'/></network>" if name == "front" else "<network/>"
        return SimpleNamespace(XMLDesc=lambda: groups)

    def lookupByUUIDString(self, uuid: str) -> SimpleNamespace:  # noqa: N802
        self._known(uuid, libvirt.VIR_ERR_NO_DOMAIN)
        return SimpleNamespace(name=lambda: "clone")

    def getDomainCapabilities(self, _emulator: str, _arch: str, _machine: str, kind: str) -> str:  # noqa: N802
        if kind == "kvm" and not self.kvm:
            raise libvirt.libvirtError("the accel 'kvm' is not supported by '/usr/bin/qemu-system-x86_64'")
        value = "<value>{}</value>".format
        spice = (value("spice"), value("spicevmc")) if self.spice else ("", "")
        lun, tpm = value("lun") if self.lun else "", "yes" if self.tpm else "no"
        return CAPABILITIES.format(lun=lun, spice=spice[0], agent=spice[1], tpm=tpm)

    def compareHypervisorCPU(self, *_kind: str) -> int:  # noqa: N802
        return self.compared

    def getInfo(self) -> list[Any]:  # noqa: N802
        return ["x86_64", 16384, 8, 2000, 1, 1, 8, 1]

    def getFreePages(self, pages: list[int], _first: int, _cells: int) -> dict[int, dict[int, int]]:  # noqa: N802
        if pages[0] not in dict(self.pages):
            raise error(libvirt.VIR_ERR_OPERATION_FAILED)
        return {0: {pages[0]: dict(self.pages)[pages[0]]}}


@dataclass
class House(FakeWorld):
    """A guest with a definition of tests/domains, at bucharest. `kept`: what libvirt keeps beside it; `there`: files
    that the destination has besides."""

    name: str = "debian-virt-install"
    berlin: Berlin = Berlin()
    kept: dict[str, Any] = field(default_factory=dict)
    there: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__init__()
        live, next_file = DOMAINS / f"{self.name}.xml", DOMAINS / f"{self.name}.next.xml"
        self.live = live.read_text()
        self.stored = next_file.read_text() if next_file.exists() else self.live
        found = xml.domain(self.live)
        self.hosts["bucharest"].domains["web"] = _facts(found)
        for each in self.hosts.values():
            each.facts = replace(each.facts, machine_types=MACHINES, processor="<cpu/>")
            each.files |= {path: FileFacts(path, PLAIN, 7) for path in FILES}
        self.hosts["berlin"].files |= {path: FileFacts(path, PLAIN, 7) for path in self.there}
        here = self.hosts["bucharest"]
        here.disks.bases |= {disk.source: "" for disk in found.disks}
        here.files |= {n.name: FileFacts(n.name, PLAIN, 7) for n in self.definition().named("file")}

    def definition(self) -> Definition:
        return definition.definition(self.live, self.stored, **self.kept)

    def findings(self) -> list[Finding]:
        world = replace(self.world, hypervisor=lambda host: Hypervisor(self, host))
        wanted = Request(self.inventory.guests[0], self.inventory.sites[1], SEAMLESS, self.inventory.policy)
        return checks.check(wanted, measured.look(self.inventory, wanted, world, ask_clients=True))


def _facts(found: xml.DomainDescription) -> DomainFacts:
    return DomainFacts(
        "web",
        "uuid-1",
        "running",
        "",
        True,
        found.accelerator,
        found.machine,
        found.memory_mib,
        found.cards,
        found.disks,
        AGENT_CHANNEL in found.channels,
    )


class Hypervisor(FakeHypervisor):
    """Asks as the real driver does."""

    def __init__(self, house: House, host: Host) -> None:
        super().__init__(house, host.name)
        self._house = house

    def definition(self, name: str) -> Definition | None:
        return self._house.definition()

    def fit(self, name: str, uuid: str, wanted: Definition) -> Fit:
        return fit.fit(self._house.berlin, name, uuid, wanted, lambda _name: "")


# What stands against each, twice where it does twice; those that only warn begin with a question mark.
EXPECTED: dict[str, list[str]] = {
    "debian-virt-install": [],
    "windows-virt-install": ["file-missing", "file-missing"],
    "cloud-image": ["file-missing"],
    "virt-manager": ["?device-unknown"],
    "terraform": ["disk-kind", "volume-missing", "file-missing", "no-channel"],
    "opennebula": ["pool-missing", "pool-missing", "file-missing", "no-channel", "?arguments-unknown"],
    "two-cards": ["network-missing", "?cards-several"],
    "bridges": ["bridge-missing", "bridge-missing", "?cards-several", "?cards-several"],
    "filters": ["filter-missing", "?cards-several"],
    "uefi": [],
    "uefi-fedora": ["file-missing", "file-missing"],
    "hugepages": ["pages-short", "binding-missing", "binding-missing"],
    "passthrough": ["device-stays", "device-stays", "device-stays"],
    "sriov": ["device-stays", "device-stays", "?cards-several"],
    "shared-folder": ["device-stays", "device-stays"],
    "ceph": ["secret-missing", "secret-missing", "secret-missing"],
    "ejected": ["file-missing", "file-missing", "network-missing"],
    "snapshots": ["snapshots-stay", "saved-state", "?checkpoints-stay"],
    "listening": ["listen-address", "?listen-unknown"],
    "kernel": ["file-missing", "file-missing"],
    "sealed": ["device-stays", "device-stays", "device-stays", "device-stays"],
    "old-desktop": ["device-stays", "?file-missing", "file-missing", "?device-unknown"],
    "storage": ["disk-kind", "file-missing", "file-missing", "volume-missing"],
}
KEPT = {"snapshots": {"snapshots": 2, "checkpoints": 1, "saved": True}}


def codes(found: list[Finding]) -> list[str]:
    return sorted(("" if f.severity == Severity.BLOCKER else "?") + f.code for f in found)


def test_the_table_has_every_definition() -> None:
    files = {path.name.partition(".")[0] for path in DOMAINS.glob("*.xml")}
    assert files == set(EXPECTED) and len(files) >= 20


@pytest.mark.parametrize("name", EXPECTED)
def test_each_is_free_to_move_or_has_every_obstacle_named(name: str) -> None:
    found = House(name=name, kept=KEPT.get(name, {})).findings()
    assert codes(found) == sorted(EXPECTED[name]), [(f.code, f.message) for f in found]


@pytest.mark.parametrize(
    ("name", "there", "left"),
    [
        ("windows-virt-install", ("/isos/Win11_24H2_German_x64.iso", "/isos/virtio-win.iso"), []),
        ("cloud-image", ("/images/web-seed.iso",), []),
        ("uefi-fedora", ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"), []),
        ("kernel", ("/srv/boot/vmlinuz-6.12", "/srv/boot/initrd-6.12"), []),
        ("ejected", ("/isos/rescue.iso", "/images/data.qcow2"), ["network-missing"]),
    ],
)
def test_what_is_put_there_is_no_obstacle_any_more(name: str, there: tuple[str, ...], left: list[str]) -> None:
    assert codes(House(name=name, there=there).findings()) == left


@pytest.mark.parametrize(
    ("name", "berlin", "more"),
    [
        ("virt-manager", Berlin(spice=False), ["device-unsupported", "device-unsupported"]),
        ("virt-manager", Berlin(tpm=False), ["device-unsupported", "device-unsupported"]),
        ("uefi", Berlin(kvm=False), ["hypervisor-refuses"]),
        ("uefi", Berlin(has=frozenset({"uuid-1"})), ["uuid-taken"]),
    ],
)
def test_what_a_destination_lacks_is_an_obstacle(name: str, berlin: Berlin, more: list[str]) -> None:
    expected = sorted([*EXPECTED[name], *more])
    assert codes(House(name=name, berlin=berlin).findings()) == expected


@pytest.mark.parametrize("kind", ["spiceport", "qemu-vdagent", "dbus", "tcp", "udp", "file", "pipe", "null", "dev"])
def test_a_channel_of_a_kind_that_no_libvirt_lists_is_no_obstacle(kind: str) -> None:
    """libvirt's own tests/domaincapsdata have pty, unix and spicevmc, whatever QEMU has besides."""
    house = House(name="uefi")
    more = f"<channel type='{kind}'><target type='virtio' name='org.spice-space.webdav.0'/></channel></devices>"
    house.live = house.stored = house.live.replace("</devices>", more)
    assert codes(house.findings()) == []


def with_devices(more: str) -> House:
    """A guest that may move, and has these besides."""
    house = House(name="uefi")
    house.live = house.stored = house.live.replace("</devices>", f"{more}</devices>")
    house.hosts["bucharest"].domains["web"] = _facts(xml.domain(house.live))
    return house


LUN = "<disk type='block' device='lun'><source dev='/dev/sdb'/><target dev='sda' bus='virtio'/></disk>"
NBD = """<disk type='network' device='disk'><driver type='raw'/>
<source protocol='nbd' name='data'>{}</source><target dev='vdx' bus='virtio'/></disk>"""


def test_a_lun_is_a_disk() -> None:
    """What has its name at the destination is another one: libvirt says nothing of it (cache='none')."""
    house = with_devices(LUN)
    house.berlin = Berlin(lun=True)
    there = FileFacts("/dev/sdb", OTHER, 1 << 40)
    for each in house.hosts.values():
        each.files[there.path] = there
    assert codes(house.findings()) == ["disk-kind"]
    house.live = house.stored = house.live.replace("<source dev=", "<shareable/><source dev=")
    house.hosts["bucharest"].domains["web"] = _facts(xml.domain(house.live))
    assert codes(house.findings()) == []


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("<host name='nas.example' port='10809'/>", []),
        ("<host name='localhost' port='10809'/>", ["disk-kind"]),
        ("<host name='127.0.0.2' port='10809'/>", ["disk-kind"]),
        ("<host name='::1' port='10809'/>", ["disk-kind"]),
        ("<host transport='unix' socket='/run/nbd.sock'/>", ["disk-kind", "file-missing"]),
    ],
)
def test_a_disk_by_network_may_be_its_hosts_own(server: str, found: list[str]) -> None:
    assert codes(with_devices(NBD.format(server)).findings()) == found


@pytest.mark.parametrize(
    "more",
    [
        "<video><model type='virtio'><acceleration accel3d='yes'/></model></video>",
        "<video><driver name='vhostuser'/><model type='virtio'/></video>",
        "<sound model='usb'/>",
        "<interface type='user'><mac address='52:54:00:00:00:09'/><model type='usb-net'/></interface>",
        "<sound model='virtio'/>",
        "<crypto model='virtio' type='qemu'><backend model='builtin'/></crypto>",
        "<disk type='network'><source protocol='rbd' name='x/y'/><target dev='nvme0n1' bus='nvme'/></disk>",
    ],
)
def test_what_qemu_cannot_send_stays(more: str) -> None:
    """libvirt begins the copy, and QEMU refuses it."""
    found = [f for f in with_devices(more).findings() if f.code == "device-stays"]
    assert len(found) == 1 and "QEMU does not know how to send its state" in found[0].message


GL = "<gl rendernode='/dev/dri/renderD128'/>"
RBD = "<source protocol='rbd' name='a/b'><config file='/etc/ceph/site.conf'/></source>"


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        ("<serial type='unix'><source mode='connect' path='/run/x.sock'/></serial>", "file-missing", "/run/x.sock"),
        ("<serial type='unix'><source mode='bind' path='/run/own/x'/></serial>", "file-missing", "/run/own "),
        ("<console type='pipe'><source path='/run/fifo'/></console>", "file-missing", "/run/fifo"),
        ("<redirdev type='tcp'><source mode='bind' host='10.50.1.1'/></redirdev>", "listen-address", "10.50.1.1"),
        ("<rng><backend model='egd' type='unix'><source mode='connect' path='/run/egd'/></backend></rng>", "", "egd"),
        ("<smartcard mode='passthrough' type='unix'><source path='/run/card'/></smartcard>", "", "/run/card"),
        (f"<graphics type='egl-headless'>{GL}</graphics>", "file-missing", "/dev/dri/renderD128"),
        ("<graphics type='vnc'><listen type='socket' socket='/run/own/vnc'/></graphics>", "file-missing", "/run/own "),
        (f"<disk type='network'>{RBD}<target dev='vdx'/></disk>", "file-missing", "/etc/ceph/site.conf"),
        ("<interface type='ethernet'><target dev='tap7' managed='no'/></interface>", "bridge-missing", "tap7"),
        ("<interface type='vhostuser'><source path='/run/own/x' mode='server'/></interface>", "file-missing", "/own "),
        ("<interface type='vhostuser'><source path='/run/ovs/x' mode='client'/></interface>", "file-missing", "/ovs/x"),
        ("<interface type='server'><source address='10.50.1.1'/></interface>", "listen-address", "10.50.1.1"),
        (
            "<interface type='udp'><source><local address='10.9.9.9'/></source></interface>",
            "listen-unknown",
            "10.9.9.9",
        ),
        ("<interface type='user'><backend type='passt' logFile='/srv/a.log'/></interface>", "file-missing", "/srv "),
        ("<lease><target path='/shared/lease'/></lease>", "file-missing", "/shared/lease"),
        ("<audio id='1' type='oss'><input dev='/dev/dsp0'/></audio>", "file-missing", "/dev/dsp0"),
        ("<audio id='1' type='file' path='/srv/a.wav'/>", "file-missing", "/srv "),
        ("<shmem name='a' role='master'><server path='/run/iv'/></shmem>", "file-missing", "/run/iv"),
        ("<tpm><backend type='emulator'><source type='dir' path='/srv/t'/></backend></tpm>", "file-missing", "/srv "),
        ("<pstore backend='acpi-erst'><path>/srv/pstore</path></pstore>", "file-missing", "/srv "),
        ("</devices><blkiotune><device><path>/dev/sdz</path></device></blkiotune><devices>", "", "/dev/sdz"),
        ("</devices><os><nvram>/srv/web.fd</nvram></os><devices>", "", "/srv "),
        ("<memory model='dimm'><source><nodemask>1-3</nodemask></source></memory>", "binding-missing", "number 3"),
        ("</devices><sysinfo type='fwcfg'><entry name='opt/ign' file='/a.ign'/></sysinfo><devices>", "", "/a.ign"),
    ],
)
def test_whatever_it_names_is_looked_for(more: str, code: str, told: str) -> None:
    found = [f for f in with_devices(more).findings() if f.code == (code or "file-missing")]
    assert [told in f.message for f in found] == [True]


@pytest.mark.parametrize("folder", ["/run/libvirt/qemu/channel/3-web", "/var/lib/libvirt/qemu/channel/target/d"])
def test_what_libvirt_makes_for_each_domain_is_not_looked_for(folder: str) -> None:
    more = f"<channel type='unix'><source mode='bind' path='{folder}/x.0'/><target type='virtio' name='x.0'/></channel>"
    assert codes(with_devices(more).findings()) == []


def test_a_port_group_is_looked_for_in_the_network_of_its_name() -> None:
    """libvirt takes a card without one, and without its VLAN."""
    card = (
        "<interface type='network'><mac address='52:54:00:00:00:{}'/><source network='{}' portgroup='{}'/></interface>"
    )
    more = card.format("07", "front", "office") + card.format("08", "front", "lab")
    found = [f.message for f in with_devices(more).findings() if f.code == "port-group-missing"]
    assert len(found) == 1 and "'front/lab'" in found[0] and "52:54:00:00:00:08" in found[0]


TIED = "<disk type='file'><driver type='qcow2'/><source file='/images/d'>{}</source>{}<target dev='vdx'/></disk>"
LUKS = "<encryption format='luks'><secret type='passphrase' uuid='8a1f6c1e-5a60-4d2c-8f39-1c1a52b5d6c1'/></encryption>"
BELOW = "<backingStore type='file'><format type='qcow2'/><source file='/images/a'>{}</source>{}</backingStore>"
DEVICE_BELOW = "<backingStore type='block'><format type='raw'/><source dev='/dev/vg/a'/><backingStore/></backingStore>"
RBD_BELOW = "<backingStore type='network'><format type='raw'/><source protocol='rbd' name='a/b'/></backingStore>"


@pytest.mark.parametrize(
    ("inside", "beside", "told"),
    [
        (LUKS, "", "encrypted"),
        ("", LUKS, "encrypted"),
        ("", BELOW.format(LUKS, ""), "encrypted"),
        ("<slices><slice type='storage' offset='12' size='1024'/></slices>", "", "a part of its file"),
        ("<dataStore type='file'><format type='raw'/><source file='/images/d.raw'/></dataStore>", "", "another file"),
        ("", DEVICE_BELOW, "no file (block)"),
        ("", BELOW.format("", RBD_BELOW), "no file (network)"),
    ],
)
def test_a_disk_that_is_more_than_its_files_stays(inside: str, beside: str, told: str) -> None:
    """What freezes it would have the guest write on in the clear, or its copy would be read as it is not."""
    house = with_devices(TIED.format(inside, beside))
    house.berlin = Berlin(has=frozenset({"8a1f6c1e-5a60-4d2c-8f39-1c1a52b5d6c1"}))
    house.hosts["bucharest"].disks.bases["/images/d"] = ""
    (found,) = house.findings()
    assert found.code == "disk-kind" and told in found.message
    whole = with_devices(TIED.format("", BELOW.format("", "<backingStore/>") + f"<mirror>{LUKS}</mirror>"))
    (disk,) = (d for d in whole.hosts["bucharest"].domains["web"].disks if d.target == "vdx")
    assert disk.tied == "", "a copy of it that is being made is not the disk yet"


MEDIUM = (
    "<disk type='file' device='{}'><source file='/isos/x' startupPolicy='{}'/><readonly/><target dev='vdx'/></disk>"
)


@pytest.mark.parametrize(
    ("device", "policy", "live", "later"),
    [
        ("cdrom", "optional", "?file-missing", "?file-missing"),
        ("cdrom", "requisite", "?file-missing", "file-missing"),
        ("cdrom", "mandatory", "file-missing", "file-missing"),
        ("disk", "optional", "file-missing", "?file-missing"),
        ("disk", "requisite", "file-missing", "file-missing"),
    ],
)
def test_what_may_be_missing_at_a_migration_may_be_needed_for_a_start(
    device: str, policy: str, live: str, later: str
) -> None:
    """And the other way round: libvirt's qemuDomainCheckDiskStartupPolicy."""
    plain, house = House(name="uefi").live, with_devices(MEDIUM.format(device, policy))
    house.stored = plain
    house.hosts["bucharest"].files["/isos/x"] = FileFacts("/isos/x", PLAIN, 7)
    assert codes(house.findings()) == [live]
    house.live, house.stored = plain, house.live
    house.hosts["bucharest"].domains["web"] = _facts(xml.domain(plain))
    assert codes(house.findings()) == [later]


def test_a_name_that_nobody_can_be_asked_for_hides_nothing() -> None:
    """Screenshots of a Mac have such spaces in their names; so have some of its users' images."""
    medium = "<disk type='file' device='cdrom'><source file='/isos/{}.iso'/><readonly/><target dev='vdx'/></disk>"
    usb = "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/><product id='0x2'/></source></hostdev>"
    for odd in ("10.15\u202fAM", "x" * 1000):
        found = with_devices(medium.format(odd) + usb).findings()
        assert codes(found) == ["?definition-unread", "device-stays"]
        assert f"cdrom vdx: /isos/{odd.encode('unicode_escape').decode()}"[:99] in found[1].message


def test_a_disk_of_the_next_start_may_be_one_that_the_live_one_builds_on() -> None:
    """Of a snapshot of the live domain alone: at its new home its next start would look for what was left here."""
    house = House(name="uefi")
    below = "<backingStore type='file'><format type='qcow2'/><source file='/images/web.qcow2'/></backingStore>"
    live = house.live.replace("<source file='/images/web.qcow2'/>", f"<source file='/images/web.snap'/>{below}")
    assert live != house.live
    house.live = live
    house.hosts["bucharest"].domains["web"] = _facts(xml.domain(live))
    house.hosts["bucharest"].disks.bases["/images/web.snap"] = ""
    (found,) = house.findings()
    assert found.code == "file-missing" and "/images/web.qcow2 (disk vda, at its next start)" in found.message


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("<seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-x</label></seclabel>", ["apparmor"]),
        ("<seclabel type='static' model='selinux'/><seclabel type='dynamic' model='dac'/>", ["selinux", "dac"]),
        ("<seclabel type='none' model='none'/><seclabel type='none'/>", []),
        ("<devices><disk><source><seclabel model='smack' relabel='no'/></source></disk></devices>", ["smack"]),
    ],
)
def test_whose_labels_a_domain_has(label: str, found: list[str]) -> None:
    plain, labelled = PINNED.format(""), PINNED.format(label)
    assert [*definition.definition(labelled, plain).labels] == [*definition.definition(plain, labelled).labels] == found


def test_hosts_tell_their_security_drivers() -> None:
    driver = "<secmodel><model>{}</model><doi>0</doi></secmodel>".format
    told = f"<capabilities><host>{driver('apparmor')}{driver('dac')}</host></capabilities>"
    assert xml.security_models(told) == ("apparmor", "dac")


@pytest.mark.parametrize("code", [0, libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID])
def test_block_jobs_are_asked_for_by_disk(simple: QemuHypervisor, code: int) -> None:
    """A pull is not in the XML; libvirt refuses to migrate all the same."""
    asked = list[str]()

    def info(target: str) -> dict[str, int]:
        asked.append(target)
        if code:
            raise error(code)
        return {"type": 1, "bandwidth": 0, "cur": 1, "end": 9} if target == "vdb" else {}

    disk = "<disk device='{}'><target dev='{}'/></disk>".format
    disks = disk("disk", "vda") + disk("disk", "vdb") + disk("cdrom", "sda")
    kept = {"snapshotNum": lambda: 0, "listAllCheckpoints": list, "hasManagedSaveImage": lambda: 0}
    live = PINNED.format(f"<devices>{disks}</devices>")
    domain = SimpleNamespace(isPersistent=lambda: 0, XMLDesc=lambda: live, blockJobInfo=info, **kept)
    connection = SimpleNamespace(lookupByName=lambda _name: domain)
    found = QemuHypervisor(host("b1"), cast(Connections, SimpleNamespace(get=lambda _host: connection))).definition("x")
    assert found is not None and found.block_jobs == (() if code else ("vdb",)) and asked == ["vda", "vdb"]


@pytest.mark.parametrize("kind", ["commandline", "override"])
def test_what_only_qemu_understands_is_told(kind: str) -> None:
    more = f"<q:{kind} xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-S'/></q:{kind}>"
    assert definition.definition(PINNED.format(more), "").arguments


def test_a_pool_that_is_not_active_has_nothing_and_hides_nothing() -> None:
    class Still(Berlin):
        def storagePoolLookupByName(self, _name: str) -> str:  # noqa: N802
            raise error(libvirt.VIR_ERR_OPERATION_INVALID)

        def secretLookupByUUIDString(self, _uuid: str) -> str:  # noqa: N802
            raise error(libvirt.VIR_ERR_INTERNAL_ERROR)

    needs = tuple(Need(kind, "x/y", "it", live=True) for kind in (VOLUME, SECRET, FILTER))
    found = fit.fit(Still(), "web", "uuid-1", Definition(needs=needs), lambda _name: "")
    assert (found.absent, found.unasked) == ((needs[0], needs[2]), (needs[1],))


def test_no_other_disk_is_frozen_beside_those_that_move() -> None:
    """libvirt makes a snapshot of each that it is not told of: the guest would write to an overlay of its floppy."""
    floppy = "<disk type='file' device='floppy'><source file='/isos/a.img'/><target dev='fda'/></disk>"
    live, made = with_devices(LUN + floppy).live, list[str]()
    frozen = SimpleNamespace(XMLDesc=lambda: live, snapshotCreateXML=lambda text, _flags: made.append(text))
    connection = SimpleNamespace(lookupByName=lambda _name: frozen)
    real = QemuHypervisor(host("b1"), cast(Connections, SimpleNamespace(get=lambda _host: connection)))
    (own,) = (disk for disk in xml.domain(live).disks if disk.kind == "file")
    real.freeze("web", (DiskCopy("abcd", own.target, own.source, own.format),))
    kinds = {d.get("name"): d.get("snapshot") for d in xml.parse(made[0]).iterfind("disks/disk")}
    assert kinds == {own.target: "external", "sda": "no", "fda": "no"}
    frozen.XMLDesc = lambda: live.replace(own.source, f"{own.source}.vmacro-abcd")
    real.freeze("web", (DiskCopy("abcd", own.target, own.source, own.format),))
    assert len(made) == 1, "once"


def test_a_processor_that_is_passed_through_needs_the_same_one_there() -> None:
    house = House()
    house.hosts["berlin"].facts = replace(house.hosts["berlin"].facts, processor="<cpu><model>EPYC</model></cpu>")
    assert codes(house.findings()) == ["?processor-unknown"]


@pytest.mark.parametrize(("same", "found"), [(True, []), (False, ["processor-differs"])])
def test_a_processor_that_lacks_something_is_an_obstacle(same: bool, found: list[str]) -> None:
    house = House(name="uefi", berlin=Berlin(compared=libvirt.VIR_CPU_COMPARE_INCOMPATIBLE))
    if not same:
        house.hosts["berlin"].facts = replace(
            house.hosts["berlin"].facts, processor="<cpu><model>core2duo</model></cpu>"
        )
    assert codes(house.findings()) == found


@pytest.mark.parametrize(
    ("size", "pages", "found"),
    [
        ("", ((1 << 20, 1),), []),
        ("", ((2048, 512), (1 << 20, 0)), []),
        ("", ((2048, 256), (1 << 20, 0)), ["pages-short"]),
        ("<page size='2048' unit='KiB'/>", ((1 << 20, 1),), ["pages-short"]),
    ],
)
def test_pages_of_no_named_size_may_be_of_any(size: str, pages: tuple[tuple[int, int], ...], found: list[str]) -> None:
    """They are of the host's default size: default_hugepagesz=1G, say."""
    house = House(name="uefi", berlin=Berlin(pages=pages))
    memory = f"<memory unit='MiB'>1024</memory><memoryBacking><hugepages>{size}</hugepages></memoryBacking>"
    house.live = house.stored = re.sub("<memory.*</memory>", memory, house.live)
    assert codes(house.findings()) == found


@pytest.mark.parametrize(("check", "found"), [("partial", ["processor-differs"]), ("none", ["?processor-unknown"])])
def test_a_processor_of_which_libvirt_checks_nothing_may_have_less_than_it_says(check: str, found: list[str]) -> None:
    """QEMU leaves out what its host lacks, and the guest runs all the same."""
    house = House(name="uefi", berlin=Berlin(compared=libvirt.VIR_CPU_COMPARE_INCOMPATIBLE))
    house.hosts["berlin"].facts = replace(house.hosts["berlin"].facts, processor="<cpu><model>core2duo</model></cpu>")
    processor = f"<cpu mode='custom' match='exact' check='{check}'><model>Skylake-Client</model></cpu>"
    house.live = house.stored = house.live.replace("<cpu mode='host-model'/>", processor)
    assert codes(house.findings()) == found


def test_what_the_guests_own_disks_build_on_is_sent_and_not_asked_for() -> None:
    house = House(name="cloud-image")
    (disk,) = house.hosts["bucharest"].domains["web"].disks
    assert disk.backing == "/images/debian-13-genericcloud-amd64.qcow2"
    assert disk.backing not in {need.name for need in house.definition().needs}
    golden = FileFacts(disk.backing, PLAIN, 1 << 30, 1 << 42)
    house.hosts["bucharest"].files[disk.backing] = golden
    assert "pool-full" in codes(house.findings()), "its size counts"


def test_both_definitions_of_a_need_are_told_apart() -> None:
    house = House(name="ejected")
    needs = {need.name: (need.live, need.next) for need in house.definition().needs}
    assert needs["/isos/rescue.iso"] == (False, True) and needs["front"] == (True, True)
    assert "/images/web.qcow2" not in needs


@pytest.fixture
def simple() -> Iterator[QemuHypervisor]:
    """libvirt's own test driver, for a host whose libvirt can be asked little. Its domain is `test`."""
    connection = libvirt.open("test:///default")
    yield QemuHypervisor(host("b1"), cast(Connections, SimpleNamespace(get=lambda _host: connection)))
    connection.close()


HUGE = Pages(2048, 4)
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # of that domain


def test_a_definition_is_read_with_what_libvirt_keeps_beside_it(simple: QemuHypervisor) -> None:
    found = simple.definition("test")
    assert found is not None and simple.definition("nobody") is None
    assert (found.memory_mib, found.accelerator, found.autostart) == (8192, "test", False)
    assert (found.snapshots, found.checkpoints, found.saved) == (0, 0, False)
    for _ in range(2):
        simple.set_autostart("test")
    again = simple.definition("test")
    assert again is not None and again == replace(found, autostart=True)
    with pytest.raises(HostError, match=r"^host b1: no domain nobody"):
        simple.set_autostart("nobody")


def test_what_a_libvirt_cannot_be_asked_is_unknown_and_not_absent(simple: QemuHypervisor) -> None:
    needs = tuple(Need(kind, UUID, "it", live=True) for kind in (FILTER, SECRET, VOLUME))
    spice = Device("graphics", "type", "spice")
    wanted = Definition(accelerator="kvm", processor="<cpu/>", needs=needs, devices=(spice,), pages=(HUGE,))
    found = simple.fit("test", UUID, wanted)
    assert (found.unasked, found.absent) == (needs[:2], needs[2:]), "of pools it knows"
    assert (found.silent, found.lacks, found.refusal, found.free_pages) == ((spice,), (), "", (Pages(2048, 0),))
    assert found.processor == UNKNOWN and "not supported" in found.processor_why
    assert found.cpus > 0 and found.namesake == ""
    assert simple.fit("web", UUID, wanted).namesake == "test"


PINNED = "<domain type='kvm'><vcpu cpuset='0-3,^2'>2</vcpu>{}</domain>"
MEMORY = "<domain><memory unit='MiB'>1024</memory>{}</domain>"


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("", (4, 0)),
        ("<cputune><emulatorpin cpuset='7'/></cputune>", (8, 0)),
        ("<numatune><memnode cellid='0' mode='strict' nodeset='0,2'/></numatune>", (4, 3)),
        ("<cputune><vcpupin vcpu='0' cpuset='x'/></cputune>", (4, 0)),
    ],
)
def test_what_a_domain_is_bound_to(more: str, found: tuple[int, int]) -> None:
    seen = definition.definition(PINNED.format(more), "")
    assert (seen.cpus, seen.nodes) == found


CELLS = "<cpu><numa><cell id='0' memory='786432'/><cell id='1' memory='262144' unit='KiB'/></numa></cpu>"
SIZE = "<target><size unit='MiB'>512</size></target>"
MODULE = f"<devices><memory model='dimm'><source>{{}}</source>{SIZE}</memory></devices>"
OWN_SIZE = MODULE.format("<pagesize unit='KiB'>2048</pagesize>")


@pytest.mark.parametrize(
    ("pages", "more", "found"),
    [
        ("", "", {}),
        ("<hugepages/>", "", {OF_THE_HOSTS_SIZE: 1024}),
        ("<hugepages><page size='1' unit='G'/></hugepages>", "", {1 << 20: 1024}),
        ("<hugepages><page size='4' unit='KiB'/></hugepages>", "", {}),
        ("<hugepages><page size='2' unit='M' nodeset='0'/></hugepages>", CELLS, {2048: 768}),
        (
            "<hugepages><page size='1' unit='G'/><page size='2' unit='M' nodeset='0'/></hugepages>",
            CELLS,
            {2048: 768, 1 << 20: 256},
        ),
        ("<hugepages><page size='2' unit='M' nodeset='0-1,7'/></hugepages>", CELLS, {2048: 1024}),
        ("<hugepages><page size='2' unit='M' nodeset='x,0-99999999'/></hugepages>", CELLS, {2048: 1024}),
        ("", OWN_SIZE, {2048: 512}),
        ("", MODULE.format(""), {}),
        ("<hugepages><page size='1' unit='G'/></hugepages>", OWN_SIZE, {2048: 512, 1 << 20: 512}),
    ],
)
def test_what_of_its_memory_lies_in_huge_pages(pages: str, more: str, found: dict[int, int]) -> None:
    """A module of memory may, and the rest not; nodes may have sizes of their own."""
    text = MEMORY.format(f"<memoryBacking>{pages}</memoryBacking>{more}")
    seen = definition.definition(text, "")
    assert ({each.kib: each.mib for each in seen.pages}, seen.huge_mib) == (found, sum(found.values()))
    later = definition.definition(MEMORY.format(""), text)
    assert (later.pages, later.huge_mib) == (seen.pages, 0), "of its next start, and not now"


def test_a_processor_without_end_is_none() -> None:
    """The host's libvirt said so; writing it down would take all of our stack."""
    deep = "<cpu>" + "<a>" * 50_000 + "</a>" * 50_000 + "</cpu>"
    with pytest.raises(ValueError, match="<cpu> is nested more than"):
        definition.definition(PINNED.format(deep), "")
    with pytest.raises(ValueError, match="<cpu> is nested more than"):
        xml.host_processor(
            f"<capabilities><host>{deep.replace('<a>', '<feature>').replace('/a>', '/feature>')}</host></capabilities>"
        )


def test_the_next_start_is_bound_too() -> None:
    more = "<memoryBacking><hugepages/></memoryBacking><devices><graphics type='spice'/></devices>"
    seen = definition.definition("<domain type='kvm'/>", PINNED.format(more))
    assert (seen.cpus, seen.devices) == (4, (Device("graphics", "type", "spice"),))


def test_a_page_size_that_nobody_knows_is_no_other() -> None:
    odd = "<memoryBacking><hugepages><page size='1' unit='acre'/></hugepages></memoryBacking>"
    with pytest.raises(ValueError, match="unit 'acre' is unknown"):
        definition.definition(PINNED.format(odd), "")
