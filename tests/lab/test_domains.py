"""What a domain names on its host: told before anything is touched, on real libvirt at both hosts; and what moves keeps
its definition."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import Vmacro, Way, on_host, site_of, virsh, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
ISO = "/var/lib/libvirt/Büro rescue.iso"
CD = f"""<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{ISO}'/>
<target dev='sda' bus='sata'/><readonly/></disk>"""
CARD = """<interface type='network'><mac address='52:54:00:0d:00:01'/><source network='office'/>
<model type='virtio'/><filterref filter='office-only'/></interface>"""


def hosts_as_they_are(lab: Lab) -> dict[str, str]:
    """All domains, live and stored, what their hosts start by themselves, and the guests' network."""
    dump = "for d in $(virsh list --all --name); do virsh dumpxml $d; virsh dumpxml --inactive $d; done"
    look = f"virsh list --all; {dump}; ls -A /etc/libvirt/qemu/autostart; virsh net-dumpxml front; true"
    return {host: on_host(lab, host, "sh", "-c", f"{look} 2>&1") for host in lab.topology.sites}


def stored(lab: Lab, host: str) -> str:
    """The definition of `web` for its next start, in a form that two hosts share."""
    return ElementTree.canonicalize(virsh(lab, host, "dumpxml", "--inactive", "web"), strip_text=True)


@contextmanager
def at_the_next_start(lab: Lab, host: str, *devices: str) -> Iterator[None]:
    """`web` gets further devices when it is started anew; afterwards it is defined as it was, wherever it is."""
    before = virsh(lab, host, "dumpxml", "--inactive", "web")
    try:
        for device in devices:
            write(lab, host, device)
            virsh(lab, host, "attach-device", "web", "/run/device.xml", "--config")
        yield
    finally:
        there = site_of(lab, "web")
        write(lab, there, before)
        virsh(lab, there, "define", "/run/device.xml")


def write(lab: Lab, host: str, text: str) -> None:
    on_host(lab, host, "sh", "-c", 'printf %s "$1" > /run/device.xml', "sh", text)


def test_what_only_the_next_start_names_is_told_at_once_and_nothing_is_touched(
    lab: Lab, vmacro: Vmacro, way: Way
) -> None:
    on_host(lab, way.here, "sh", "-c", 'head -c 65536 /dev/zero > "$1"', "sh", ISO)
    try:
        with at_the_next_start(lab, way.here, CD, CARD):
            before = hosts_as_they_are(lab)
            checked = vmacro("check", "web", "--to", way.there)
            assert checked.returncode == 3, checked.stdout + checked.stderr
            there = f"host {way.there}: has no"
            for text in (f"file-missing: {there} {ISO}", f"network-missing: {there} active libvirt network 'office'"):
                assert text in checked.stdout, checked.stdout
            assert "office-only" in checked.stdout, "missing, or a libvirt without filters cannot be asked"
            refused = vmacro("migrate", "web", "--to", way.there)
            assert refused.returncode == 3, refused.stdout + refused.stderr
            assert hosts_as_they_are(lab) == before
    finally:
        on_host(lab, way.here, "rm", "-f", ISO)


def test_a_file_that_is_another_there_is_told(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    for host, size in ((way.here, "65536"), (way.there, "32768")):
        on_host(lab, host, "sh", "-c", 'head -c "$2" /dev/zero > "$1"', "sh", ISO, size)
    try:
        with at_the_next_start(lab, way.here, CD):
            done = vmacro("check", "web", "--to", way.there)
            assert done.returncode == 0 and "file-differs" in done.stdout, done.stdout + done.stderr
    finally:
        for host in (way.here, way.there):
            on_host(lab, host, "rm", "-f", ISO)


def test_all_of_a_domain_moves_with_it(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Its definition with what both hosts have, its title and metadata, and that its host starts it."""
    quiet = without_probers(vmacro)
    for host in (way.here, way.there):
        on_host(lab, host, "sh", "-c", 'head -c 65536 /dev/zero > "$1"', "sh", ISO)
    try:
        with at_the_next_start(lab, way.here, CD):
            virsh(lab, way.here, "desc", "web", "--config", "--title", "shop in Büro 7")
            virsh(lab, way.here, "autostart", "web")
            before = stored(lab, way.here)
            done = quiet("migrate", "web", "--to", way.there)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
            assert stored(lab, way.there) == before
            assert "web" in virsh(lab, way.there, "list", "--all", "--autostart", "--name")
            assert "web" not in virsh(lab, way.here, "list", "--all", "--name")
            assert "web" not in on_host(lab, way.here, "ls", "-A", "/etc/libvirt/qemu/autostart")
    finally:
        for host in (way.here, way.there):
            on_host(lab, host, "rm", "-f", ISO)
        virsh(lab, site_of(lab, "web"), "autostart", "web", "--disable")
