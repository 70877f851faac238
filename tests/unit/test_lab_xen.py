"""A lab whose hosts boot Xen: its topology, inventory and guests, and what QEMU is told."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.unit.test_machines import pretend_to_run
from vmacro import inventory
from vmacro.drivers.libvirt import xml
from vmacro.errors import ConfigurationError, LabError
from vmacro.lab import guests, images, inventories, preparation, topology
from vmacro.lab.machines import BaseLayers, access
from vmacro.lab.machines.container import Container
from vmacro.lab.machines.xen import XenHost

CLOUD = '\n[guests.db]\nsite = "berlin"\nimage = "cloud"\n'
SHAPE = topology.load(topology.DEFAULT, "xen")


def written(folder: Path, text: str) -> Path:
    (folder / "shape.toml").write_text(text)
    return folder / "shape.toml"


def test_the_same_topology_with_other_hosts() -> None:
    plain = topology.load(topology.DEFAULT)
    assert (plain.hypervisor, SHAPE.hypervisor) == ("kvm", "xen")
    assert SHAPE.model_copy(update={"hypervisor": "kvm"}) == plain
    assert {SHAPE.image(host) for host in SHAPE.hosts} == {"xen12shadow"} and SHAPE.guest_image("web") == "xenguest"
    assert {plain.image(host) for host in plain.hosts} == {"host"} and plain.guest_image("web") == "guest"


def test_two_versions_of_xen() -> None:
    without = SHAPE.model_copy(update={"shadow_paging": False})
    plain, other = (images.image(shape.image("berlin")).recipe for shape in (without, SHAPE))
    assert plain.base_key == other.base_key and plain.repository_key != other.repository_key
    assert {topology.debian(r.name) for r in (plain, other)} == {12}
    assert set(other.repository) - set(plain.repository) == {"xen-hypervisor-4.17-amd64/bookworm"}


def test_only_hosts_are_vms() -> None:
    text = topology.DEFAULT.read_text().replace("[clients.client]", "[clients.client]\nmachine = true")
    shape = topology.Topology.model_validate({**tomllib.loads(text), "hypervisor": "xen"})
    assert [name for name in shape.nodes if shape.runs_xen(name)] == ["bucharest", "berlin"]
    assert shape.image("client") == "host"
    machines = {name: preparation.machine(shape, name, Path("/nowhere")) for name in shape.machines}
    assert {name: type(machine) for name, machine in machines.items()} == {
        "bucharest": XenHost,
        "berlin": XenHost,
        "client": Container,
    }


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", CLOUD, "guests.db.image: 'cloud', and Xen has `guest`"),
        (
            'subnet = "10.50.1.0/24"',
            'subnet = "10.50.1.0/24"\ndebian = 13',
            "sites.bucharest.debian: 13, and Xen has 12",
        ),
        ('subnet = "10.50.1.0/24"', 'subnet = "10.50.1.0/24"\nsubnet6 = "fd00:1::/48"', "sites.bucharest.subnet6"),
    ],
)
def test_what_there_is_not_with_xen(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = topology.DEFAULT.read_text()
    shape = written(tmp_path, text.replace(old, new) if old else text + new)
    topology.load(shape)
    with pytest.raises(ConfigurationError) as error:
        topology.load(shape, "xen")
    assert said in str(error.value)


def test_a_topology_that_says_what_it_is_is_not_overruled(tmp_path: Path) -> None:
    shape = written(tmp_path, 'hypervisor = "xen"\n' + topology.DEFAULT.read_text())
    assert topology.load(shape) == topology.load(shape, "xen")
    with pytest.raises(ConfigurationError, match="it says 'xen', and 'kvm' is asked for"):
        topology.load(shape, "kvm")


def test_the_inventory_names_xen(tmp_path: Path) -> None:
    file = written(tmp_path, inventories.text(SHAPE, tmp_path, emulation=False, xen=True))
    read = inventory.load(file)
    assert {(h.uri.partition(":")[0], h.peer_uri.partition(":")[0]) for h in read.inventory.hosts} == {
        ("xen+tls", "xen+tls")
    }
    assert not any(read.raw_inventory.hosts[h.name].emulation for h in read.inventory.hosts)


@pytest.mark.parametrize(("kind", "machine"), [("pvh", "xenpvh"), ("pv", "xenpv")])
def test_its_guests_read_back(kind: str, machine: str) -> None:
    changed = {"web": SHAPE.guests["web"].model_copy(update={"xen": kind})}
    facts = xml.domain(guests.domain_xml(SHAPE.model_copy(update={"guests": changed}), "web", "xen"))
    assert (facts.accelerator, facts.machine, facts.memory_mib, facts.channels) == ("xen", machine, 256, ())
    (card,), (disk,) = facts.cards, facts.disks
    assert (card.network, card.mac, disk.writable, disk.shared) == ("front", SHAPE.mac("web"), False, True)


def test_its_guests_boot_what_the_drivers_of_xen_are_in() -> None:
    recipe = images.image("xenguest").recipe
    assert recipe.base_key == images.image("guest").recipe.base_key
    assert {"drivers/block/xen-blkfront", "drivers/net/xen-netfront"} <= set(recipe.modules)
    assert "virtio-xenguest" in guests.domain_xml(SHAPE, "web", "xen"), "the disk of that name, see machines/xen.py"


def host(folder: Path) -> XenHost:
    return XenHost(SHAPE, "berlin", folder / "hosts/berlin")


def test_what_qemu_is_told(tmp_path: Path) -> None:
    words = host(tmp_path).command_line(["/srv/root.ext4", "/mnt/own.ext4", "/srv/packages.ext4"])
    drives = [words[n + 1] for n, word in enumerate(words) if word == "-drive"]
    assert [("readonly=off" in drive, drive.partition(",")[0]) for drive in drives] == [
        (False, "file=/srv/root.ext4"),
        (True, "file=/mnt/own.ext4"),
        (False, "file=/srv/packages.ext4"),
    ], "images/xen12/init takes the first two for its root, and writes to the second"
    assert "vmacro-demo-berlin" in words, "by which `lab down` finds what is left"
    assert "eager-fpu" in words[words.index("-append") + 1]
    assert any(SHAPE.host_mac("berlin") in word for word in words)


def test_each_host_has_a_mac_and_a_uuid_of_its_own(tmp_path: Path) -> None:
    assert len({SHAPE.host_mac("berlin"), SHAPE.host_mac("bucharest"), SHAPE.mac("web")}) == 3
    uuids = {XenHost(SHAPE, name, tmp_path).command_line([])[4] for name in SHAPE.hosts}
    assert len(uuids) == 2


def test_what_it_has_of_its_own(tmp_path: Path) -> None:
    """As its disk says: mke2fs and debugfs, no root needed."""
    machine, kept = host(tmp_path), tmp_path / "kept"
    (kept / "etc/ssh").mkdir(parents=True)
    (kept / "etc/hostname").write_text("berlin\n")
    (kept / "etc/ssh/ssh_host_ed25519_key").write_text("secret")
    machine.folder.mkdir(parents=True)
    machine.write_own_disk(kept, ["/var/lib/vmacro/images/xenguest"])
    disk = machine.folder / "own.ext4"

    def read(path: str) -> str:
        return subprocess.run(["/sbin/debugfs", "-R", f"cat {path}", disk], capture_output=True, text=True).stdout

    uplink = SHAPE.uplink("berlin")
    assert read("upper/etc/hostname") == "berlin\n" and read("upper/etc/ssh/ssh_host_ed25519_key") == "secret"
    network = read("upper/etc/systemd/network/10-uplink.network")
    assert f"Address={uplink.node}\n" in network and f"Gateway={uplink.router.ip}\n" in network
    assert SHAPE.host_mac("berlin") in read("upper/etc/systemd/network/10-uplink.link")
    fstab = dict(line.split()[:2] for line in read("upper/etc/fstab").splitlines())
    assert fstab["/dev/disk/by-id/virtio-files-0"] == "/var/lib/vmacro/images/xenguest"
    assert not (machine.folder / "own").exists() and sorted(p.name for p in kept.rglob("*")) == [
        "etc",
        "hostname",
        "ssh",
        "ssh_host_ed25519_key",
    ], "what is kept is as it was"


def test_folders_that_it_sees_are_disks(tmp_path: Path) -> None:
    machine, image = host(tmp_path), tmp_path / "xenguest-0123"
    machine.folder.mkdir(parents=True)
    image.mkdir()
    (image / "vmlinuz").write_bytes(b"kernel")
    (image / "root.ext4").write_bytes(b"root")
    assert machine.shared_disks({"/var/lib/vmacro/images/xenguest": image}) == [
        "/mnt/xenguest.ext4",
        "/mnt/files-0.ext4",
    ]
    assert (machine.folder / "xenguest.ext4").read_bytes() == b"root"
    listed = subprocess.run(
        ["/sbin/debugfs", "-R", "ls -p /", machine.folder / "files-0.ext4"], capture_output=True, text=True
    ).stdout
    assert "/vmlinuz/" in listed and "root.ext4" not in listed


def test_one_that_does_not_run(tmp_path: Path) -> None:
    machine = host(tmp_path)
    assert (machine.leader, machine.console()) == (None, "")
    machine.stop()
    with pytest.raises(LabError, match="machine berlin: does not run"):
        machine.inside(["true"])
    with pytest.raises(LabError, match="has to be provisioned first"):
        machine.boot(BaseLayers((), tmp_path), {}, tmp_path)


def test_it_is_entered_by_ssh(tmp_path: Path) -> None:
    machine = host(tmp_path)
    pretend_to_run(machine.folder, os.getpid())
    command = machine.inside(["ls", Path("/a folder")])
    assert command[:4] == ["ip", "netns", "exec", "vmacro-demo-operator"]
    assert command[-2:] == [f"root@{machine.address}", "ls '/a folder'"], "a shell reads it there"
    assert f"UserKnownHostsFile={tmp_path}/ssh/known_hosts" in command
    assert "-t" in access.by_ssh(SHAPE, machine.address, tmp_path, [], terminal=True)
