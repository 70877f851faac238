"""What a domain names on its host: told before anything is touched, on real libvirt at both hosts; and what moves keeps
its definition."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.lab.domains import FILE, at_the_next_start, hosts_as_they_are, told
from tests.support import Vmacro, Way, address_of, clients, on_host, site_of, verdicts, virsh, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
ISO = "/var/lib/libvirt/Büro rescue.iso"
CD = f"""<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{ISO}'/>
<target dev='sda' bus='sata'/><readonly/></disk>"""
CARD = """<interface type='network'><mac address='52:54:00:0d:00:01'/><source network='office'/>
<model type='virtio'/><filterref filter='office-only'/></interface>"""


OTHER_MAC = "52:54:00:0d:00:09"
OFFICE = "<network><name>office</name><bridge name='office0' stp='off' delay='0'/></network>"
OTHER_CARD = f"""<interface type='network'><mac address='{OTHER_MAC}'/><source network='office'/>
<model type='virtio'/></interface>"""


def stored(lab: Lab, host: str) -> str:
    """The definition of `web` for its next start, in a form that two hosts share."""
    return ElementTree.canonicalize(virsh(lab, host, "dumpxml", "--inactive", "web"), strip_text=True)


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


@pytest.mark.slow("a move, ten seconds; which card moves with its addresses is decided in test_seamless, test_planner")
def test_a_second_card_that_runs_goes_along(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """On a network that both sites have, and not the one for guests: nobody is reached by it."""
    old, quiet = address_of(lab, "web"), without_probers(vmacro)
    with second_card(lab, way), clients(lab, "client", old, "chatter", "tcp-chatter") as process:
        checked = vmacro("check", "web", "--to", way.there, "--json")
        assert checked.returncode == 0 and "cards-several" in checked.stdout, checked.stdout + checked.stderr
        done = quiet("migrate", "web", "--to", way.there)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        cards = [row.split() for row in virsh(lab, way.there, "domiflist", "web").splitlines() if "network" in row]
        assert {(card[2], card[4]) for card in cards} == {("front", lab.topology.mac("web")), ("office", OTHER_MAC)}
        assert verdicts(process) == {"chatter": "", "tcp-chatter": ""}
    quiet("carry")


@contextmanager
def second_card(lab: Lab, way: Way) -> Iterator[None]:
    with ExitStack() as undo:
        for host in (way.here, way.there):
            told(lab, host, OFFICE, "net-create", FILE)
            undo.callback(virsh, lab, host, "net-destroy", "office")
        told(lab, way.here, OTHER_CARD, "attach-device", "web", FILE, "--live", "--config")
        undo.callback(lambda: told(lab, site_of(lab, "web"), OTHER_CARD, "detach-device", "web", FILE, "--persistent"))
        yield
