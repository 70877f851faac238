"""What playbooks are told, and what their templates make of it."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_runner.utils import signal_handler

from tests import role
from vmacro import inventory
from vmacro.cli.provision import QUIET, TAGS
from vmacro.drivers.libvirt import xml
from vmacro.lab import inventories, topology
from vmacro.pki import store as pki
from vmacro.provisioning import ansible_inventory, rtt_program, runner

PARTS = ansible_inventory.Parts(
    (Path("/w/a.whl"),), "a==1 --hash=x", Path("/w/agent.deb"), Path("/w/agent.pyz"), Path("/w/vmacro-rtt")
)
TEMPLATES = ansible_inventory.playbooks() / "roles/hypervisor/templates"
RING = Path(__file__).parents[1] / "lab/ring.toml"


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """What Ansible is told of the ring's hosts."""
    shape = topology.load(RING)
    (tmp_path / "i.toml").write_text(inventories.text(shape, tmp_path, emulation=True))
    pki.init(tmp_path / "pki", "test")
    found: dict[str, Any] = ansible_inventory.derived(inventory.load(tmp_path / "i.toml"), PARTS)["all"]
    return found


def rendered(name: str, told: dict[str, Any], host: str) -> str:
    own = told["children"]["hypervisors"]["hosts"][host]
    facts = {"inventory_hostname": host, "hypervisor_gateway_mac": "52:54:00:00:00:01"}
    return role.rendered(name, **told["vars"], **own, **facts)


def test_the_inventory_is_derived_from_ours(told: dict[str, Any]) -> None:
    berlin = told["children"]["hypervisors"]["hosts"]["berlin"]
    assert (berlin["ansible_user"], berlin["ansible_become"], berlin["vmacro_emulation"]) == ("root", False, True)
    assert berlin["ansible_host"] == berlin["vmacro_address"] == "10.49.0.10"
    assert [p["name"] for p in berlin["vmacro_peers"]] == ["bucharest", "madrid"]
    assert berlin["vmacro_network"]["gateway6"] == "fd90:2::1"
    options = told["vars"]["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in options and "UserKnownHostsFile=" in options
    assert berlin["vmacro_clients"] == ["operator", "bucharest", "madrid"], "nobody else asks its libvirt, nor itself"
    authorities = told["vars"]["vmacro_authorities"]
    assert set(authorities) == {"libvirt", "qemu"} and authorities["libvirt"] != authorities["qemu"]
    assert all(pem.startswith("-----BEGIN CERTIFICATE-----") for pem in authorities.values())
    assert "PRIVATE" not in str(told)


PROBED = """
[probers.paris]
ssh = "root@192.0.2.9"
[guests.shop]
ssh = "root@"
ansible = { guest_restart_servers = true }
probe = { from = "paris", port = 7001, mptcp = false, interval_ms = 50 }
[guests.named]
probe = { from = "paris", address = "named.example.net" }
[guests.lost]
probe = { from = "paris" }
"""


def test_probers_are_told_where_their_guests_are(tmp_path: Path) -> None:
    text = inventories.text(topology.load(RING), tmp_path, emulation=True)
    (tmp_path / "i.toml").write_text(text + PROBED)
    pki.init(tmp_path / "pki", "test")
    settings = inventory.load(tmp_path / "i.toml")
    groups = ansible_inventory.derived(settings, PARTS, {"shop": "10.90.1.20"})["all"]["children"]
    assert groups["guests"]["hosts"]["shop"]["guest_restart_servers"], "what the inventory says under `ansible`"
    paris = groups["probers"]["hosts"]["paris"]
    assert (paris["ansible_host"], paris["ansible_user"]) == ("192.0.2.9", "root")
    assert paris["vmacro_targets"] == {
        "shop": {"address": "10.90.1.20", "port": 7001, "mptcp": False, "interval_ms": 50.0},
        "named": {"address": "named.example.net", "port": 7000, "mptcp": True, "interval_ms": 10.0},
    }, "one that nobody knows where to find is left out"
    assert groups["responders"]["hosts"] == {"shop": {}}, "those that SSH reaches"
    assert groups["guests"]["hosts"]["shop"]["vmacro_probe_port"] == 7001


def test_the_rtt_tool_is_one_file_that_runs_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMACRO_CACHE", str(tmp_path))
    program = rtt_program.built()
    assert program == rtt_program.built()
    for verb in ("serve", "watch", "probe"):  # without our packages, and without us
        done = subprocess.run(["/usr/bin/python3", "-I", program, verb, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and "usage: vmacro-" in done.stdout, done.stderr
    (tmp_path / "bad.json").write_text("{}")
    command = ["/usr/bin/python3", "-I", str(program), "watch", str(tmp_path / "bad.json")]
    assert "targets: must be a table" in subprocess.run(command, capture_output=True, text=True).stderr


def test_a_network_reads_back(told: dict[str, Any]) -> None:
    leases = [("10.90.2.10", "52:54:00:aa:bb:cc"), ("10.50.9.9", "52:54:00:aa:bb:cd"), ("fd90:2::9", None)]
    facts = xml.network(rendered("network.xml.j2", told, "berlin"), True, leases)
    assert (facts.subnet, facts.gateway, facts.stp, facts.forward_delay_s) == ("10.90.2.0/24", "10.90.2.1", False, 0)
    assert facts.dhcp_range == ("10.90.2.10", "10.90.2.109") and facts.dhcp_free == 99
    assert facts.address_of("52:54:00:aa:bb:cc") == "10.90.2.10" and facts.subnet6 == "fd90:2::/64"


def test_who_is_guarded_and_whose_legs_are_plain_is_for_the_inventory_to_say(tmp_path: Path) -> None:
    shape = topology.load(RING)
    shape = shape.model_copy(update={"wan": shape.wan.model_copy(update={"anti_spoofing": False})})
    changed = {"berlin": {"guard": False, "plain_tunnel": True}, "madrid": {"plain_tunnel": True}, "bucharest": {}}
    sites = {name: shape.sites[name].model_copy(update=update) for name, update in changed.items()}
    (tmp_path / "i.toml").write_text(
        inventories.text(shape.model_copy(update={"sites": sites}), tmp_path, emulation=True)
    )
    pki.init(tmp_path / "pki", "test")
    settings = inventory.load(tmp_path / "i.toml")
    hosts = ansible_inventory.derived(settings, PARTS)["all"]["children"]["hypervisors"]["hosts"]
    assert {n: (h["vmacro_network"]["guard"], h["vmacro_plain_tunnel"]) for n, h in hosts.items()} == {
        "bucharest": (True, False),
        "berlin": (False, True),
        "madrid": (True, True),
    }
    peers = {peer["name"]: peer["plain_tunnel"] for peer in hosts["bucharest"]["vmacro_peers"]}
    assert peers == {"berlin": True, "madrid": True}
    known = settings.inventory
    assert {h.name: (h.guard, h.plain_tunnel) for h in known.hosts} == {
        "bucharest": (True, False),
        "berlin": (False, True),
        "madrid": (True, True),
    }
    filters = {site.name: site.anti_spoofing for site in known.sites}
    assert filters == {"bucharest": True, "berlin": False, "madrid": True}, "a guard is such a filter, too"


def test_the_firewall_knows_hosts_and_operators(told: dict[str, Any]) -> None:
    rules = rendered("firewall.nft.j2", told, "berlin")
    assert "elements = { 10.49.0.6, 10.49.0.14 }" in rules and "elements = { 10.49.0.2 }" in rules
    assert "tcp dport 16514 accept\n" not in re.sub(r".*saddr.*\n", "", rules), "nobody else"
    open_to_all = rendered("firewall.nft.j2", {**told, "vars": {**told["vars"], "vmacro_operators": []}}, "berlin")
    assert "tcp dport 16514 accept\n" in re.sub(r".*saddr.*\n", "", open_to_all)


@pytest.mark.parametrize("playbook", TAGS)
def test_tags_that_may_be_asked_for_are_the_playbooks(playbook: str) -> None:
    """Ansible takes any, and runs nothing."""
    play = ansible_inventory.playbooks() / f"{playbook}.yml"
    roles = {"hosts": "hypervisor", "guests": "guest"}
    tasks = play.parent / f"roles/{roles[playbook]}/tasks/main.yml" if playbook in roles else play
    written = re.findall(r"(?m)^\s*tags: \[(\w+)\]$", tasks.read_text())
    assert {*written} - {"always"} == {*TAGS[playbook]}


def test_what_failed_at_a_host_is_told_once() -> None:
    """At the end, by the error."""
    assert {"failed", "unreachable"} <= {*QUIET} and "changed" not in QUIET and "ignored" not in QUIET


def test_a_recap_counts_and_keeps_failures(tmp_path: Path) -> None:
    recap = runner.Recap(tmp_path)
    for kind in ("begins", "ok", "changed", "failed"):
        recap.count(runner.Task("a", "t", kind))
    recap.count(runner.Task("b", "t", "unreachable", "no route"))
    assert recap.counts == {"a": {"ok": 1, "changed": 1, "failed": 1}, "b": {"unreachable": 1}}
    assert [f.host for f in recap.failures] == ["a", "b"] and recap.total("changed") == 1


def test_signals_are_given_back() -> None:
    """ansible-runner keeps them: Ctrl-C would mean nothing afterwards."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with runner._signals_given_back():
        signal_handler()
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    ("status", "said"), [("canceled", "playbook hosts: interrupted"), ("failed", "ended with 'failed': no inventory")]
)
def test_a_run_that_told_of_no_failure_is_one_all_the_same(tmp_path: Path, status: str, said: str) -> None:
    (tmp_path / "stdout").write_text("no inventory")
    ended = SimpleNamespace(status=status, config=SimpleNamespace(artifact_dir=str(tmp_path)))
    assert said in str(runner._failed(runner.Recap(tmp_path), "hosts", ended))
