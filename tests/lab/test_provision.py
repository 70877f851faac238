"""From bare hosts, a Debian 13 and a Debian 12, to the first moves between them, by the command and over SSH, as an
operator does it. The tests of this file are one story.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import PATIENCE_S, Vmacro, clients, eventually, on_host, verdicts, without_probers
from vmacro import inventory
from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.libvirt_connection import Connections
from vmacro.lab import accelerator, guests, images, inventories, namespaces, preparation, topology, wan
from vmacro.lab.hosts import GUEST_IMAGES, Ground
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).with_name("bare.toml")
TLS_PORT = 16514


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    """A lab whose hosts nobody has touched yet."""
    found = Lab(topology.load(TOPOLOGY))
    found.down()
    found.folder.mkdir(parents=True)
    namespaces.create_all(found.topology)
    wan.start(found.topology, found.folder)
    binds = {f"{GUEST_IMAGES}/guest": images.build("guest", print).folder}
    preparation.boot(found.topology, found.folder, untouched(found), binds)
    found.inventory_file.write_text(inventories.text(found.topology, found.folder, emulation=True))
    yield found
    assert found.down() == []


def untouched(lab: Lab) -> dict[str, Ground]:
    shape = lab.topology
    return {site: preparation.bare(images.build(shape.image(site), print)) for site in shape.sites}


@pytest.fixture
def operator(bare: Lab, tmp_path: Path) -> Vmacro:
    return Vmacro(tmp_path, bare.inventory_file)


def state(lab: Lab) -> str:
    """All that provisioning could have changed, but for Ansible's own scratch folder in /root."""
    script = "dpkg -l; find /etc /opt /usr/local -printf '%p %s %T@\\n' | sort; getent passwd; ip -br addr"
    return "".join(on_host(lab, site, "sh", "-c", script) for site in lab.topology.sites)


def provisioned(vmacro: Vmacro, *words: str) -> list[int]:
    """How many tasks changed something, or would, at each host."""
    done = vmacro("provision", "hosts", "--json", *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    counts: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])["hosts"]
    return [host.get("changed", 0) for host in counts.values()]


def seen(vmacro: Vmacro) -> dict[str, dict[str, object]]:
    """What `vmacro sites` says of each host."""
    return {row["host"]: row for row in json.loads(vmacro("sites", "--json").stdout)}


def interrupted(vmacro: Vmacro) -> None:
    """By Ctrl-C, as soon as something was changed."""
    process = vmacro.start("provision", "hosts", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("kind") == "changed":
            process.send_signal(signal.SIGINT)
            break
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1 and "playbook hosts: interrupted" in said, said


def test_from_bare_to_ready(bare: Lab, operator: Vmacro) -> None:
    """In order: without an authority nothing begins; a check does nothing; then all of it, though
    it is interrupted; then nothing more."""
    refused = operator("provision", "hosts")
    assert refused.returncode == 2 and "vmacro pki init" in refused.stderr, refused.stderr
    assert operator("pki", "init").returncode == 0

    before = state(bare)
    assert min(provisioned(operator, "--check", "--diff")) > 5
    assert state(bare) == before, "a check does nothing"

    interrupted(operator)
    assert min(provisioned(operator)) > 20, "it goes on where it was"
    for host in seen(operator).values():
        assert host["trouble"] == "" and int(str(host["certificate days"])) > 360, host

    assert provisioned(operator) == [0, 0], "a second run changes nothing"


def test_the_first_moves(bare: Lab, operator: Vmacro) -> None:
    """To the other Debian and back, for a client who has no idea."""
    connections = Connections(bare.folder / "operator")
    hosts = {host.name: host for host in inventory.load(bare.inventory_file).inventory.hosts}
    with namespaces.inside(bare.namespace("operator")):
        guests.start(connections.get(hosts["oslo"]), bare.topology, "web", accelerator.TCG)
        agents = ChannelAgents(connections)
        ready = guests.wait_until_ready(agents, hosts["oslo"], "web", timeout_s=PATIENCE_S)
    connections.close()
    bare.wait_for_responder(ready.agent.address)
    assert operator("doctor").returncode == 0
    with clients(bare, "stranger", ready.agent.address, "chatter", "tcp-chatter") as process:
        for site in ("bergen", "oslo"):
            done = without_probers(operator)("migrate", "web", "--to", site, "--json")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert not any(verdicts(process).values())
    on_host(bare, "oslo", "virsh", "destroy", "web")


def test_keys_stay_where_they_were_made(bare: Lab, operator: Vmacro) -> None:
    look = "find /etc/pki -name '*key.pem' -printf '%u %m %p\\n'"
    owners = [line for site in bare.topology.sites for line in on_host(bare, site, "sh", "-c", look).splitlines()]
    assert len(owners) == 10 and all(line.split()[1] == "600" for line in owners), owners
    assert {line.split()[0] for line in owners if "/qemu/" in line} == {"libvirt-qemu"}
    kept = [p for p in (bare.folder / "provision").rglob("*") if p.is_file()]
    assert kept and not [p for p in kept if b"PRIVATE KEY" in p.read_bytes()]


def test_strangers_do_not_reach_libvirt(bare: Lab) -> None:
    address = bare.host("oslo").address
    with namespaces.inside(bare.namespace("operator")):
        socket.create_connection((address, TLS_PORT), timeout=30).close()
    with namespaces.inside(bare.namespace("stranger")):
        socket.create_connection((address, 22), timeout=30).close()
        with pytest.raises(TimeoutError):
            socket.create_connection((address, TLS_PORT), timeout=2)


def test_another_network_of_that_name_is_left_alone(bare: Lab, operator: Vmacro) -> None:
    other = operator.altered("other.toml", lambda t: t.replace("10.91.1.", "10.92.1."))
    before = state(bare)
    done = other("provision", "hosts")
    assert done.returncode == 1 and "libvirt network front is there already, with another subnet" in done.stderr
    assert state(bare) == before


def test_no_hardware_virtualisation_where_none_was_expected(bare: Lab, operator: Vmacro) -> None:
    before = state(bare)
    done = operator.altered("kvm.toml", lambda t: t.replace("emulation = true", "emulation = false"))(
        "provision", "hosts"
    )
    assert done.returncode == 1 and "has no /dev/kvm" in done.stderr, done.stderr
    assert state(bare) == before


def test_a_host_with_another_key_is_not_let_near(bare: Lab, operator: Vmacro) -> None:
    known = operator.folder / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(operator.folder / "other")], check=True)
    public = " ".join((operator.folder / "other.pub").read_text().split()[:2])
    known.write_text(f"{bare.host('oslo').address} {public}\n")
    line = f'ssh_known_hosts = "{bare.folder}/ssh/known_hosts"'
    done = operator.altered("wrong.toml", lambda t: t.replace(line, f'ssh_known_hosts = "{known}"'))(
        "provision", "hosts"
    )
    assert done.returncode == 1 and "oslo: " in done.stderr and "unreachable" in done.stderr, done.stderr
    assert "ost key verification failed" in done.stderr, done.stderr


def test_a_certificate_that_has_expired(operator: Vmacro) -> None:
    """Ours: the host does not let us in by it, and renewing mends that."""
    assert operator("pki", "renew", "operator", "--days", "-1").returncode == 0
    assert all("expired" in str(host["trouble"]) for host in seen(operator).values())
    assert operator("pki", "renew").returncode == 0, "it is due"
    assert all(host["trouble"] == "" for host in seen(operator).values())


def test_a_renewed_certificate_gets_there(bare: Lab, operator: Vmacro) -> None:
    before = on_host(bare, "oslo", "cat", "/etc/pki/libvirt/servercert.pem")
    assert operator("pki", "renew", "oslo").returncode == 0
    assert sum(provisioned(operator, "--tags", "tls")) > 0
    assert on_host(bare, "oslo", "cat", "/etc/pki/libvirt/servercert.pem") != before
    assert seen(operator)["oslo"]["trouble"] == ""


def test_ready_after_a_reboot(bare: Lab, operator: Vmacro, tmp_path: Path) -> None:
    preparation.keep(bare.topology, bare.folder, tmp_path / "kept")
    bare.host("oslo").stop()
    # What a reboot takes with it, and the lab's namespace keeps.
    subprocess.run(["ip", "-n", bare.namespace("oslo"), "link", "del", "front0"], check=True)
    preparation.boot(bare.topology, bare.folder, untouched(bare), {}, kept=tmp_path / "kept")
    eventually(lambda: seen(operator)["oslo"]["trouble"] == "", "libvirt to answer over TLS", every_s=1, within_s=90)
    assert "table inet vmacro" in on_host(bare, "oslo", "nft", "list", "tables")
    eventually(lambda: "front" in on_host(bare, "oslo", "virsh", "net-list", "--name"), "its network")
