"""Inventories and topologies: every mistake at once, each with file, key and value."""

import dataclasses
import functools
import operator
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.hostile import RAW, WORDS, is_harmless
from vmacro import config, inventory
from vmacro.errors import ConfigurationError
from vmacro.lab import inventories, topology
from vmacro.model.nouns import Hooks, Host, Policy
from vmacro.wire import fields

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
        ("[sites.a]", "[sites.a", "not TOML"),
        ("[hosts.b1]", "[hosts.operator]", "hosts.operator: is what the operator's own certificate is called"),
        ("b1.example", "A1", "hosts a1 and b1: both are 'a1' in their certificates: hosts.b1.tls_name"),
        ('"10.0.0.2"', '"10.0.0.1"', "hosts a1 and b1: both have address '10.0.0.1': hosts.b1.address"),
        (
            "qemu+ssh://root@b1/",
            "qemu+tls://A1/",
            "hosts a1 and b1: both have uri 'qemu+tls://a1/system'",
        ),
        ("tls_name", 'ssh = "root@a..b"\ntls_name', "hosts.b1.ssh: 'a..b' is neither an IP address nor a host name"),
        ("10.0.0.1", "10.0.0.1:22", "hosts.a1.address: '10.0.0.1:22' is neither an IP address nor a host name"),
        ("10.0.0.1", "x" * 70, "hosts.a1.address"),
        ("[guests.web]", '[guests.db]\nssh = "root@a b"\n[guests.web]', "guests.db.ssh: 'a b' is neither"),
        ('network_namespace = "p"', 'ssh = "root@-oProxy"', "probers.p.ssh: '-oProxy' is neither"),
        ("[guests.web]", '[guests.db]\ndomain = "web"\n[guests.web]', "guests db and web: both are domain 'web'"),
        ("[sites.b]", "[policy]\nmove_timeout_s = inf\n[sites.b]", "policy.move_timeout_s: must be a number, neither"),
        ("[sites.b]", "[policy]\ncarry_deadline_s = nan\n[sites.b]", "policy.carry_deadline_s: must be a number, neit"),
        (
            "[sites.b]",
            "[policy]\nbandwidth_mib_s = 1048577\n[sites.b]",
            "policy.bandwidth_mib_s: must be at most 1048576",
        ),
        ("[sites.b]", "[policy]\ncopy_timeout_s = 604801\n[sites.b]", "policy.copy_timeout_s: must be at most 604800"),
        ("[sites.b]", "[policy]\nmove_timeout_s = 604800\n[sites.b]", "phase_timeout_s are 604980 s together: must be"),
        (
            "[sites.b]",
            "[policy]\nbandwith_mib_s = 9\n[sites.b]",
            "policy.bandwith_mib_s: there is no such key; perhaps bandw",
        ),
        ("[sites.b]", "[polcy]\n[sites.b]", "polcy: there is no such key; perhaps policy"),
        ("from =", "form =", "guests.web.probe.form: there is no such key; perhaps from"),
        (
            "from =",
            "host = 1, from =",
            "probe.host: there is no such key; known: from, address, port, mptcp, interval_ms, vis",
        ),
        ('address = "10.0.0.2"', "", "hosts.b1.address: is missing"),
        ("interval_ms = 20", "interval_ms = 0", "interval_ms: must be at least 1 (value: 0)"),
        ("[guests.web]", '[guests."we b"]\n[guests.web]', "guests.we b: a name has 1 to 63 letters, digits, dots,"),
        ('"p"\n', '"p q"\n', "probers.p.network_namespace: a namespace's name has letters,"),
        (
            "[sites.a]",
            '[sites.a]\nnetwork = { subnet = "10.50.1.7/24" }',
            "subnet: is an address in a network: the network is 10.50.1.0/24",
        ),
        (
            "[sites.a]",
            '[sites.a]\nnetwork = { subnet = "10.50.1" }',
            "subnet: is no address or network of its kind: Exp",
        ),
        ("[sites.a]", "[sites.a]\nnetwork = { subnet = 5 }", 'subnet: must be text, in quotes: "..." (value: 5)'),
        (
            "[sites.a]",
            '[sites.a]\nanti_spoofing = "yes"',
            "sites.a.anti_spoofing: must be true or false, without quotes",
        ),
        ("[sites.b]", "[policy]\nauto_converge = 1\n[sites.b]", "policy.auto_converge: must be true or false"),
        ("[sites.b]", '[policy]\nbandwidth_mib_s = "9"\n[sites.b]', "policy.bandwidth_mib_s: must be a whole number"),
        ("[sites.b]", f"[policy]\nbandwidth_mib_s = 0x{'f' * 6000}\n[sites.b]", "inventory.toml: cannot be used: "),
        ("[sites.b]", "[policy]\ncopy_timeout_s = 2026-11-28\n[sites.b]", "policy.copy_timeout_s: must be a number"),
        ("10.0.0.1", "10.9.0", "hosts.a1.address: '10.9.0' is neither an IP address nor a host name"),
        ("10.0.0.1", "10.9.0.300", "hosts.a1.address: '10.9.0.300' is neither an IP address nor a host name"),
        ("qemu+tls://a1/", "qemu+tls://0x7f.1/", "hosts.a1.uri: '0x7f.1' is neither an IP address nor a host name"),
    ],
)
def test_one_mistake(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert said in str(caught.value) and "inventory.toml" in str(caught.value)


BAD_URIS = {
    "vbox+tls://b1/system": "must begin with qemu+ or xen+",
    "test:///default": "must begin with qemu+ or xen+",
    "qemu:///system": "must be encrypted and name a host",
    "qemu+tcp://b1/system": "must be encrypted and name a host",
    "qemu+unix://b1/system": "must be encrypted and name a host",
    "qemu+ext://b1/system?command=/tmp/x": "must be encrypted and name a host",
    "qemu+tls:///system": "must be encrypted and name a host",
    "qemu+tls://b1:99999/system": "has a port that is not one of 1 to 65535",
    "qemu+tls://b1:0/system": "has a port that is not one of 1 to 65535",
    "qemu+tls://b1:x/system": "has a port that is not one of 1 to 65535",
    "qemu+tls://[::1/system": "Invalid IPv6 URL",
    "qemu+tls://a..b/system": "'a..b' is neither an IP address nor a host name",
    r"qemu+tls://b1/sys\u0000tem": "must be printable",
    "qemu+tls://b1/system?" + "x" * 2000: "no longer than 2000",
    "qemu+tls://b1/session": "must end with /system",
    "qemu+tls://b1/system#x": "must end with /system",
    "xen+tls://b1/default": "must end with /system",
    "qemu+tls://b1/system?no_verify=1": "has the option 'no_verify'",
    "qemu+tls://b1/system?no_sanity=1": "has the option 'no_sanity'",
    "qemu+tls://b1/system?pkipath=/tmp/x": "has the option 'pkipath'",
    "qemu+tls://b1/system?tls_priority=NORMAL": "has the option 'tls_priority'",
    "qemu+ssh://b1/system?no_verify=1": "has the option 'no_verify'",
    "qemu+ssh://b1/system?NO_VERIFY=1": "has the option 'NO_VERIFY'",
    "qemu+ssh://b1/system?no%5fverify=1": "has the option 'no%5fverify'",
    "qemu+ssh://b1/system?keyfile=/k&no_verify=1": "has the option 'no_verify'",
    "qemu+ssh://b1/system?keyfile=/k;no_verify=1": "has the option 'no_verify'",
    "qemu+ssh://b1/system?command=/tmp/x": "has the option 'command'",
    "qemu+ssh://b1/system?netcat=/tmp/x": "has the option 'netcat'",
    "qemu+libssh2://b1/system?known_hosts_verify=ignore": "has the option 'known_hosts_verify'",
    "qemu+ssh://root:hush@b1/system": "without a password",
    "qemu+ssh://-oProxyCommand=x@b1/system": "must name its user plainly",
    "": "must begin with qemu+ or xen+",
}


@pytest.mark.parametrize("key", ["uri", "peer_uri"])
@pytest.mark.parametrize("uri", BAD_URIS)
def test_no_uri_goes_without_encryption_or_without_a_check_of_who_is_there(tmp_path: Path, key: str, uri: str) -> None:
    """Both kinds: one is opened by us, the other by root at every other host."""
    text = GOOD.replace('uri = "qemu+ssh://root@b1/system"', f'{key} = "{uri}"')
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text if key == "uri" else text.replace(key, f'uri = "qemu+tls://b1/system"\n{key}'))
    assert f"hosts.b1.{key}: " in str(caught.value) and BAD_URIS[uri] in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+ssh://b1/system?keyfile=/k&known_hosts=/h",
        "qemu+libssh://me@b1:22/system?sshauth=privkey",
        "xen+tls://b1/",
    ],
)
def test_uris_that_may_be(tmp_path: Path, uri: str) -> None:
    host = load(tmp_path, GOOD.replace("qemu+ssh://root@b1/system", uri)).inventory.host("b1")
    assert host is not None and (host.uri, host.peer_uri) == (uri, uri)


@pytest.mark.parametrize("name", ["10.0.0.9", "fd00::9", "host-9.example.", "under_score", "münchen.example"])
def test_what_machines_may_be_called(tmp_path: Path, name: str) -> None:
    host = load(tmp_path, GOOD.replace("10.0.0.1", name)).inventory.host("a1")
    assert host is not None and host.address == name


@pytest.mark.parametrize(("bounds_s", "fits"), [(0.25, True), (0.24, False), (151_200, True), (151_201, False)])
def test_a_move_must_be_one_that_the_agent_lets_itself_be_claimed_for(bounds_s: float, fits: bool) -> None:
    names = ("move_timeout_s", "arrival_timeout_s", "settle_timeout_s", "phase_timeout_s")
    bounds = dict.fromkeys(names, bounds_s)
    if fits:
        assert inventory.adjusted(Policy(), bounds).claim_s == 4 * bounds_s
        return
    with pytest.raises(ConfigurationError, match=r"policy: move_timeout_s, .* s together: must be 1 to 604800"):
        inventory.adjusted(Policy(), bounds)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nonsense", ""),
        ("mysql://u:hush@h/x", "(value: 'mysql://u:***@h/x')"),
        ("postgresql://u:hush@h:port/x", ""),
        ("postgresql://u:hush@h", "(value: 'postgresql+psycopg://u:***@h')"),
        ("postgres://h/?password=hush", "(value: 'postgresql+psycopg://h/')"),
        ("sqlite://", "(value: 'sqlite://')"),
        ("sqlite:///:memory:", "(value: 'sqlite:///%3Amemory%3A')"),
        ("sqlite:///file:x?mode=memory&uri=true", "(value: 'sqlite:///file%3Ax')"),
        ("sqlite+aiosqlite:////x", "(value: 'sqlite+aiosqlite:////x')"),
    ],
)
def test_a_database_that_can_hold_no_journal(tmp_path: Path, url: str, shown: str) -> None:
    with pytest.raises(ConfigurationError, match=r"orchestrator: database_url: must be postgresql://") as raised:
        load(tmp_path, f'[orchestrator]\ndatabase_url = "{url}"\n{GOOD}')
    assert str(raised.value).endswith(shown) and "hush" not in str(raised.value)


@pytest.mark.parametrize("url", ["sqlite:////var/lib/x.sqlite", "postgres://u:hush@h/x", "postgresql:///x?host=/run"])
def test_a_database_that_can(tmp_path: Path, url: str) -> None:
    settings = load(tmp_path, f'[orchestrator]\ndatabase_url = "{url}"\n{GOOD}')
    assert settings.database_url == url.replace("postgres:", "postgresql:").replace("ql:", "ql+psycopg:")


@pytest.mark.parametrize("raw", [b'a = "\xff"', b"a = " + b"[" * 5_000])
def test_a_file_that_is_no_toml(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "inventory.toml").write_bytes(raw)
    with pytest.raises(ConfigurationError, match=r"inventory\.toml: not TOML: "):
        inventory.load(tmp_path / "inventory.toml")


def test_a_missing_inventory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file") as told:
        inventory.load(tmp_path / "none.toml")
    assert "vmacro init" in told.value.hint


def test_the_default_topology_is_the_papers() -> None:
    shape = topology.load(topology.DEFAULT)
    assert shape.round_trip_ms("client", "bucharest") == shape.round_trip_ms("bucharest", "client") == 50
    assert shape.round_trip_ms("client", "berlin") == 4
    uplinks = [shape.uplink(n) for n in shape.nodes]
    assert len({u.node for u in uplinks} | {u.router for u in uplinks}) == 2 * len(shape.nodes)
    assert str(shape.hosts["berlin"].subnet) == "10.50.2.0/24" and shape.home("web") == "bucharest"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("10.50.2.0/24", "10.50.1.128/25", "is occupied: it overlaps"),
        ("10.50.2.0/24", "10.9.200.0/24", "wan.transit = 10.9.0.0/16 is occupied"),
        ('site = "bucharest"', 'site = "atlantis"', "guests.web.site: no site 'atlantis'"),
        ('["client", "berlin"]', '["client", "mars"]', "no node 'mars'"),
        ("ms = 50", "ms = -50", "ms: must be at least 0 (value: -50)"),
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


SEVERAL = """
name = "pair"
[wan]
transit = "10.47.0.0/16"
round_trips = [{ between = ["client", "berlin"], ms = 9 }, { between = ["bucharest", "berlin"], ms = 50 }]
[sites.bucharest]
subnet = "10.96.1.0/24"
[sites.berlin]
hosts = ["d1", "d2"]
subnet = "10.96.2.0/24"
subnet6 = "fd96:2::/48"
[clients.client]
[guests.web]
site = "berlin"
"""


def shaped(tmp_path: Path, text: str) -> topology.Topology:
    (tmp_path / "shape.toml").write_text(text)
    return topology.load(tmp_path / "shape.toml")


def test_a_site_of_several_hosts(tmp_path: Path) -> None:
    shape = shaped(tmp_path, SEVERAL)
    assert {n: (h.site, str(h.subnet), str(h.subnet6)) for n, h in shape.hosts.items()} == {
        "bucharest": ("bucharest", "10.96.1.0/24", "None"),
        "d1": ("berlin", "10.96.2.0/25", "fd96:2::/64"),
        "d2": ("berlin", "10.96.2.128/25", "fd96:2:0:1::/64"),
    }
    assert shape.nodes == ["operator", "bucharest", "d1", "d2", "client"] and shape.home("web") == "d1"
    assert [shape.round_trip_ms("d2", n) for n in ("bucharest", "client", "d1")] == [50, 9, 0]


def test_what_the_lab_makes_of_it_is_a_good_inventory(tmp_path: Path) -> None:
    (tmp_path / "inventory.toml").write_text(inventories.text(shaped(tmp_path, SEVERAL), tmp_path, emulation=True))
    read = inventory.load(tmp_path / "inventory.toml")
    assert {h.name: (h.site, h.subnet) for h in read.inventory.hosts} == {
        "bucharest": ("bucharest", "10.96.1.0/24"),
        "d1": ("berlin", "10.96.2.0/25"),
        "d2": ("berlin", "10.96.2.128/25"),
    }
    network = read.raw_inventory.network_of("d2")
    assert network is not None and [str(a) for a in network.dhcp_range] == ["10.96.2.138", "10.96.2.237"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"d2"]', '"bucharest"]', "'bucharest' names two nodes"),
        ('"d2"]', '"d1"]', "'d1' names two nodes"),
        ('"d2"]', '"berlin"]', "'berlin' names two nodes"),
        ('"d2"]', '"d2", "d3"]', "10.96.2.0/26 of d1 is too small"),
        ("fd96:2::/48", "fd96:2::/64", "subnet6 fd96:2::/64 has no /64 for each of 2 hosts"),
    ],
)
def test_several_hosts_that_cannot_be(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        shaped(tmp_path, SEVERAL.replace(old, new))
    assert said in str(caught.value)


NETWORKS = GOOD.replace("[sites.a]", '[sites.a.network]\nsubnet = "10.1.0.0/24"').replace(
    "[sites.b]", '[sites.b.network]\nsubnet = "10.2.0.0/24"\ndhcp_first = "10.2.0.40"\ndhcp_last = "10.2.0.50"'
)


def test_a_sites_network(tmp_path: Path) -> None:
    sites = load(tmp_path, NETWORKS).raw_inventory.sites
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


def another_at_b(network: str) -> str:
    return NETWORKS + '[hosts.b2]\nsite = "b"\nuri = "qemu+tls://b2/system"\naddress = "10.0.0.3"\n' + network


def test_a_host_may_route_a_part_of_its_own(tmp_path: Path) -> None:
    own = '[hosts.b2.guest_network]\nsubnet = "10.2.1.0/24"\ndhcp_first = "10.2.1.9"\n'
    settings = load(tmp_path, another_at_b(own))
    assert [h.subnet for h in settings.inventory.hosts] == ["10.1.0.0/24", "10.2.0.0/24", "10.2.1.0/24"]
    network = settings.raw_inventory.network_of("b2")
    assert network is not None and str(network.dhcp_range[0]) == "10.2.1.9"


def test_two_hosts_cannot_both_route_a_sites_subnet(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"hosts b1 and b2: .*10\.2\.0\.0/24 .*hosts\.b2\.guest_network"):
        load(tmp_path, another_at_b(""))


DNS = '[dns]\nserver = "10.9.0.53"\nkey_file = "/etc/vmacro/dns.key"\n[guests.www]\nnames = ["WWW.Example.net."]\n'
HOOKS = '[hooks]\nbefore = ["/etc/vmacro/drain"]\nafter = ["/etc/vmacro/undrain"]\non_failure = "warn"\n'


def test_names_and_hooks(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD + DNS + HOOKS)
    guest = settings.inventory.guest("www")
    assert guest is not None and guest.names == ("www.example.net",)
    assert settings.raw_inventory.dns is not None and settings.raw_inventory.dns.port == 53
    assert settings.inventory.hooks == Hooks(("/etc/vmacro/drain",), ("/etc/vmacro/undrain",), 10.0, strict=False)
    assert load(tmp_path, GOOD).inventory.hooks == Hooks() and settings.inventory.policy.linger_s is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"10.9.0.53"', '"ns.example.net"', "dns.server"),
        ('"/etc/vmacro/dns.key"', '"dns.key"', "dns.key_file: 'dns.key' is no absolute path"),
        ("WWW.Example.net.", "www", "'www' is no complete name in DNS"),
        ("WWW.Example.net.", "10.0.0.1", "no complete name"),
        ("WWW.Example.net.", "-x.example.net", "no complete name"),
        ("WWW.Example.net.", "a b.example.net", "no complete name"),
        ('["WWW.Example.net."]', '["a.b", "A.b."]', "guests.www.names: 'a.b' is one of guest www's already"),
        ('["WWW.Example.net."]', str([f"n{i}.b" for i in range(17)]), "guests.www.names"),
        ('"/etc/vmacro/drain"', '"drain"', "hooks.before.0: 'drain' is no absolute path"),
        ('"/etc/vmacro/drain"', ", ".join(f'"/{i}"' for i in range(9)), "hooks.before"),
        ('"warn"', '"ignore"', "hooks.on_failure"),
        ("on_failure", "deadline_s = 0\non_failure", "hooks.deadline_s"),
        (DNS, '[guests.www]\nnames = ["www.example.net"]\n', "guests.www.names: there is no [dns]"),
    ],
)
def test_names_and_hooks_that_cannot_be(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = DNS + HOOKS
    assert old in text
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, GOOD + text.replace(old, new))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (1, ["10.0.0.0/24"]),
        (2, ["10.0.0.0/25", "10.0.0.128/25"]),
        (3, ["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26"]),
    ],
)
def test_a_subnet_is_divided_equally(count: int, parts: list[str]) -> None:
    assert [str(p) for p in inventory.parts_of(IPv4Network("10.0.0.0/24"), count)] == parts


# Of hosts: what the inventory has elsewhere, or as no text.
NO_TEXTS = ("name", "memory_reserve_mib", "subnet", "subnet6", "plain_tunnel", "guard")
TEXTS = (
    *(("hosts.a1", f.name) for f in dataclasses.fields(Host) if f.name not in NO_TEXTS),
    ("guests.web", "domain"),
    ("guests.web.probe", "address"),
)


@pytest.mark.parametrize(("table", "key"), TEXTS)
@pytest.mark.parametrize("odd", [*RAW, *WORDS, "x" * 254, "-rf", "a b"], ids=lambda odd: ascii(odd)[:20])
def test_what_an_inventory_may_say_the_journal_can_keep(table: str, key: str, odd: str) -> None:
    """Or it is refused, in words that rule no terminal: a plan that cannot be read again is of no use."""
    data = tomllib.loads(GOOD)
    within = functools.reduce(operator.getitem, table.split("."), data)
    within[key] = odd
    try:
        read = config.parse(data, inventory.Inventory, "inventory.toml")
    except ConfigurationError as error:
        assert is_harmless(str(error))
        return
    known = inventory.settings_of(Path("inventory.toml"), read).inventory
    for noun in (*known.hosts, *known.guests):
        assert fields.decode(type(noun), fields.encode(noun)) == noun


@pytest.mark.parametrize("odd", RAW, ids=ascii)
def test_a_key_that_is_unknown_rules_no_terminal(odd: str) -> None:
    data = tomllib.loads(GOOD)
    data["hosts"]["a1"][odd] = odd
    data["hosts"][odd] = {}
    with pytest.raises(ConfigurationError) as told:
        config.parse(data, inventory.Inventory, "inventory.toml")
    assert is_harmless(str(told.value))
