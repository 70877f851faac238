"""Domains as people have them (tests/domains) that move whole: each boots the lab's small guest at one host, with a
disk of its own; its clients' connections live through `vmacro migrate`; its definitions are afterwards as they were,
but for what a move must change. Those that no lab can start, or that are refused, are in test_definitions.py.
"""

from __future__ import annotations

import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.clients import ECHO
from tests.lab.definitions import DOMAINS, adapted, disk_of, domain_of, mac
from tests.lab.domains import FILE, told
from tests.lab.test_definitions import on_kvm_or_not, with_guests
from tests.support import (
    Vmacro,
    clients,
    eventually,
    on_host,
    site_of,
    traces_of_moves,
    verdicts,
    virsh,
    without_probers,
)
from vmacro.lab import cloud, namespaces
from vmacro.lab.lab import Lab
from vmacro.lab.machines import GUEST_IMAGES

pytestmark = [pytest.mark.lab, pytest.mark.slow("a guest boots and moves for each definition: a minute each")]
HERE, THERE = "bucharest", "berlin"
# One guest after the other is in this slot: its name, its MAC and its disk are theirs.
SLOT = 90
NAME, DISK = domain_of(SLOT), disk_of(SLOT)
BOOTS_WITHIN_S = 240.0
# What both hosts have of what the definitions name.
FILES = ("/isos/rescue.iso", "/isos/old.iso", "/isos/drivers.img", "/images/web-seed.iso")
GOLDEN, DATA = "/images/debian-13-genericcloud-amd64.qcow2", "/images/data.qcow2"
KERNEL, INITRD = "/srv/boot/vmlinuz-6.12", "/srv/boot/initrd-6.12"
NETWORK = "<network><name>{0}</name><bridge name='{0}0' stp='off' delay='0'/></network>"
NETWORKS = ("storage", "lan")
FILTER = "<filter name='office-only'/>"
MEMORY_MIB = 256
# As two-cards, and libvirt has the card that stays before the one that moves, which is the first in the guest.
OTHER_FIRST = "two-cards, the other one first"
WHOLE = ("debian-virt-install", "cloud-image", "two-cards", OTHER_FIRST, "filters", "ejected", "kernel")


@pytest.fixture(scope="module")
def ground(lab: Lab) -> Iterator[None]:
    """What the definitions name, at both hosts; the guest's root is a cloud's image at the first."""
    image = f"{GUEST_IMAGES}/{lab.topology.guest_image('web')}"
    with ExitStack() as undo:
        for host in (HERE, THERE):
            virsh(lab, host, "pool-create-as", "own", "dir", "--target", "/images", "--build")
            undo.callback(on_host, lab, host, "rm", "-rf", "/images", "/isos", "/srv/boot")
            undo.callback(virsh, lab, host, "pool-destroy", "own")
            make = ["set -e", "mkdir -p /isos /srv/boot", f"truncate -s 65536 {' '.join(FILES)}"]
            make += [f"qemu-img create -q -f qcow2 {DATA} 16M"]
            make += [f"cp {image}/vmlinuz {KERNEL}; cp {image}/initrd.gz {INITRD}"]
            on_host(lab, host, "sh", "-c", "\n".join(make))
            for name in NETWORKS:
                told(lab, host, NETWORK.format(name), "net-create", FILE)
                undo.callback(virsh, lab, host, "net-destroy", name)
            told(lab, host, FILTER, "nwfilter-define", FILE)
            undo.callback(virsh, lab, host, "nwfilter-undefine", "office-only")
        packed = ["-O", "qcow2", "-c", "-o", "compression_type=zstd"]
        on_host(lab, HERE, "qemu-img", "convert", "-f", "raw", *packed, f"{image}/root.ext4", GOLDEN)
        yield


def bootable(text: str, kind: str, image: str, here: str) -> str:
    """A definition that boots the lab's image, which brings neither a boot loader nor a kernel for 32 bits."""
    root = ElementTree.fromstring(adapted(text, SLOT, kind, here))
    system = root.find("os")
    assert system is not None
    for element in root:
        if element.tag in ("memory", "currentMemory"):
            element.text = str(MEMORY_MIB)
    for boot in system.findall("boot"):
        system.remove(boot)
    system.find("type").set("arch", "x86_64")  # type: ignore[union-attr]
    own = {"kernel": f"{image}/vmlinuz", "initrd": f"{image}/initrd.gz", "cmdline": ""}
    words = " ".join([*cloud.KERNEL_WORDS, "net.ifnames=0"])
    for tag, value in own.items():
        found = system.find(tag)
        if found is None:
            found = ElementTree.SubElement(system, tag)
            found.text = value
    system.find("cmdline").text = words  # type: ignore[union-attr]
    features = root.find("features")
    if features is None:
        features = ElementTree.SubElement(root, "features")
    if features.find("acpi") is None:
        ElementTree.SubElement(features, "acpi")
    return ElementTree.tostring(root, encoding="unicode")


def other_card_first(text: str) -> str:
    root = ElementTree.fromstring(text)
    devices = root.find("devices")
    assert devices is not None
    moving, other = devices.findall("interface")
    devices.remove(other)
    devices.insert(list(devices).index(moving), other)
    for card, slot in ((moving, "0x10"), (other, "0x11")):
        ElementTree.SubElement(card, "address", type="pci", domain="0x0000", bus="0x00", slot=slot, function="0x0")
    return ElementTree.tostring(root, encoding="unicode")


@contextmanager
def running(lab: Lab, name: str) -> Iterator[str]:
    """It serves, at HERE; yields its address. Afterwards it is nowhere, nor is its disk."""
    image, kind = f"{GUEST_IMAGES}/{lab.topology.guest_image('web')}", on_kvm_or_not(lab, site_of(lab, "web"))
    stem, address = name.partition(",")[0], lab.host(HERE).address
    definition, after = DOMAINS / f"{stem}.xml", DOMAINS / f"{stem}.next.xml"
    make = (
        f"qemu-img create -q -f qcow2 -b {GOLDEN} -F qcow2 {DISK}" if name == "cloud-image" else f"cp {GOLDEN} {DISK}"
    )
    on_host(lab, HERE, "sh", "-c", make)
    try:
        text = bootable(definition.read_text(), kind, image, address)
        told(lab, HERE, other_card_first(text) if name == OTHER_FIRST else text, "define", FILE)
        virsh(lab, HERE, "start", NAME)
        if after.exists():
            uuid = virsh(lab, HERE, "domuuid", NAME).strip()
            text = bootable(after.read_text(), kind, image, address)
            told(lab, HERE, text.replace("</name>", f"</name><uuid>{uuid}</uuid>", 1), "define", FILE)
        eventually(lambda: _serves(lab, _leased(lab, HERE)), f"{name} to serve", every_s=1, within_s=BOOTS_WITHIN_S)
        yield _leased(lab, HERE)
    finally:
        gone = f"virsh destroy {NAME}; virsh undefine {NAME} --nvram; rm -f /images/{NAME}*; true"
        for host in (HERE, THERE):
            on_host(lab, host, "sh", "-c", gone)


def _leased(lab: Lab, host: str) -> str:
    rows = virsh(lab, host, "net-dhcp-leases", "front", "--mac", mac(SLOT)).splitlines()
    return next((word.partition("/")[0] for row in rows for word in row.split() if "/" in word), "")


def _serves(lab: Lab, address: str) -> bool:
    if not address:
        return False
    try:
        with namespaces.inside(lab.namespace("client")), socket.create_connection((address, ECHO), 5):
            return True
    except OSError:
        return False


def kept(lab: Lab, host: str) -> dict[str, str]:
    """Both definitions, less what a move must change: where what the guest's own disk was, and is, lies, and what its
    host has made up for as long as it runs there."""
    found = {}
    for which in ("--migratable", "--inactive"):
        root = ElementTree.fromstring(virsh(lab, host, "dumpxml", which, NAME))
        root.attrib.pop("id", None)
        for disk in root.iterfind("devices/disk"):
            source = disk.find("source")
            if source is not None and source.get("file", "").startswith(DISK.removesuffix(".qcow2")):
                for part in ("source", "backingStore"):
                    for each in disk.findall(part):
                        disk.remove(each)
        ElementTree.indent(root)
        found[which] = ElementTree.canonicalize(ElementTree.tostring(root, encoding="unicode"), strip_text=True)
    return found


@pytest.mark.parametrize("name", WHOLE)
def test_it_moves_whole(lab: Lab, vmacro: Vmacro, ground: None, name: str) -> None:
    quiet = with_guests(without_probers(vmacro), f"[guests.{NAME}]")
    before = traces_of_moves(lab)
    with running(lab, name) as old:
        whole = kept(lab, HERE)
        with clients(lab, "client", old, "chatter", "tcp-chatter") as process:
            done = quiet("migrate", NAME, "--to", THERE)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
            assert verdicts(process) == {"chatter": "", "tcp-chatter": ""}
        assert NAME not in virsh(lab, HERE, "list", "--all", "--name").split()
        assert kept(lab, THERE) == whole
        assert _serves(lab, _leased(lab, THERE)), "at its new address"
        if name == "cloud-image":
            comes_back(lab, quiet, _leased(lab, THERE))
        assert quiet("carry").returncode == 0
        assert traces_of_moves(lab) == before
    for host in (HERE, THERE):
        assert NAME not in virsh(lab, host, "list", "--all", "--name").split()


def comes_back(lab: Lab, vmacro: Vmacro, address: str) -> None:
    """To where its base still lies on the cloud's image: what it has not read yet is there."""
    with clients(lab, "client", address, "download") as process:
        done = vmacro("migrate", NAME, "--to", HERE)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert verdicts(process) == {"download": ""}
