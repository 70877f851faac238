"""From bare hosts, a Debian 13 and a Debian 12, to the first moves between them, with the commands of
docs/own-hosts.md as they stand there. The tests of this file are one story.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Vmacro, address_of, clients, eventually, on_host, verdicts
from vmacro.lab import namespaces, preparation, seat, topology
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).with_name("bare.toml")
PAGE = Path(__file__).parents[2] / "docs/own-hosts.md"
TLS_PORT = 16514
LIBVIRT_KEY, QEMU_KEY = "libvirt/private/clientkey.pem", "qemu/client-key.pem"


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    """A lab whose hosts nobody has touched yet."""
    found = Lab(topology.load(TOPOLOGY))
    found.down()
    found.up_bare(TOPOLOGY, lambda text: print(text, flush=True))
    yield found
    assert found.down() == []


@pytest.fixture
def operator(bare: Lab, tmp_path: Path) -> Vmacro:
    prefix = tuple(seat.command(bare.folder, bare.namespace("operator"), ()))
    return Vmacro(tmp_path, bare.inventory_file, prefix, default=True)


def page() -> list[list[str]]:
    """The commands of the page, as words: its first indented block."""
    block = re.findall(r"(?:^    .*\n)+", PAGE.read_text(), re.MULTILINE)[0].replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


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


def interrupted(vmacro: Vmacro, *words: str) -> None:
    """By Ctrl-C, as soon as something was changed."""
    process = vmacro.start(*words, "--json")
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
    init, pki, provision, _ = page()
    done = operator(*init, "--emulation")
    assert done.returncode == 0, done.stderr
    refused = operator(*provision)
    assert refused.returncode == 2 and "vmacro pki init" in refused.stderr, refused.stderr
    assert operator(*pki).returncode == 0

    before = state(bare)
    assert min(provisioned(operator, "--check", "--diff")) > 5
    assert state(bare) == before, "a check does nothing"

    interrupted(operator, *provision)
    assert min(provisioned(operator)) > 20, "it goes on where it was"
    for host in seen(operator).values():
        assert host["trouble"] == "" and int(str(host["certificate days"])) > 360, host

    assert provisioned(operator) == [0, 0], "a second run changes nothing"


def test_the_first_moves(bare: Lab, operator: Vmacro) -> None:
    """To the other Debian and back, for clients who have no idea."""
    bare.up(TOPOLOGY, lambda text: print(text, flush=True))
    found = operator("doctor")
    assert found.returncode == 0, found.stdout + found.stderr
    *_, migrate = page()
    with clients(bare, "client", address_of(bare, "web"), "chatter", "tcp-chatter") as process:
        for words in (migrate, ["migrate", "web", "--to", "bucharest"]):
            done = operator(*words, "--json")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert not any(verdicts(process).values())
    on_host(bare, "bucharest", "virsh", "destroy", "web")


def test_keys_stay_where_they_were_made(bare: Lab, operator: Vmacro) -> None:
    look = "find /etc/pki -name '*key.pem' -printf '%u %m %p\\n'"
    owners = [line for site in bare.topology.sites for line in on_host(bare, site, "sh", "-c", look).splitlines()]
    assert len(owners) == 12 and all(line.split()[1] == "600" for line in owners), owners
    assert {line.split()[0] for line in owners if "/qemu/" in line} == {"libvirt-qemu"}
    for site in bare.topology.sites:  # what QEMU can read is not what opens libvirt
        keys = [on_host(bare, site, "cat", f"/etc/pki/{key}") for key in (LIBVIRT_KEY, QEMU_KEY)]
        assert keys[0] != keys[1]
    kept = [p for p in (seat.folder(bare.folder) / "state/provision").rglob("*") if p.is_file()]
    assert kept and not [p for p in kept if b"PRIVATE KEY" in p.read_bytes()]


def test_strangers_do_not_reach_libvirt(bare: Lab, operator: Vmacro) -> None:
    address, ours = bare.host("bucharest").address, bare.topology.uplink("operator").node.ip
    text = bare.inventory_file.read_text()
    bare.inventory_file.write_text(text.replace('# addresses = ["192.0.2.1"]', f'addresses = ["{ours}"]'))
    assert min(provisioned(operator, "--tags", "firewall")) > 0
    with namespaces.inside(bare.namespace("operator")):
        socket.create_connection((address, TLS_PORT), timeout=30).close()
    with namespaces.inside(bare.namespace("client")):
        socket.create_connection((address, 22), timeout=30).close()
        with pytest.raises(TimeoutError):
            socket.create_connection((address, TLS_PORT), timeout=2)


def test_another_network_of_that_name_is_left_alone(bare: Lab, operator: Vmacro) -> None:
    other = operator.altered("other.toml", lambda t: t.replace("10.50.1.", "10.92.1."))
    before = state(bare)
    done = other("provision", "hosts", "--limit", "b1")
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
    known.write_text(f"{bare.host('bucharest').address} {public}\n")
    wrong = operator.altered("wrong.toml", lambda t: t.replace("[policy]", f'ssh_known_hosts = "{known}"\n[policy]'))
    done = wrong("provision", "hosts")
    assert done.returncode == 1 and "b1: " in done.stderr and "unreachable" in done.stderr, done.stderr
    assert "ost key verification failed" in done.stderr, done.stderr


def test_a_certificate_that_has_expired(operator: Vmacro) -> None:
    """Ours: the host does not let us in by it, and renewing mends that."""
    assert operator("pki", "renew", "operator", "--days", "-1").returncode == 0
    assert all("expired" in str(host["trouble"]) for host in seen(operator).values())
    assert operator("pki", "renew").returncode == 0, "it is due"
    assert all(host["trouble"] == "" for host in seen(operator).values())


def test_a_renewed_certificate_gets_there(bare: Lab, operator: Vmacro) -> None:
    before = on_host(bare, "bucharest", "cat", "/etc/pki/libvirt/servercert.pem")
    assert operator("pki", "renew", "b1").returncode == 0
    assert sum(provisioned(operator, "--tags", "tls")) > 0
    assert on_host(bare, "bucharest", "cat", "/etc/pki/libvirt/servercert.pem") != before
    assert seen(operator)["b1"]["trouble"] == ""


def is_let_in(lab: Lab, site: str, *command: str) -> str:
    """'' where a host's command got an answer from another host, else what it said."""
    script = 'timeout 20 "$@" 2>&1 || echo "refused: $?"'
    said = on_host(lab, site, "sh", "-c", script, "sh", *command)
    return said if "refused: " in said else ""


LIBVIRT = ("virsh", "-c", "qemu+tls://b1/system", "list")
# QEMU reads the revocation list as it starts.
SERVE = """
systemctl stop served 2>/dev/null
qemu-img create -q -f raw /tmp/d.raw 1M
systemd-run -q --unit=served --service-type=forking qemu-nbd --read-only --persistent --format raw --port 49215 \\
    --object tls-creds-x509,id=tls0,endpoint=server,dir=/etc/pki/qemu,verify-peer=yes --tls-creds tls0 \\
    --export-name x --fork /tmp/d.raw
"""


def reads_a_disk(directory: str, address: str) -> tuple[str, ...]:
    source = f"driver=nbd,server.type=inet,server.host={address},server.port=49215,export=x,tls-creds=tls0"
    credentials = f"tls-creds-x509,id=tls0,endpoint=client,dir={directory}"
    return ("qemu-img", "info", "--object", credentials, "--image-opts", f"{source},tls-hostname=b1")


def without_berlin(text: str) -> str:
    """An inventory whose operator has taken a host, and with it a site, out."""
    tables = re.split(r"(?m)^(?=\[)", text)
    return "".join(t for t in tables if "berlin" not in t.splitlines()[0] and not t.startswith("[hosts.d1]"))


def test_a_host_that_was_taken_out_reaches_the_others_no_more(bare: Lab, operator: Vmacro) -> None:
    """Neither through their firewall nor, where that is open, by its certificates: libvirt's and QEMU's. What QEMU's
    user has opened no libvirt before, either."""
    address = bare.host("bucharest").address
    read_disk = reads_a_disk("/etc/pki/qemu", address)
    on_host(bare, "bucharest", "sh", "-c", SERVE)
    assert is_let_in(bare, "berlin", *LIBVIRT) == "" == is_let_in(bare, "berlin", *read_disk)
    as_qemu = "mkdir -p /tmp/q; cd /etc/pki/qemu; cp client-cert.pem /tmp/q/clientcert.pem; cp ca-cert.pem /tmp/q/"
    as_qemu += "; cp client-key.pem /tmp/q/clientkey.pem; cp /etc/pki/CA/cacert.pem /tmp/q/cacert.pem"
    on_host(bare, "berlin", "sh", "-c", as_qemu)
    assert is_let_in(bare, "berlin", "virsh", "-c", "qemu+tls://b1/system?pkipath=/tmp/q", "list")

    without = operator.altered("without.toml", without_berlin)
    assert min(provisioned(without)) > 0
    assert "refused: 124" in is_let_in(bare, "berlin", *LIBVIRT), "the firewall lets nothing through"
    on_host(bare, "bucharest", "sh", "-c", SERVE)
    on_host(bare, "bucharest", "nft", "delete", "table", "inet", "vmacro")
    try:
        assert "TLS" in is_let_in(bare, "berlin", *LIBVIRT), "nor does libvirt"
        assert is_let_in(bare, "berlin", *read_disk), "nor does QEMU"
    finally:
        on_host(bare, "bucharest", "systemctl", "restart", "vmacro-firewall.service")
    said = on_host(bare, "bucharest", "journalctl", "-u", "libvirtd", "-n", "50", "-o", "cat")
    assert "has been revoked" in said or "not on the list of allowed clients" in said
    assert seen(operator)["b1"]["trouble"] == "", "the operator is let in as before"

    assert max(provisioned(operator)) > 0, "put back, it is one of them again"
    on_host(bare, "bucharest", "sh", "-c", SERVE)
    assert is_let_in(bare, "berlin", *LIBVIRT) == "" == is_let_in(bare, "berlin", *read_disk)
    on_host(bare, "bucharest", "systemctl", "stop", "served")


def test_ready_after_a_reboot(bare: Lab, operator: Vmacro, tmp_path: Path) -> None:
    host, kept = bare.host("bucharest"), tmp_path / "kept"
    host.stop()
    kept.mkdir()
    host.keep(kept / host.name)
    # What a reboot takes with it, and the lab's namespace keeps.
    subprocess.run(["ip", "-n", bare.namespace("bucharest"), "link", "del", "front0"], check=True)
    preparation.boot(
        bare.topology, bare.folder, preparation.untouched(bare.topology, print), {}, kept=tmp_path / "kept"
    )
    eventually(lambda: seen(operator)["b1"]["trouble"] == "", "libvirt to answer over TLS", every_s=1, within_s=90)
    assert "table inet vmacro" in on_host(bare, "bucharest", "nft", "list", "tables")
    eventually(lambda: "front" in on_host(bare, "bucharest", "virsh", "net-list", "--name"), "its network")
