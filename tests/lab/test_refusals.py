"""Bad input: a clear message, the right exit code, and nothing changed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import TOPOLOGY, Vmacro, address_of, clients, on_host, site_of, virsh
from vmacro.lab.lab import Lab
from vmacro.pki.store import Store

pytestmark = pytest.mark.lab


def refused(lab: Lab, done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    for text in said:
        assert text in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "web" not in virsh(lab, "berlin", "list", "--all", "--name")
    assert "web" in virsh(lab, "bucharest", "list", "--name")


def test_already_there(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    refused(lab, vmacro("migrate", "web", "--to", "bucharest"), 3, "guest web: runs at bucharest already")


def test_an_unreachable_destination(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    berlin = lab.host("berlin").address
    off = vmacro.altered("off.toml", lambda t: t.replace(f"qemu+tls://{berlin}/", f"qemu+tls://{berlin}:9/"))
    refused(lab, off("migrate", "web", "--to", "berlin"), 3, f"host berlin: no answer from {berlin} port 9")


def test_a_wrong_authority(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    stranger = vmacro.folder / "stranger"
    store = Store(stranger)
    store.init("stranger")
    store.issue_pair(stranger / "us", "operator", ())
    wrong = vmacro.altered("wrong.toml", lambda t: t.replace(f'"{lab.folder}/operator"', f'"{stranger}/us"'))
    refused(lab, wrong("migrate", "web", "--to", "berlin"), 3, "cannot connect to libvirt", "issued by the CA")


def test_a_certificate_for_another_name(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    """Berlin's certificate is for `berlin` and its address, not for the router's."""
    router, berlin = str(lab.topology.uplink("berlin").router.ip), lab.host("berlin").address
    forward = ["ip", "netns", "exec", lab.namespace("wan"), "iptables-legacy", "-t", "nat"]
    rule = ["PREROUTING", "-d", router, "-p", "tcp", "--dport", "16514", "-j", "DNAT", "--to", berlin]
    subprocess.run([*forward, "-A", *rule], check=True)
    try:
        wrong = vmacro.altered("name.toml", lambda t: t.replace(f"qemu+tls://{berlin}/", f"qemu+tls://{router}/"))
        refused(lab, wrong("migrate", "web", "--to", "berlin"), 3, "cannot connect to libvirt", "certificate")
    finally:
        subprocess.run([*forward, "-D", *rule], check=True)


def test_a_guest_without_an_agent(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    done = vmacro("migrate", "mute", "--to", "berlin")
    refused(lab, done, 3, "guest mute: its agent does not answer", "is vmacro-agent running")
    assert "mute" in virsh(lab, "bucharest", "list", "--name")


@contextmanager
def every_address_reserved(lab: Lab, host: str) -> Iterator[None]:
    """For cards that do not exist: the pool has nothing left to give, but for what is leased already."""
    taken = virsh(lab, host, "net-dhcp-leases", "front")
    first = 10
    count = lab.topology.sites[host].dhcp_addresses
    prefix = str(lab.topology.sites[host].subnet.network_address).rsplit(".", 1)[0]
    entries = [
        f"<host mac='52:54:01:00:00:{n:02x}' ip='{prefix}.{n}'/>"
        for n in range(first, first + count)
        if f"{prefix}.{n}/" not in taken
    ]
    for entry in entries:
        virsh(lab, host, "net-update", "front", "add", "ip-dhcp-host", entry, "--live")
    try:
        yield
    finally:
        for entry in entries:
            virsh(lab, host, "net-update", "front", "delete", "ip-dhcp-host", entry, "--live")


def test_an_exhausted_pool(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    """`mute` has never been at berlin, so that no lease is left there for it; it has no lease to check either."""
    with every_address_reserved(lab, "berlin"):
        done = vmacro("check", "mute", "--to", "berlin")
    assert done.returncode == 3
    assert "dhcp-exhausted: host berlin: no DHCP address is free" in done.stdout, done.stdout


@contextmanager
def a_clone(lab: Lab, host: str, mac: str) -> Iterator[None]:
    """A domain that has this card, and is shut off."""
    card = f"<interface type='network'><source network='front'/><mac address='{mac}'/></interface>"
    head = "<domain type='qemu'><name>clone</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>"
    define = f'echo "{head}<devices>{card}</devices></domain>" > /run/clone.xml && virsh -q define /run/clone.xml >&2'
    on_host(lab, host, "sh", "-c", define)
    try:
        yield
    finally:
        on_host(lab, host, "sh", "-c", "virsh -q destroy clone; virsh -q undefine clone; rm -f /run/clone.xml")


def test_a_clone_with_its_mac_at_the_destination(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    mac = virsh(lab, "bucharest", "domiflist", "web").split()[-1]
    with a_clone(lab, "berlin", mac):
        checked = vmacro("check", "web", "--to", "berlin")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "mac-shared: host berlin: its domain 'clone', which is shut off" in checked.stdout
        virsh(lab, "berlin", "start", "clone")
        done = vmacro("migrate", "web", "--to", "berlin")
        refused(lab, done, 3, f"domain 'clone' has a card of the MAC of guest web, {mac}")


def test_too_little_memory(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    short = vmacro.altered("short.toml", lambda t: t.replace("memory_reserve_mib = 64", "memory_reserve_mib = 9999999"))
    refused(lab, short("migrate", "web", "--to", "berlin"), 3, "host berlin:", "MiB free", "9999999 in reserve")


def test_a_client_that_refuses_to_follow(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    with clients(lab, "deaf", address_of(lab, "web"), "idle"):  # our own prober would not count
        checked = vmacro("check", "web", "--to", "berlin", "--handoff", "renumber")
        assert checked.returncode == 3
        assert "client-refuses-add-addr" in checked.stdout and "cannot follow the guest" in checked.stdout
        subnet = f'subnet = "{lab.topology.hosts["berlin"].subnet}"'  # filters are refused before clients are
        open_there = vmacro.altered("open.toml", lambda t: t.replace(subnet, f"{subnet}\nguard = false"))
        migrated = open_there("migrate", "web", "--to", "berlin", "--handoff", "renumber")
        refused(lab, migrated, 3, "refuses ADD_ADDR", "--allow-connection-loss")


def test_the_lab_without_root(lab: Lab, vmacro: Vmacro) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if subprocess.run([*nobody, "cat", str(TOPOLOGY)], capture_output=True).returncode:
        pytest.skip("nobody can read this checkout: put it where others may look")
    done = vmacro("lab", "up", "--topology", str(TOPOLOGY), prefix=nobody, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 3 and "lab up needs root" in done.stderr, done.stderr


def test_the_lab_without_tun(lab: Lab, vmacro: Vmacro) -> None:
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/net && exec "$@"', "hide")
    done = vmacro("lab", "up", "--topology", str(TOPOLOGY), prefix=hide)
    assert done.returncode == 3 and "/dev/net/tun: does not exist" in done.stderr, done.stderr


def test_the_lab_on_an_occupied_subnet(lab: Lab, vmacro: Vmacro) -> None:
    """A machine, in a namespace, that routes one of the lab's subnets already."""
    name = "vmacro-occupied"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", name, "route", "add", "10.60.2.0/25", "dev", "lo"], check=True)
        inside = ("ip", "netns", "exec", name)
        done = vmacro("lab", "up", "--topology", str(TOPOLOGY), prefix=inside)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    assert done.returncode == 2, done.stderr
    assert "sites.berlin.subnet = 10.60.2.0/24 is occupied: this machine routes 10.60.2.0/25" in done.stderr


def test_another_topology_under_a_running_labs_name(lab: Lab, vmacro: Vmacro) -> None:
    changed = Path(shutil.copy(TOPOLOGY, vmacro.folder / "changed.toml"))
    changed.write_text(changed.read_text().replace("ms = 20", "ms = 30"))
    done = vmacro("lab", "up", "--topology", str(changed))
    assert done.returncode == 1 and "is up with another topology" in done.stderr
    assert site_of(lab, "web") == "bucharest"
