"""Inventories and topologies: every mistake at once, each with file, key and value."""

from pathlib import Path

import pytest

from vmacro import inventory
from vmacro.errors import ConfigurationError
from vmacro.lab import topology

GOOD = """
[sites.a]
[sites.b]
[hosts.a1]
site = "a"
uri = "qemu+tls://a1/system"
address = "10.0.0.1"
[hosts.b1]
site = "b"
uri = "qemu+ssh://root@b1/system"
address = "10.0.0.2"
tls_name = "b1.example"
[probers.p]
network_namespace = "p"
[guests.web]
probe = { from = "p", interval_ms = 20 }
"""


def load(tmp_path: Path, text: str) -> inventory.Settings:
    path = tmp_path / "inventory.toml"
    path.write_text(text)
    return inventory.load(path)


def test_a_good_inventory(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD)
    host = settings.inventory.host("b1")
    assert host is not None and (host.tls_name, host.peer_uri) == ("b1.example", "qemu+ssh://root@b1/system")
    guest = settings.inventory.guest("web")
    assert guest is not None and guest.domain == "web" and guest.probe is not None
    assert guest.probe.interval_ms == 20


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    bad = GOOD.replace('"qemu+tls://a1/system"', '"qemu+tcp://a1/system"')
    bad = bad.replace("interval_ms = 20", "interval_ms = 0").replace('address = "10.0.0.2"', 'adress = "10.0.0.2"')
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, bad)
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "inventory.toml: hosts.a1.uri: must be encrypted" in text and "'qemu+tcp://a1/system'" in text
    assert "inventory.toml: guests.web.probe.interval_ms" in text and "(value: 0)" in text
    assert "hosts.b1.adress" in text and "hosts.b1.address" in text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('site = "b"', 'site = "c"', "hosts.b1.site: no site 'c'"),
        ('from = "p"', 'from = "q"', "guests.web.probe.from: no prober 'q'"),
        ("[sites.b]", "[sites.b]\n[sites.c]", "sites.c: has no host"),
        (
            'network_namespace = "p"',
            "",
            'probers.p: needs either ssh = "USER@ADDRESS" or network_namespace',
        ),
        ('network_namespace = "p"', 'ssh = "root@"', "probers.p: ssh = 'root@': must be USER@ADDRESS"),
        ('network_namespace = "p"', 'network_namespace = "p"\nssh = "root@a"', "needs either ssh"),
        ("qemu+tls://a1/system", "vbox+tls://a1", "must begin with qemu+ or xen+"),
        ("[sites.a]", "[sites.a", "not TOML"),
    ],
)
def test_one_mistake(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert said in str(caught.value) and "inventory.toml" in str(caught.value)


def test_a_missing_inventory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        inventory.load(tmp_path / "none.toml")


def test_the_default_topology_is_the_papers() -> None:
    shape = topology.load(topology.DEFAULT)
    assert shape.round_trip_ms("client", "bucharest") == shape.round_trip_ms("bucharest", "client") == 50
    assert shape.round_trip_ms("client", "berlin") == 4
    uplinks = [shape.uplink(n) for n in shape.nodes]
    assert len({u.node for u in uplinks} | {u.router for u in uplinks}) == 2 * len(shape.nodes)
    assert str(shape.gateway("berlin")) == "10.50.2.1"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("10.50.2.0/24", "10.50.1.128/25", "is occupied: it overlaps"),
        ("10.50.2.0/24", "10.9.200.0/24", "wan.transit = 10.9.0.0/16 is occupied"),
        ('site = "bucharest"', 'site = "atlantis"', "guests.web.site: no site 'atlantis'"),
        ('["client", "berlin"]', '["client", "mars"]', "no node 'mars'"),
        ("ms = 50", "ms = -50", "greater than or equal to 0"),
        ('name = "demo"', 'name = "../etc"', "name"),
        ("[clients.client]", "[clients.wan]", "'wan' names two nodes"),
    ],
)
def test_a_topology_that_cannot_be(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "shape.toml"
    path.write_text(topology.DEFAULT.read_text().replace(old, new))
    with pytest.raises(ConfigurationError) as caught:
        topology.load(path)
    assert said in str(caught.value) and "shape.toml" in str(caught.value)


NETWORKS = GOOD.replace("[sites.a]", '[sites.a.network]\nsubnet = "10.1.0.0/24"').replace(
    "[sites.b]", '[sites.b.network]\nsubnet = "10.2.0.0/24"\ndhcp_first = "10.2.0.40"\ndhcp_last = "10.2.0.50"'
)


def test_a_sites_network(tmp_path: Path) -> None:
    sites = load(tmp_path, NETWORKS).read.sites
    assert sites["a"].network is not None and sites["b"].network is not None
    assert str(sites["a"].network.gateway) == "10.1.0.1"
    assert [str(a) for a in sites["a"].network.dhcp_range] == ["10.1.0.10", "10.1.0.254"]
    assert [str(a) for a in sites["b"].network.dhcp_range] == ["10.2.0.40", "10.2.0.50"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("10.1.0.0/24", "10.2.0.128/25", "overlaps"),
        ("10.2.0.40", "10.3.0.40", "no range of 10.2.0.0/24"),
        ("10.2.0.40", "10.2.0.1", "without its gateway 10.2.0.1"),
        ("10.2.0.50", "10.2.0.39", "10.2.0.40 to 10.2.0.39"),
        ("10.1.0.0/24", "10.1.0.0/30", "too small"),
        ("10.1.0.0/24", "10.1.0.0/33", "sites.a.network.subnet"),
    ],
)
def test_a_sites_network_that_cannot_be(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, NETWORKS.replace(old, new))
    assert said in str(caught.value)
