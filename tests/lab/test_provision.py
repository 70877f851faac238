"""From a bare host to one that is ready, by the command and over SSH, as an operator does it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Vmacro, eventually, on_host
from vmacro.lab import images, inventories, namespaces, preparation, topology
from vmacro.lab.hosts import PACKAGES
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).with_name("bare.toml")
TLS_PORT = 16514


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    """A lab whose host nobody has touched yet."""
    found, image = Lab(topology.load(TOPOLOGY)), images.build("host", print)
    found.down()
    found.folder.mkdir(parents=True)
    namespaces.create_all(found.topology)
    preparation.boot(found.topology, found.folder, [image.root], {PACKAGES: image.packages})
    found.inventory_file.write_text(inventories.text(found.topology, found.folder, emulation=True))
    yield found
    assert found.down() == []


@pytest.fixture
def operator(bare: Lab, tmp_path: Path) -> Vmacro:
    return Vmacro(tmp_path, bare.inventory_file)


def state(lab: Lab) -> str:
    """All that provisioning could have changed, but for Ansible's own scratch folder in /root."""
    script = "dpkg -l; find /etc /opt /usr/local -printf '%p %s %T@\\n' | sort; getent passwd; ip -br addr"
    return on_host(lab, "oslo", "sh", "-c", script)


def provisioned(vmacro: Vmacro, *words: str) -> dict[str, int]:
    done = vmacro("provision", "hosts", "--json", *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])["hosts"]["oslo"]
    return counts


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
    assert provisioned(operator, "--check", "--diff")["changed"] > 5
    assert state(bare) == before, "a check does nothing"

    interrupted(operator)
    assert provisioned(operator)["changed"] > 20, "it goes on where it was"
    (site,) = json.loads(operator("sites", "--json").stdout)
    assert site["hypervisor"].startswith("QEMU 10.") and site["trouble"] == "" and site["certificate days"] > 360

    assert provisioned(operator).get("changed", 0) == 0, "a second run changes nothing"


def test_keys_stay_where_they_were_made(bare: Lab, operator: Vmacro) -> None:
    owners = on_host(bare, "oslo", "sh", "-c", "find /etc/pki -name '*key.pem' -printf '%u %m %p\\n'").splitlines()
    assert len(owners) == 5 and all(line.split()[1] == "600" for line in owners), owners
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
    (site,) = json.loads(operator("sites", "--json").stdout)
    assert "expired" in site["trouble"], site
    assert operator("pki", "renew").returncode == 0, "it is due"
    (site,) = json.loads(operator("sites", "--json").stdout)
    assert site["trouble"] == "" and site["certificate days"] > 360, site


def test_a_renewed_certificate_gets_there(bare: Lab, operator: Vmacro) -> None:
    before = on_host(bare, "oslo", "cat", "/etc/pki/libvirt/servercert.pem")
    assert operator("pki", "renew", "oslo").returncode == 0
    assert provisioned(operator, "--tags", "tls")["changed"] > 0
    assert on_host(bare, "oslo", "cat", "/etc/pki/libvirt/servercert.pem") != before
    (site,) = json.loads(operator("sites", "--json").stdout)
    assert site["trouble"] == "", site


def test_ready_after_a_reboot(bare: Lab, operator: Vmacro, tmp_path: Path) -> None:
    image = images.build("host", print)
    preparation.keep(bare.topology, bare.folder, tmp_path / "kept")
    bare.host("oslo").stop()
    # What a reboot takes with it, and the lab's namespace keeps.
    subprocess.run(["ip", "-n", bare.namespace("oslo"), "link", "del", "front0"], check=True)
    preparation.boot(bare.topology, bare.folder, [image.root], {PACKAGES: image.packages}, kept=tmp_path / "kept")

    def site() -> dict[str, object]:
        (found,) = json.loads(operator("sites", "--json").stdout)
        assert isinstance(found, dict)
        return found

    eventually(lambda: site()["trouble"] == "", "libvirt to answer over TLS", every_s=1, within_s=90)
    assert "table inet vmacro" in on_host(bare, "oslo", "nft", "list", "tables")
    eventually(lambda: "front" in on_host(bare, "oslo", "virsh", "net-list", "--name"), "its network")
