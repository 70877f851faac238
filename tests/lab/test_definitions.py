"""Domains as people have them (tests/domains), on real libvirt: `check` names every obstacle of each at once, and
`migrate` touches nothing. tests/unit/test_domains.py has the same on the world in memory.

None has an operating system, so that all are paused, which is one more blocker; what moves whole is in test_domains.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import vmacro.api
from tests.lab.definitions import Real, defined, disk_of, domain_of, house, names
from tests.lab.domains import FILE, hosts_as_they_are, told
from tests.lab.test_obstacles import SNAPSHOT
from tests.support import Vmacro, Way, eventually, on_host, virsh
from vmacro.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow("it starts two dozen domains, and asks for a move of each")]
PATIENCE_S = 180.0
# Of each besides PAUSED, whoever is at fault; whether that stops it or warns depends on what its host could start.
EXPECTED: dict[str, list[str]] = {
    "debian-virt-install": ["checkpoints-stay", "guest-busy"],
    "windows-virt-install": ["file-missing"] * 4,
    "cloud-image": ["file-missing"],
    "virt-manager": ["device-unknown", "file-missing", "file-missing"],
    "terraform": ["disk-kind", "file-missing", "no-channel", "volume-missing"],
    "opennebula": ["arguments-unknown", "file-missing", "file-missing"],
    "two-cards": ["cards-several", "network-missing"],
    "bridges": ["bridge-missing", "bridge-missing"],
    "filters": ["card-unknown", "filter-missing"],
    "uefi": ["file-missing", "file-missing"],
    "uefi-fedora": ["file-missing", "file-missing"],
    "hugepages": ["binding-missing", "binding-missing", "pages-short"],
    "passthrough": ["device-stays"] * 3,
    "sriov": ["device-stays", "device-stays"],
    "shared-folder": ["device-stays", "device-stays"],
    "ceph": ["secret-missing", "secret-missing"],
    "ejected": ["file-missing", "file-missing", "network-missing"],
    "snapshots": ["snapshots-stay"],
    "listening": ["listen-address", "listen-unknown"],
    "kernel": ["file-missing", "file-missing"],
    "sealed": ["device-stays"],
    "old-desktop": ["device-stays", "device-unknown", "file-missing", "file-missing"],
    "storage": ["file-missing", "file-missing", "file-missing", "volume-missing"],
}
BACKED_UP = "debian-virt-install"
PAUSED = "guest-paused"
OF_THE_KERNEL = "tunnel-userspace"
# A lab's hosts start these as they are.
WHOLE = {
    "debian-virt-install",
    "cloud-image",
    "two-cards",
    "filters",
    "ejected",
    "snapshots",
    "listening",
    "old-desktop",
}
# Beside those of tests/domains: what else a domain may be, or have at its destination.
ODD = """<domain type='{kind}'><name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os><devices>
{devices}</devices></domain>"""
BACKUP = "<domainbackup mode='pull'><server name='127.0.0.1' port='10809'/></domainbackup>"
CARD = "<interface type='network'><mac address='52:54:00:dd:fe:{:02x}'/><source network='front'/></interface>"
DISK = """<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda'/>
</disk>"""
COPY_OF_QEMU = "/usr/local/bin/qemu-of-our-own"
ELSEWHERE = "/srv/elsewhere.qcow2"
NAMED = "Büro server"
# What a domain takes of its host: as OpenNebula has it.
TAP, PORT = "one-42-0", 5942
VNC = f"<graphics type='vnc' port='{PORT}' listen='127.0.0.1'/>"


@dataclass(frozen=True)
class Town:
    """All of them at one host, and an inventory that has them as guests."""

    vmacro: Vmacro
    way: Way
    reals: tuple[Real, ...]

    def found(self, *words: str) -> dict[str, list[dict[str, Any]]]:
        """What stands against each, by guest."""
        done = self.vmacro("check", "--all", self.way.here, "--to", self.way.there, "--json", *words)
        assert done.returncode == 3, done.stdout + done.stderr
        return {row["guest"]: row["findings"] for row in json.loads(done.stdout)}


def with_guests(vmacro: Vmacro, *guests: str) -> Vmacro:
    return vmacro.altered("guests.toml", lambda t: t + "".join(f"\n{guest}\n" for guest in guests))


@pytest.fixture
def town(lab: Lab, vmacro: Vmacro, way: Way) -> Iterator[Town]:
    kind = on_kvm_or_not(lab, way.here)
    numbered = list(enumerate(names(), 1))
    with ExitStack() as undo:
        undo.enter_context(house(lab, way.here))
        reals = tuple(undo.enter_context(defined(lab, way.here, n, name, kind)) for n, name in numbered)
        all_of_them = with_guests(vmacro, *(f"[guests.{domain_of(n)}]" for n, _ in numbered))
        yield Town(all_of_them, way, reals)


def on_kvm_or_not(lab: Lab, host: str) -> str:
    """How the lab's own guests run."""
    return "kvm" if "type='kvm'" in virsh(lab, host, "dumpxml", "web") else "qemu"


def test_each_is_refused_with_every_obstacle_at_once_and_nothing_is_touched(
    lab: Lab, town: Town, tmp_path: Path
) -> None:
    for real in town.reals:
        print(f"{real.name}: {'as it is' if real.whole else f'at its next start, as {real.why}'}")
    assert {real.name for real in town.reals if real.whole} >= WHOLE
    domains = {real.name: real.domain for real in town.reals}
    with with_a_snapshot(lab, town.way.here, domains["snapshots"]), backed_up(lab, town.way.here, domains[BACKED_UP]):
        before, found = hosts_as_they_are(lab), town.found()
        seen = {
            real.name: sorted(f["code"] for f in found[real.domain] if f["code"] not in (PAUSED, OF_THE_KERNEL))
            for real in town.reals
        }
        assert seen == {name: sorted(codes) for name, codes in EXPECTED.items()}
        assert all(PAUSED in {f["code"] for f in found[real.domain]} for real in town.reals)
        (bridged,) = (real.domain for real in town.reals if real.name == "bridges")
        unasked = {f["code"] for f in town.found("--handoff", "renumber")[bridged]}
        assert "bridge-unknown" in unasked, "no host side is asked for that"
        with vmacro.api.open(town.vmacro.inventory, tmp_path / "report") as session:
            moves = {real: session.migrate(real.domain, town.way.there) for real in town.reals}
            for real, move in moves.items():
                with pytest.raises(vmacro.api.PlanRejectedError) as refused:
                    move.result(PATIENCE_S)
                blockers = [f for f in found[real.domain] if f["severity"] == "blocker"]
                missing = [f for f in blockers if f["message"] not in str(refused.value)]
                assert not missing, f"{real.name}: {missing} not in {refused.value}"
        assert hosts_as_they_are(lab) == before


@contextmanager
def with_a_snapshot(lab: Lab, host: str, domain: str) -> Iterator[None]:
    """As libvirt's books have it."""
    told(lab, host, SNAPSHOT.format(virsh(lab, host, "dumpxml", domain)), "snapshot-create", domain, FILE, "--redefine")
    try:
        yield
    finally:
        virsh(lab, host, "snapshot-delete", domain, "before", "--metadata")


@contextmanager
def backed_up(lab: Lab, host: str, domain: str) -> Iterator[None]:
    """It has a checkpoint, and a backup of it is under way, which waits for who fetches it."""
    virsh(lab, host, "checkpoint-create-as", domain, "nightly")
    told(lab, host, BACKUP, "backup-begin", domain, FILE)
    try:
        yield
    finally:
        virsh(lab, host, "domjobabort", domain)


def test_what_else_a_domain_may_be(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Off, without a card, of a name that no leg can have, of a QEMU that one host has, at two hosts at once; its
    disk's place at the destination taken, or without room; its port and its tap's name taken there."""
    kind, here, there = on_kvm_or_not(lab, way.here), way.here, way.there
    own_qemu = f"<emulator>{COPY_OF_QEMU}</emulator>{CARD.format(2)}"
    domains = {"off": CARD.format(0), "cardless": "", NAMED: CARD.format(1), "other": own_qemu}
    vdi = DISK.format("/images/old.vdi").replace("qcow2'", "vdi'", 1)
    domains |= {"twice": CARD.format(3), "disk": CARD.format(4) + DISK.format(disk_of(99))}
    domains |= {"vdi": CARD.format(5) + vdi, "elsewhere": CARD.format(6) + DISK.format(ELSEWHERE)}
    domains["taking"] = CARD.format(7).replace("</interface>", f"<target dev='{TAP}'/></interface>") + VNC
    guests = [f'[guests.o{n}]\ndomain = "{name}"' for n, name in enumerate(domains)]
    expected = {
        "off": "guest-not-running",
        "cardless": "no-card",
        NAMED: "domain-name",
        "other": "hypervisor-refuses",
        "twice": "guest-twice",
        "disk": "volume-in-the-way",
        "vdi": "disk-kind",
        "elsewhere": "pool-missing",
        "taking": "taken-there",
    }
    with ExitStack() as undo:
        undo.enter_context(pools(lab))
        undo.enter_context(squatters(lab, there))
        on_host(lab, here, "cp", "/usr/bin/qemu-system-x86_64", COPY_OF_QEMU)
        undo.callback(on_host, lab, here, "rm", "-f", COPY_OF_QEMU)
        for path in (disk_of(99), ELSEWHERE, "/images/old.vdi"):
            on_host(lab, here, "qemu-img", "create", "-q", "-f", PurePosixPath(path).suffix[1:], path, "64M")
        undo.callback(on_host, lab, here, "rm", "-f", ELSEWHERE)
        on_host(lab, there, "sh", "-c", f"echo another > {disk_of(99)}")
        for name, devices in domains.items():
            for host in (here, there) if name == "twice" else (here,):
                told(lab, host, ODD.format(kind=kind, name=name, devices=devices), "define", FILE)
                undo.callback(virsh, lab, host, "undefine", name)
                if name != "off":
                    virsh(lab, host, "start", name, "--paused")
                    undo.callback(virsh, lab, host, "destroy", name)
        town = Town(with_guests(vmacro, *guests), way, ())
        before, found = hosts_as_they_are(lab), town.found()
        seen = {name: {f["code"] for f in found[f"o{n}"]} for n, name in enumerate(domains)}
        assert all(code in seen[name] for name, code in expected.items()), seen
        taking = found[f"o{list(domains).index('taking')}"]
        assert len([f for f in taking if f["code"] == "taken-there"]) == 2, taking
        for n in range(len(domains)):
            done = town.vmacro("migrate", f"o{n}", "--to", there)
            assert done.returncode == 3, done.stdout + done.stderr
        assert hosts_as_they_are(lab) == before
        on_host(lab, there, "rm", disk_of(99))
        with full(lab, there):
            assert "pool-full" in {f["code"] for f in town.found()[f"o{list(domains).index('disk')}"]}
            done = town.vmacro("migrate", f"o{list(domains).index('disk')}", "--to", there)
            assert done.returncode == 3 and "MiB free, disk" in done.stderr, done.stdout + done.stderr
        untold = town.found("--handoff", "renumber")[f"o{list(domains).index('taking')}"]
        assert "taken-unknown" in {f["code"] for f in untold}, "nobody is asked about links then"
        (at,) = (n for n, name in enumerate(domains) if name == "disk")
        mute = Town(without_host_side(town.vmacro, there), way, ())
        unasked = mute.found()[f"o{at}"]
        assert "disk-needs-host-side" in {f["code"] for f in unasked}, unasked
        assert mute.vmacro("migrate", f"o{at}", "--to", there).returncode == 3


@contextmanager
def squatters(lab: Lab, host: str) -> Iterator[None]:
    """Somebody there has a port and the name of a device."""
    listen = f"import socket, time; held = socket.create_server(('127.0.0.1', {PORT})); time.sleep(3600)"
    on_host(lab, host, "systemd-run", "-q", "--collect", "-u", "squatter", "python3", "-c", listen)
    on_host(lab, host, "ip", "link", "add", TAP, "type", "bridge")
    try:
        eventually(lambda: f":{PORT} " in on_host(lab, host, "ss", "-Hltn"), "who listens")
        yield
    finally:
        on_host(lab, host, "ip", "link", "del", TAP)
        on_host(lab, host, "systemctl", "stop", "squatter")


@contextmanager
def pools(lab: Lab) -> Iterator[None]:
    """One at the same path of both hosts."""
    with ExitStack() as undo:
        for at in lab.topology.sites:
            virsh(lab, at, "pool-create-as", "own", "dir", "--target", "/images", "--build")
            undo.callback(on_host, lab, at, "rm", "-rf", "/images")
            undo.callback(virsh, lab, at, "pool-destroy", "own")
        yield


@contextmanager
def full(lab: Lab, host: str) -> Iterator[None]:
    """Its pool is of 64 KiB."""
    on_host(lab, host, "mount", "-t", "tmpfs", "-o", "size=64k", "small", "/images")
    try:
        virsh(lab, host, "pool-refresh", "own")
        yield
    finally:
        on_host(lab, host, "umount", "/images")


def without_host_side(vmacro: Vmacro, host: str) -> Vmacro:
    def change(text: str) -> str:
        before, section, rest = text.partition(f"[hosts.{host}]\n")
        return before + section + "".join(line for line in rest.splitlines(True) if not line.startswith("ssh = "))

    return vmacro.altered("unasked.toml", change)
