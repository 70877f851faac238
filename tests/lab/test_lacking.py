"""Hosts whose QEMU, libvirt, kernel or certificate lacks what a move needs, and guests of which libvirt or their agent
knows too little, for real: `check` names each by its code, and `migrate` touches nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.breaking import Scene, agent_answers, dhcp_dead, in_guest
from tests.lab.domains import FILE, at_the_next_start, defined_as_before, told
from tests.lab.test_hostile_guest import DROP_IN, UNIT, put
from tests.lab.test_obstacles import DEVICES
from tests.lab.test_unfit import saying, stopped
from tests.support import Vmacro, Way, eventually, on_host, virsh
from vmacro.lab.lab import Lab
from vmacro.pki import store as pki
from vmacro.pki.names import LIBVIRT

pytestmark = [pytest.mark.lab, pytest.mark.slow("three minutes; each finding is a unit test, too")]
# What libvirt has written down of what its QEMU can do, which it asks for when that changes.
NOTED = "/var/cache/libvirt/qemu/capabilities"
DRIVERS = "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver"
SERVER_CERTIFICATE = "/etc/pki/libvirt/servercert.pem"
SAVED = "/var/lib/libvirt/qemu/save/web.save"
VNC = "<graphics type='vnc' autoport='yes' listen='127.0.0.1'/>"
AGAIN = "systemctl restart libvirtd"
UNTRACKED = """table inet untracked {
    chain arrives { type filter hook prerouting priority raw; notrack; }
    chain leaves { type filter hook output priority raw; notrack; }
}"""
# Forgets all that the kernel has tracked (IPCTNL_MSG_CT_DELETE, of no tuple).
FORGET = """import socket, struct
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as kernel:
    kernel.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 5, 1, 0, 0, 0, 0))
    assert struct.unpack_from("=i", kernel.recv(4096), 16) == (0,)
"""
# The agent that is there, as one of before: without verbs that this vmacro needs.
OLDER = """
import sys
sys.path.insert(0, "/usr/local/sbin/vmacro-agent.pyz")
import guest_agent
guest_agent.__version__ = "0.1.0"
from guest_agent import __main__, agent
for verb in {verbs!r}:
    del agent.VERBS[verb]
sys.exit(__main__.main())
"""


def short_of_memory(vmacro: Vmacro, host: str) -> Vmacro:
    """What a warning says is seen in a move that is refused, so that nothing moves."""
    return vmacro.altered("short.toml", saying(host, memory_reserve_mib="1000000"))


@contextmanager
def noted(lab: Lab, host: str, *changes: str) -> Iterator[None]:
    """Its libvirt takes its QEMUs for others: `changes`, to what is noted of each, are sed's."""
    virsh(lab, host, "capabilities")  # so that it has asked them all
    script = " ".join(f"-e '{change}'" for change in changes)
    on_host(lab, host, "sh", "-ec", f"cp -r {NOTED} /run/noted; sed -i {script} {NOTED}/*.xml; {AGAIN}")
    try:
        yield
    finally:
        on_host(lab, host, "sh", "-ec", f"cp /run/noted/* {NOTED}; rm -r /run/noted; {AGAIN}")


@contextmanager
def with_graphics(lab: Lab, host: str) -> Iterator[None]:
    """`web` has VNC once it is started anew."""
    with defined_as_before(lab, host) as before:
        told(lab, host, before.replace("</devices>", f"{VNC}</devices>"), "define", FILE)
        yield


def test_an_older_qemu_there(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Debian 12's, built without VNC, which the guest has at its next start."""
    old = ("s|<version>[0-9]*<|<version>7002022<|", "/<flag name=.vnc.\\/>/d")
    with with_graphics(lab, way.here), noted(lab, way.there, *old):
        stopped(lab, vmacro, way, "tcg-corrupts", "device-unsupported", warned=("older-hypervisor",))


def test_a_qemu_that_does_not_know_its_machine(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    (machine,) = {w.split("'")[1] for w in virsh(lab, way.here, "dumpxml", "web").split() if w.startswith("machine=")}
    with noted(lab, way.there, f"/<machine .*name=.{machine}. /d"):
        stopped(lab, vmacro, way, "machine-unknown")


def test_a_libvirt_that_cannot_be_asked_for_secrets(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Its driver is not installed: some distributions have it in a package by itself."""
    (ceph,) = (device for device, codes in DEVICES.items() if "secret-missing" in codes)
    driver = f"{DRIVERS}/libvirt_driver_secret.so"
    with at_the_next_start(lab, way.here, ceph):
        on_host(lab, way.there, "sh", "-ec", f"mv {driver} {driver}.away; {AGAIN}")
        try:
            short = short_of_memory(vmacro, way.there)
            stopped(lab, short, way, "memory-short", warned=("definition-unread",))
        finally:
            on_host(lab, way.there, "sh", "-ec", f"mv {driver}.away {driver}; {AGAIN}")


def test_a_certificate_that_is_about_to_expire(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Its authority is asked in a copy: what the lab's own has issued stays as it is."""
    shutil.copytree(lab.folder / "pki", vmacro.folder / "pki")
    soon = pki.stores(vmacro.folder / "pki")[LIBVIRT].renew(way.there, days=20).decode()
    before = on_host(lab, way.there, "cat", SERVER_CERTIFICATE)
    with_certificate = ("sh", "-ec", f'printf %s "$1" > {SERVER_CERTIFICATE}; {AGAIN}', "sh")
    on_host(lab, way.there, *with_certificate, soon)
    try:
        short = short_of_memory(vmacro, way.there)
        stopped(lab, short, way, "memory-short", warned=("certificate-expires",))
    finally:
        on_host(lab, way.there, *with_certificate, before)


def test_a_kernel_that_tracks_nothing(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """A firewall exempts everything from connection tracking."""
    on_host(lab, way.here, "sh", "-ec", f"echo '{UNTRACKED}' | nft -f -")
    try:
        on_host(lab, way.here, "python3", "-c", FORGET)
        short = short_of_memory(vmacro, way.there)
        stopped(lab, short, way, "memory-short", warned=("datagrams-unknown",))
    finally:
        on_host(lab, way.here, "nft", "delete", "table", "inet", "untracked")


def test_a_saved_state_that_its_next_start_would_resume(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Somebody has put back libvirt's own files from a backup."""
    on_host(lab, way.here, "sh", "-ec", f"echo saved > {SAVED}; {AGAIN}")
    try:
        stopped(lab, vmacro, way, "saved-state")
    finally:
        virsh(lab, way.here, "managedsave-remove", "web")


def test_a_guest_that_has_no_lease_yet(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Its agent begins where DHCP is silent."""
    scene = Scene(lab, vmacro, way.there, way.here)  # whose DHCP is silent: that of where it is
    with dhcp_dead(scene):
        in_guest(
            scene, "systemctl stop vmacro-agent; rm /run/vmacro-agent.json; systemctl --no-block start vmacro-agent"
        )
        eventually(lambda: "answers, and has no lease" in lab.guest("web").trouble, "its agent", every_s=0.5)
        stopped(lab, vmacro, way, "no-lease")
    eventually(lambda: agent_answers(lab), "its lease", every_s=1)


@pytest.mark.parametrize("verbs", [("claim",), ("count", "endings", "watch"), ("prepare",)])
def test_an_agent_of_before(lab: Lab, vmacro: Vmacro, way: Way, verbs: tuple[str, ...]) -> None:
    scene, again = Scene(lab, vmacro, "", ""), "systemctl daemon-reload; systemctl restart vmacro-agent"
    put(lab, vmacro, "/run/older.py", OLDER.format(verbs=verbs))
    put(lab, vmacro, f"{DROP_IN}/older.conf", UNIT.replace("liar", "older"))
    in_guest(scene, again)
    try:
        stopped(lab, vmacro, way, "agent-too-old")
    finally:
        in_guest(scene, f"rm -r {DROP_IN}; {again}")
        eventually(lambda: agent_answers(lab), "its present agent", every_s=1)
