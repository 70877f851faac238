"""The definitions of tests/domains on a lab's hosts: each as it is, but for what a lab has no room for."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.lab.domains import FILE, told
from tests.support import on_host, virsh
from vmacro.lab.lab import Lab
from vmacro.wire.names import AGENT_CHANNEL

DOMAINS = Path(__file__).parents[1] / "domains"
MEMORY_MIB = 32
FIRMWARE = [f"/usr/share/OVMF/OVMF_{part}_4M{kind}.fd" for part in ("CODE", "VARS") for kind in ("", ".ms")]
# What the definitions name, and the source has.
FILES = (
    *("/isos/Win11_24H2_German_x64.iso", "/isos/virtio-win.iso", "/isos/rescue.iso", "/isos/old.iso"),
    *("/isos/drivers.img", "/images/web-seed.iso", "/var/lib/libvirt/images/commoninit.iso", "/srv/isos/debian.iso"),
    *("/srv/boot/vmlinuz-6.12", "/srv/boot/initrd-6.12", "/var/lib/one/datastores/0/42/disk.1"),
    *("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd", *FIRMWARE),
)
GOLDEN = "/images/debian-13-genericcloud-amd64.qcow2"
DISKS = (
    *("/images/data.qcow2", GOLDEN, "/srv/golden/tools.qcow2"),
    *("/var/lib/one/datastores/0/42/disk.0", "/terraform/web.qcow2"),
)
POOLS = {"own": "/images", "terraform": "/terraform", "isos": "/srv/isos"}
LISTEN, ANOTHER = "10.9.0.1", "192.0.2.7"
NETWORK = "<network><name>{}</name><forward mode='bridge'/><bridge name='br-lan'/></network>"
# What runs instead of one that this host cannot start.
BARE = """<domain type='{kind}'><name>{name}</name><memory unit='MiB'>{memory}</memory>
<os><type arch='x86_64' machine='{machine}'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk>
<interface type='network'><mac address='{mac}'/><source network='front'/><model type='virtio'/></interface>
<channel type='unix'><target type='virtio' name='{channel}'/></channel></devices></domain>"""


@dataclass(frozen=True)
class Real:
    """One of them, as a domain. `whole`: its host has started it; else it has BARE running, and it is what the next
    start is to be, since `why`."""

    name: str
    domain: str
    whole: bool
    why: str = ""


def names() -> list[str]:
    """Of all definitions."""
    return sorted(path.stem for path in DOMAINS.glob("*.xml") if not path.stem.endswith(".next"))


def mac(number: int, card: int = 0) -> str:
    """A card of its own for each, which no other test has."""
    return f"52:54:00:dd:{number:02x}:{card:02x}"


def domain_of(number: int) -> str:
    """Its name at libvirt, and its guest's."""
    return f"d{number}"


def disk_of(number: int) -> str:
    """Its own."""
    return f"/images/{domain_of(number)}.qcow2"


def machine_of(text: str) -> str:
    """Of which machine type its devices are: what one has, another may lack."""
    found = ElementTree.fromstring(text).find("os/type")
    assert found is not None
    return found.get("machine", "q35")


def adapted(text: str, number: int, kind: str, here: str) -> str:
    """A definition whose domain has a name, cards, a disk and little memory of its own. What only KVM has goes where
    there is none, and what no host of a lab has, goes: SPICE, a TPM, sealed memory, firmware that libvirt would choose.
    What listens at the address of its host listens at `here`."""
    root = ElementTree.fromstring(text)
    devices, system = root.find("devices"), root.find("os")
    assert devices is not None and system is not None
    if kind != root.get("type"):
        root.set("type", kind)
        _drop(root, "cpu")
    for element in root:
        if element.tag in ("memory", "currentMemory"):
            element.text = str(MEMORY_MIB)
            element.set("unit", "MiB")
        elif element.tag == "name":
            element.text = domain_of(number)
    for card, found in enumerate(devices.findall("interface/mac")):
        found.set("address", mac(number, card))
    _drop(root, "launchSecurity")
    _drop(system, "firmware")
    system.attrib.pop("firmware", None)
    for what in ("tpm", "graphics[@type='spice']", "channel[@type='spicevmc']", "redirdev", "audio"):
        _drop(devices, what)
    changed = ElementTree.tostring(root, encoding="unicode").replace(LISTEN, here)
    return changed.replace("/images/web.qcow2", disk_of(number)).replace("web_VARS", f"{domain_of(number)}_VARS")


def _drop(parent: ElementTree.Element, what: str) -> None:
    for found in parent.findall(what):
        parent.remove(found)


@contextmanager
def house(lab: Lab, host: str) -> Iterator[None]:
    """All that the definitions name and a host can be given: files, pools, networks, addresses. A pool for their own
    disks is at the other host, too."""
    with ExitStack() as undo:
        for at in lab.topology.sites:
            for name, path in POOLS.items() if at == host else [("own", POOLS["own"])]:
                virsh(lab, at, "pool-create-as", name, "dir", "--target", path, "--build")
                undo.callback(on_host, lab, at, "rm", "-rf", path)
                undo.callback(virsh, lab, at, "pool-destroy", name)
        undo.callback(on_host, lab, host, "rm", "-f", *FILES, *DISKS)
        folders = {str(PurePosixPath(path).parent) for path in (*FILES, *DISKS)}
        make = ["set -e", f"mkdir -p {' '.join(folders)}", f"truncate -s 65536 {' '.join(FILES)}"]
        make += [f"qemu-img create -q -f qcow2 {path} 16M" for path in DISKS]
        make += ["ip link add br-lan type bridge", f"ip address add {ANOTHER}/32 dev lo"]
        on_host(lab, host, "sh", "-c", "\n".join(make))
        undo.callback(on_host, lab, host, "ip", "address", "del", f"{ANOTHER}/32", "dev", "lo")
        undo.callback(on_host, lab, host, "ip", "link", "del", "br-lan")
        for name in ("storage", "lan"):
            told(lab, host, NETWORK.format(name), "net-create", FILE)
            undo.callback(virsh, lab, host, "net-destroy", name)
        told(lab, host, "<filter name='office-only'/>", "nwfilter-define", FILE)
        undo.callback(virsh, lab, host, "nwfilter-undefine", "office-only")
        for pool in POOLS:
            virsh(lab, host, "pool-refresh", pool)
        yield


@contextmanager
def defined(lab: Lab, host: str, number: int, name: str, kind: str) -> Iterator[Real]:
    """One of them, paused: none has an operating system that would do anything."""
    domain, here, live = domain_of(number), lab.host(host).address, DOMAINS / f"{name}.xml"
    backing = ["-b", GOLDEN, "-F", "qcow2"] if name == "cloud-image" else []
    on_host(lab, host, "qemu-img", "create", "-q", "-f", "qcow2", *backing, disk_of(number), "16M")
    gone = f"virsh undefine {domain} --nvram --snapshots-metadata --checkpoints-metadata --managed-save"
    after, why = live.with_suffix(".next.xml"), ""
    try:
        try:
            told(lab, host, adapted(live.read_text(), number, kind, here), "define", FILE)
            virsh(lab, host, "start", domain, "--paused")
        except subprocess.CalledProcessError as error:
            why = str(error.stderr).strip() or "no reason was given"
            on_host(lab, host, "sh", "-c", f"{gone}; true")
            bare = {"kind": kind, "name": domain, "memory": MEMORY_MIB, "mac": mac(number), "disk": disk_of(number)}
            bare |= {"machine": machine_of(live.read_text()), "channel": AGENT_CHANNEL}
            told(lab, host, BARE.format(**bare), "define", FILE)
            virsh(lab, host, "start", domain, "--paused")
        if why or after.exists():
            uuid = virsh(lab, host, "domuuid", domain).strip()
            text = adapted((after if after.exists() else live).read_text(), number, kind, here)
            told(lab, host, text.replace("</name>", f"</name><uuid>{uuid}</uuid>", 1), "define", FILE)
        yield Real(name, domain, not why, why)
    finally:
        on_host(lab, host, "sh", "-c", f"virsh destroy {domain}; {gone}; rm -f {disk_of(number)}")
