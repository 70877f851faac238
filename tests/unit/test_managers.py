"""Who else has the interface, and what is left of it once it has let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pyroute2.dhcp import _encode_client_id

from guest_agent import lease, managers, resolver, state, takeover
from guest_agent.managers import Ifupdown, Interface, Networkd, NetworkManager, System
from vmacro.wire import names
from vmacro.wire.agent_verbs import Lease

CARD = Interface("enp1s0", "52:54:00:00:00:01", 2, "10.1.0.9/24", "10.1.0.1")
NM_STATE = """\
[device]
managed=true
connection-uuid=a41601f3
[dhcp4]
dhcp4.dhcp_client_identifier=01:52:54:00:00:00:01
"""


class Guest:
    """Files in a folder; commands are noted, and answered as they were told to be."""

    def __init__(self, root: Path, answers: dict[str, str] | None = None) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.then: dict[str, Callable[[], None]] = {}  # what a command does
        self.answers = answers or {}
        self.system = System(root, self._run)

    def _run(self, *command: str) -> str:
        self.ran.append(command)
        self.then.get(command[0], lambda: None)()
        said = " ".join(command)
        return next((text for key, text in self.answers.items() if said.startswith(key)), "")

    def put(self, path: str, text: str) -> Path:
        self.system.write(self.system.root / path, text)
        return self.system.root / path


def test_networkd_has_it_until_a_file_of_ours_says_otherwise(tmp_path: Path) -> None:
    guest = Guest(tmp_path, {"systemctl is-active": "active\n"})
    networkd = Networkd(guest.system)
    assert not networkd.manages(CARD), "no state of it"
    guest.put("run/systemd/netif/links/2", "# private\nADMIN_STATE=configured\n")
    guest.put("run/systemd/netif/leases/2", "ADDRESS=10.1.0.9\nCLIENTID=ff0102\n")
    assert networkd.manages(CARD) and networkd.client_id(CARD) == "ff0102"
    networkd.let_go(CARD)
    ours = tmp_path / "etc/systemd/network/00-vmacro.network"
    assert "MACAddress=52:54:00:00:00:01" in ours.read_text() and "Unmanaged=yes" in ours.read_text()
    assert ("networkctl", "reload") in guest.ran
    networkd.return_it(CARD)
    assert not ours.exists() and ("networkctl", "reconfigure", "enp1s0") in guest.ran
    guest.put("run/systemd/netif/links/2", "ADMIN_STATE=unmanaged\n")
    assert not networkd.manages(CARD)


def test_networkmanager_tells_its_client_identifier(tmp_path: Path) -> None:
    guest = Guest(tmp_path, {"systemctl is-active": "active\n"})
    manager = NetworkManager(guest.system)
    assert not manager.manages(CARD)
    guest.put("run/NetworkManager/devices/2", NM_STATE)
    assert manager.manages(CARD) and manager.client_id(CARD) == "01525400000001"
    manager.let_go(CARD)
    assert "mac:52:54:00:00:00:01" in (tmp_path / "etc/NetworkManager/conf.d/50-vmacro.conf").read_text()


# As a Debian 13 guest had them; its DHCP server knew it by the identifier below.
INTERFACES = """\
# This file is generated from information provided by the datasource.
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet dhcp
    metric 100
iface eth0 inet6 auto
"""
LEASES = 'default-duid "\\000\\001\\000\\0012\\232\\217#RT\\000\\027\\001\\307";\nlease {\n  interface "eth0";\n}\n'
ETH0 = Interface("eth0", "52:54:00:17:01:c7", 2, "10.94.1.57/24", "10.94.1.1")


def ifupdown(guest: Guest, program: str, pid_file: str) -> Ifupdown:
    """With that DHCP client, which ends as it is killed."""
    guest.put("etc/network/interfaces", "source /etc/network/interfaces.d/*\n")
    guest.put("etc/network/interfaces.d/50-cloud-init", INTERFACES)
    guest.put(pid_file, "357\n")
    running = guest.put("proc/357/comm", f"{program}\n")
    guest.then["kill"] = running.unlink
    return Ifupdown(guest.system)


def test_ifupdown_with_dhclient(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    manager = ifupdown(guest, "dhclient", "run/dhclient.eth0.pid")
    assert not manager.manages(CARD), "that is another interface"
    assert manager.manages(ETH0) and manager.client_id(ETH0) == "", "it sends none without a DUID"
    guest.put("var/lib/dhcp/dhclient.eth0.leases", LEASES)
    assert manager.client_id(ETH0) == "ff001701c700010001329a8f235254001701c7"
    manager.let_go(ETH0)
    ours = (tmp_path / "etc/network/interfaces.d/50-cloud-init").read_text()
    assert "iface eth0 inet manual\n    metric 100\niface eth0 inet6 auto" in ours
    assert ("kill", "357") in guest.ran and not manager.manages(ETH0)
    manager.return_it(ETH0)
    assert (tmp_path / "etc/network/interfaces.d/50-cloud-init").read_text() == INTERFACES
    assert guest.ran[-2:] == [("ifdown", "--force", "eth0"), ("ifup", "--force", "eth0")]


def test_ifupdown_with_dhcpcd(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    manager = ifupdown(guest, "dhcpcd", "run/dhcpcd/eth0-4.pid")
    guest.put("var/lib/dhcpcd/duid", "00:01:00:01:32:9A:8f:23:52:54:00:17:01:c7\n")
    assert manager.manages(ETH0) and manager.client_id(ETH0) == "ff001701c700010001329a8f235254001701c7"
    manager.let_go(ETH0)
    assert not manager.manages(ETH0)


STATIC = """\
auto eth0
iface eth0 inet static
    address 10.94.1.57/24
    gateway 10.94.1.1
"""


@pytest.mark.parametrize("state", ["ifstate", "ifstate.eth0"])
def test_ifupdown_with_a_static_address(tmp_path: Path, state: str) -> None:
    guest = Guest(tmp_path)
    path = guest.put("etc/network/interfaces", STATIC)
    manager = Ifupdown(guest.system)
    assert not manager.manages(ETH0), "it is written there, and nobody has brought it up"
    guest.put(f"run/network/{state}", "lo=lo\neth0=eth0\n")
    assert manager.manages(ETH0) and manager.client_id(ETH0) == ""
    assert not manager.manages(CARD)
    manager.let_go(ETH0)
    assert "iface eth0 inet manual\n    address 10.94.1.57/24" in path.read_text() and not manager.manages(ETH0)
    manager.return_it(ETH0)
    assert path.read_text() == STATIC and manager.manages(ETH0)


def test_an_address_that_nobody_looks_after(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    manager = next(m for m in managers.known(guest.system) if m.manages(ETH0))
    assert manager.name == "nobody" and not manager.manages(replace(ETH0, address=""))
    assert not manager.manages(replace(ETH0, dynamic=True)), "somebody renews it"
    manager.let_go(ETH0)
    assert not any(command[0] == "ip" for command in guest.ran), "the address stays"
    manager.return_it(ETH0)
    assert guest.ran[-2:] == [
        ("ip", "address", "replace", "10.94.1.57/24", "dev", "eth0"),
        ("ip", "route", "replace", "default", "via", "10.94.1.1", "dev", "eth0"),
    ]
    guest.answers["systemctl is-active vmacro-agent.service"] = "active\n"
    assert not manager.manages(ETH0), "the agent has it"


def test_a_pid_that_is_somebody_elses_now(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    manager = ifupdown(guest, "dhclient", "run/dhclient.eth0.pid")
    guest.put("proc/357/comm", "nginx\n")
    assert not manager.manages(ETH0)


def test_cloud_init_is_kept_out_where_there_is_one(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    managers.keep_cloud_init_out(guest.system)
    assert not list(tmp_path.rglob("*.cfg"))
    (tmp_path / "etc/cloud/cloud.cfg.d").mkdir(parents=True)
    managers.keep_cloud_init_out(guest.system)
    (written,) = tmp_path.rglob("*.cfg")
    assert written.read_text() == "network: {config: disabled}\n"
    managers.let_cloud_init_in(guest.system)
    assert not list(tmp_path.rglob("*.cfg"))


@pytest.mark.parametrize("identifier", ["01525400000001", "ff007a551f0001", "00766d6163726f"])
def test_an_identifier_is_sent_as_it_was(identifier: str) -> None:
    """Ethernet's, a DUID, and one of no type."""

    assert _encode_client_id(lease.identifier_option(bytes.fromhex(identifier))).hex() == identifier


def test_name_servers_are_addresses_or_nothing(tmp_path: Path) -> None:
    assert resolver.usable(["10.0.0.1", "x; reboot", "fd00::1", "1.1.1.1", "9.9.9.9"]) == [
        "10.0.0.1",
        "fd00::1",
        "1.1.1.1",
    ]


@pytest.mark.parametrize(
    ("before", "ours"),
    [(None, True), ("nameserver 10.0.0.9\n", True), ("# by hand\nnameserver 10.0.0.9\n", False)],
)
def test_resolv_conf_of_somebody_else_stays(
    tmp_path: Path, before: str | None, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "RESOLVED", tmp_path / "nowhere")
    path = tmp_path / "resolv.conf"
    if before is not None:
        path.write_text(before)
    asyncio.run(resolver.use("eth0", ["10.0.0.1"], path))
    assert ("nameserver 10.0.0.1" in path.read_text()) == ours


def test_two_guests_that_borrow_at_once_are_two_clients_to_dhcp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dnsmasq gives one lease to all who send one identifier, whatever their cards: the first would lose it."""
    monkeypatch.setattr(lease, "CARDS", tmp_path)
    for name in ("eth0", "eth1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "address").write_text(f"52:54:00:00:00:0{name[-1]}\n")
    assert lease.borrower("eth0") != lease.borrower("eth1")
    assert lease.borrower("eth0").startswith(names.DHCP_BORROWER)


def test_what_dhcp_gave_the_agent_is_gone_before_the_manager_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager may be given the same address, and must keep it."""
    guest = Guest(tmp_path)
    manager = managers.Nobody(guest.system)
    kept = tmp_path / "state.json"
    kept.write_text("{}")
    for name in ("OPTIONS", "SYSCTL", "KEPT"):
        monkeypatch.setattr(takeover, name, tmp_path / name)
    monkeypatch.setattr(takeover, "SYSTEM", guest.system)
    monkeypatch.setattr(takeover, "_run", guest.system.run)
    monkeypatch.setattr(takeover, "interface", lambda _name: ETH0)
    monkeypatch.setattr(takeover, "_manager", lambda _found: manager)
    monkeypatch.setattr(takeover, "_has_channel", lambda: True)
    monkeypatch.setattr(takeover, "_start_agent", lambda: "")
    monkeypatch.setattr(state, "FILE", kept)
    other = Lease("10.94.1.99", 24, "10.94.1.1", "10.94.1.1", 3600)
    monkeypatch.setattr(state, "load", lambda: state.State(other))
    with pytest.raises(takeover.TakeoverError, match=r"DHCP gives the agent 10\.94\.1\.99/24, not 10\.94\.1\.57/24"):
        takeover.take_over()
    stopped = guest.ran.index(("systemctl", "disable", "--now", "vmacro-agent.service"))
    dropped = guest.ran.index(("ip", "address", "del", "10.94.1.99/24", "dev", "eth0"))
    returned = guest.ran.index(("ip", "-4", "address", "flush", "dev", "eth0"))
    assert stopped < dropped < returned and not kept.exists()
