"""Real domains that their destination would refuse, or that would not be themselves there: all that stands against them
is told at once, and nothing is touched."""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.lab.domains import FILE, defined_as_before, hosts_as_they_are, told
from tests.support import Vmacro, Way, address_of, eventually, site_of, virsh, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
OTHER = "5ca1ab1e-0000-4000-8000-000000000001"
STRANGER = """<domain type='qemu'><name>{}</name><uuid>{}</uuid><memory unit='MiB'>32</memory>
<os><type>hvm</type></os></domain>"""
SNAPSHOT = "<domainsnapshot><name>before</name><state>shutoff</state><creationTime>1</creationTime>{}</domainsnapshot>"
# What the guest gets at its next start, and which blockers that is.
DEVICES: dict[str, set[str]] = {
    """<interface type='network'><mac address='52:54:00:0d:00:01'/><source network='office'/>
    <model type='virtio'/><filterref filter='office-only'/></interface>""": {"network-missing", "filter-missing"},
    """<interface type='bridge'><mac address='52:54:00:0d:00:02'/><source bridge='br-office'/>
    <model type='virtio'/></interface>""": {"bridge-missing"},
    """<disk type='network' device='disk'><driver name='qemu' type='raw'/>
    <auth username='web'><secret type='ceph' uuid='8a1f6c1e-5a60-4d2c-8f39-1c1a52b5d6c1'/></auth>
    <source protocol='rbd' name='vms/web'><host name='ceph.example.net' port='6789'/></source>
    <target dev='vdb' bus='virtio'/></disk>""": {"secret-missing"},
    """<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='attic' volume='web.img'/>
    <target dev='vdc' bus='virtio'/></disk>""": {"volume-missing"},
    "<graphics type='vnc' autoport='yes' listen='{address}'/>": {"listen-address"},
    "<video><model type='none'/></video>": set(),
}
# Of 1 GiB: nobody keeps such for a lab.
PAGES = "<memoryBacking><hugepages><page size='1' unit='GiB'/></hugepages></memoryBacking>"
BEYOND = "4095"  # a processor that no lab has
BLOCKERS = {code for codes in DEVICES.values() for code in codes} | {
    "pages-short",
    "binding-missing",
    "snapshots-stay",
    "name-taken",
    "uuid-taken",
}
STICK = """<hostdev mode='subsystem' type='usb'><source><vendor id='0x1050'/><product id='0x0407'/></source>
</hostdev>"""


def test_all_obstacles_of_a_domain_are_told_at_once_and_nothing_is_touched(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    with encumbered(lab, way.here), with_a_snapshot(lab, way.here), strangers(lab, way.there, uuid_of(lab, way.here)):
        before = hosts_as_they_are(lab)
        found = findings(vmacro, way, 3)
        missing = BLOCKERS - blocking(found)
        assert not missing, f"{sorted(missing)} of {found}"
        assert ("device-stays", "warning") in {(f["code"], f["severity"]) for f in found}, "its next start has it alone"
        refused(vmacro, way, found)
        assert hosts_as_they_are(lab) == before


def test_a_filter_that_would_drop_its_new_address_is_told(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    address = address_of(lab, "web")
    with held_to(lab, way.here, address) as live:
        before = hosts_as_they_are(lab)
        found = findings(vmacro, way, 3 if live else 0)
        (told_of,) = (f for f in found if f["code"] == "anti-spoofing")
        assert told_of["severity"] == ("blocker" if live else "warning"), told_of
        assert "'clean-traffic' of its card" in told_of["message"] and f"holds it to {address}:" in told_of["message"]
        if live:
            assert blocking(found) == {"anti-spoofing"}
            refused(vmacro, way, found)
        assert hosts_as_they_are(lab) == before
        (new,) = re.findall(r"from ([0-9.]+)(?: and [0-9.]+)* would be dropped", told_of["message"])
        change_card(lab, way.here, "--live" if live else "--config", address, new)
        allowed = findings(vmacro, way, 0)
        assert "anti-spoofing" not in {f["code"] for f in allowed}, allowed
        if live:
            done = without_probers(vmacro)("migrate", "web", "--to", way.there)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "clean-traffic" in virsh(lab, way.there, "dumpxml", "web"), "and its owner's filter is with it"
            return
    assert "anti-spoofing" not in {f["code"] for f in findings(vmacro, way, 0)}


def test_a_migration_by_hand_is_seen(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Somebody moves it with libvirt alone. What the destination has of it so far is no other domain."""
    before = hosts_as_they_are(lab)
    with migrated_by_hand(lab, way):
        found = findings(vmacro, way, 3)
        assert "guest-busy" in blocking(found), found
        (busy,) = (f for f in found if f["code"] == "guest-busy")
        assert "migration" in busy["message"], busy
        refused(vmacro, way, found)
        nobody_calls_its_hosts_broken(vmacro)
    assert hosts_as_they_are(lab) == before
    assert blocking(findings(vmacro, way, 0)) == set()


def nobody_calls_its_hosts_broken(vmacro: Vmacro) -> None:
    """Of the destination libvirt says then: statistics are available only on the source host."""
    sites, examined = vmacro("sites", "--json"), vmacro("doctor", "--json")
    assert sites.returncode == 0, sites.stdout + sites.stderr
    assert [row["trouble"] for row in json.loads(sites.stdout)] == ["", ""], sites.stdout
    about_hosts = [f for f in json.loads(examined.stdout) if f["subject"].startswith("host ")]
    assert blocking(about_hosts) == set(), about_hosts
    assert {f["code"] for f in json.loads(examined.stdout) if f["subject"] == "guest web"} >= {"guest-busy"}


@contextmanager
def migrated_by_hand(lab: Lab, way: Way) -> Iterator[None]:
    """A copy is under way, at a pace at which it never ends; afterwards it is aborted."""
    leader, uri = lab.host(way.here).leader, f"qemu+tls://{way.there}/system"
    assert leader is not None
    words = ["migrate", "web", uri, "--live", "--p2p", "--tls", "--bandwidth", "1"]
    process = subprocess.Popen(["nsenter", "-t", str(leader.pid), "-a", "virsh", *words], stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: "Memory remaining" in virsh(lab, way.here, "domjobinfo", "web"), "the copy")
        yield
    finally:
        virsh(lab, way.here, "domjobabort", "web")
        assert process.wait(60) != 0


def findings(vmacro: Vmacro, way: Way, code: int, *words: str) -> list[dict[str, Any]]:
    """Of `vmacro check`, which exits with `code`."""
    checked = vmacro("check", "web", "--to", way.there, "--json", *words)
    assert checked.returncode == code, checked.stdout + checked.stderr
    found: list[dict[str, Any]] = json.loads(checked.stdout)["findings"]
    return found


def blocking(found: list[dict[str, Any]]) -> set[str]:
    return {f["code"] for f in found if f["severity"] == "blocker"}


def refused(vmacro: Vmacro, way: Way, found: list[dict[str, Any]], *words: str) -> None:
    """A move, with each blocker that the check found. Figures such as free memory have changed since."""
    done = vmacro("migrate", "web", "--to", way.there, *words)
    assert done.returncode == 3, done.stdout + done.stderr
    for f in found:
        if f["severity"] == "blocker":
            assert of_any_figure(f"{f['subject']}: {f['message']}") in of_any_figure(done.stderr), done.stderr


def of_any_figure(text: str) -> str:
    return re.sub(r"\d+", "N", text)


def uuid_of(lab: Lab, host: str) -> str:
    return virsh(lab, host, "domuuid", "web").strip()


@contextmanager
def encumbered(lab: Lab, host: str) -> Iterator[None]:
    """`web` is to be started anew with DEVICES and STICK, in huge pages, on a processor BEYOND all."""
    with defined_as_before(lab, host) as before:
        root = ElementTree.fromstring(before)
        devices, processors = root.find("devices"), root.find("vcpu")
        assert devices is not None and processors is not None
        for text in (*DEVICES, STICK):
            devices.append(ElementTree.fromstring(text.format(address=lab.host(host).address)))
        root.append(ElementTree.fromstring(PAGES))
        processors.set("cpuset", BEYOND)
        told(lab, host, ElementTree.tostring(root, encoding="unicode"), "define", FILE)
        yield


@contextmanager
def with_a_snapshot(lab: Lab, host: str) -> Iterator[None]:
    """As libvirt's books have it: of a guest whose only disk is read-only none can be taken."""
    snapshot = SNAPSHOT.format(virsh(lab, host, "dumpxml", "web"))
    told(lab, host, snapshot, "snapshot-create", "web", FILE, "--redefine")
    try:
        yield
    finally:
        virsh(lab, host, "snapshot-delete", "web", "before", "--metadata")


@contextmanager
def strangers(lab: Lab, host: str, uuid: str) -> Iterator[None]:
    """Two domains, shut off: one has the name of `web`, the other its UUID."""
    with ExitStack() as defined:
        for name, its, known_by in (("web", OTHER, OTHER), ("clone", uuid, "clone")):
            told(lab, host, STRANGER.format(name, its), "define", FILE)
            defined.callback(virsh, lab, host, "undefine", known_by)
        yield


@contextmanager
def held_to(lab: Lab, host: str, address: str) -> Iterator[bool]:
    """libvirt's own filter lets the card of `web` send from this address alone. Yields whether it is in force:
    where the host's kernel takes none, it will be at the guest's next start."""
    with defined_as_before(lab, host):
        try:
            change_card(lab, host, "--live", address)
        except subprocess.CalledProcessError:
            change_card(lab, host, "--config", address)
            yield False
            return
        try:
            yield True
        finally:
            change_card(lab, site_of(lab, "web"), "--live")


def change_card(lab: Lab, host: str, which: str, *addresses: str) -> None:
    """With a filter for these addresses, or none; `which`: of the running domain, or of the next one. The address is
    written down: what libvirt is left to learn, it learns when it likes."""
    inactive = ["--inactive"] if which == "--config" else []
    card = ElementTree.fromstring(virsh(lab, host, "dumpxml", *inactive, "web")).find("devices/interface")
    assert card is not None
    for old in card.findall("filterref"):
        card.remove(old)
    filter_ = ElementTree.SubElement(card, "filterref", filter="clean-traffic") if addresses else card
    for address in addresses:
        ElementTree.SubElement(filter_, "parameter", name="IP", value=address)
    told(lab, host, ElementTree.tostring(card, encoding="unicode"), "update-device", "web", FILE, which)
