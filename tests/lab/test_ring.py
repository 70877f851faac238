"""Round and round three dual-stack sites behind anti-spoofing filters: of each family one connection follows,
and one is carried.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests import knot
from tests.support import (
    Vmacro,
    address_of,
    clients,
    eventually,
    lab_of_topology,
    on_host,
    site_of,
    summary,
    traces_of_moves,
    verdicts,
    without_probers,
)
from vmacro.drivers.dns import DnsNames
from vmacro.lab import namespaces
from vmacro.lab.lab import Lab
from vmacro.lab.topology import OPERATOR

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).with_name("ring.toml")
WWW, DNS_PORT = "www.example.test", 15353


@pytest.fixture(scope="module")
def ring() -> Iterator[Lab]:
    with lab_of_topology(TOPOLOGY) as found:
        yield found


def address6_of(lab: Lab) -> str:
    """By SLAAC, so some time after the agent's lease."""
    found: list[str] = []

    def there() -> bool:
        agent = lab.guest("web").agent
        found[:] = [agent.address6] if agent is not None and agent.address6 else []
        return bool(found)

    eventually(there, "the guest's IPv6 address")
    return found[0]


def tunnels(lab: Lab) -> dict[str, int]:
    looks = {s: on_host(lab, s, "sh", "-c", "ip -brief link | grep vmac-; true") for s in lab.topology.sites}
    return {site: len(text.splitlines()) for site, text in looks.items()}


def test_the_filter_drops_foreign_sources(ring: Lab) -> None:
    spoofed, client = "10.90.3.200", str(ring.topology.uplink("client").node.ip)
    with namespaces.inside(ring.namespace("client")):
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((client, 7999))
        listener.settimeout(1.0)
    with listener:
        send = "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(0,19,1); "
        send += "s.bind((sys.argv[1],0)); s.sendto(sys.argv[1].encode(),(sys.argv[2],7999))"  # IP_TRANSPARENT
        own = str(ring.topology.uplink("berlin").node.ip)
        on_host(ring, "berlin", "python3", "-c", send, spoofed, client)
        on_host(ring, "berlin", "python3", "-c", send, own, client)
        assert listener.recv(64).decode() == own, "the first, spoofed one never came"


def test_renumber_is_refused_there(ring: Lab, tmp_path: Path) -> None:
    done = Vmacro(tmp_path, ring.inventory_file)("check", "web", "--to", "berlin", "--handoff", "renumber", "--json")
    assert done.returncode == 3
    assert [f["code"] for f in json.loads(done.stdout)["findings"]] == ["anti-spoofing"]


MORE = pytest.mark.slow("the same again; docs/benchmarks.md has the figures")


@pytest.mark.parametrize("moves", [4, pytest.param(20, marks=MORE)])
def test_a_ring_of_moves_leaves_nothing(ring: Lab, tmp_path: Path, moves: int) -> None:
    vmacro = without_probers(Vmacro(tmp_path, ring.inventory_file))
    before, home, home6 = traces_of_moves(ring), address_of(ring, "web"), address6_of(ring)
    sites = itertools.cycle(["berlin", "madrid", "bucharest"])
    kinds = ("chatter", "tcp-chatter")
    with clients(ring, "client", home, *kinds) as process, clients(ring, "client", home6, *kinds) as process6:
        for to in itertools.islice(sites, moves):
            done = vmacro("migrate", "web", "--to", to, "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            figures = summary(done)
            assert all(c["kept"] for c in figures["connections"])
            assert [c["mptcp"] for c in figures["connections"] if c["carried"]] == [False, False]
            assert sum(c["followed"] for c in figures["connections"] if c["mptcp"]) == 2
            # A leg per address family, straight from its home to where the guest is; at home none.
            away = {"bucharest": 2, to: 2}
            assert tunnels(ring) == {s: away.get(s, 0) if to != "bucharest" else 0 for s in ring.topology.sites}
        assert verdicts(process) == verdicts(process6) == {"chatter": "", "tcp-chatter": ""}
    assert vmacro("carry").returncode == 0
    assert traces_of_moves(ring) == before
    with namespaces.inside(ring.namespace("client")), socket.create_connection((address_of(ring, "web"), 80), 10):
        pass


@pytest.mark.slow("a check and a refusal; as a unit test: test_checks")
def test_a_client_without_ipv4_cannot_join_what_renumber_announces(ring: Lab, tmp_path: Path) -> None:
    """Where neither filters nor a guard forbid `renumber`: no move is made, so that the WAN's own drop nothing."""
    node, quiet = ring.namespace("client"), without_probers(Vmacro(tmp_path, ring.inventory_file))
    free = quiet.altered(
        "free.toml",
        lambda t: re.sub(
            "^anti_spoofing = true$", "", re.sub("^subnet = .*", r"\g<0>\nguard = false", t, flags=re.M), flags=re.M
        ),
    )
    to = next(site for site in ring.topology.sites if site != site_of(ring, "web"))
    address6, before = address6_of(ring), traces_of_moves(ring)
    with clients(ring, "client", address6, "idle"), without_ipv4(node):
        found = free("check", "web", "--to", to, "--handoff", "renumber", "--json")
        assert found.returncode == 3, found.stdout + found.stderr
        assert "client-ipv6-only" in {f["code"] for f in json.loads(found.stdout)["findings"]}, found.stdout
        done = free("migrate", "web", "--to", to, "--handoff", "renumber")
        assert done.returncode == 3 and "its client uses IPv6" in done.stderr, done.stdout + done.stderr
    assert site_of(ring, "web") != to and traces_of_moves(ring) == before


@contextmanager
def without_ipv4(node: str) -> Iterator[None]:
    """A node that has no way anywhere by IPv4."""
    routes = ["ip", "-n", node, "-4", "route"]
    way = subprocess.run([*routes, "show", "default"], check=True, capture_output=True, text=True).stdout.split()
    subprocess.run([*routes, "del", *way], check=True)
    try:
        yield
    finally:
        subprocess.run([*routes, "add", *way], check=True)


@pytest.mark.skipif(not knot.installed(), reason="no Knot: `make test` unpacks it")
def test_a_name_follows_in_both_families(ring: Lab, tmp_path: Path) -> None:
    """A and AAAA together: to the new addresses at home and away, and who resolves anew is served there."""
    server = str(ring.topology.uplink(OPERATOR).node.ip)
    records = f"www 4 A {address_of(ring, 'web')}\nwww 4 AAAA {address6_of(ring)}\n"
    inside = ("ip", "netns", "exec", ring.namespace(OPERATOR))
    dns = f'\n[dns]\nserver = "{server}"\nport = {DNS_PORT}\nkey_file = "{knot.key_file(tmp_path / "key")}"\n'
    named = without_probers(Vmacro(tmp_path, ring.inventory_file)).altered(
        "named.toml", lambda t: t.replace("[guests.web]\n", f'[guests.web]\nnames = ["{WWW}"]\n') + dns
    )
    to = next(site for site in ring.topology.sites if site != site_of(ring, "web"))
    with knot.running(tmp_path / "knot", records, server, DNS_PORT, inside):
        done = named("migrate", "web", "--to", to, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        with namespaces.inside(ring.namespace(OPERATOR)):
            led = DnsNames(server, DNS_PORT, tmp_path / "key").look(WWW).addresses
    new = {address_of(ring, "web"), address6_of(ring)}
    subnets = (ring.topology.sites[to].subnet, ring.topology.sites[to].subnet6)
    assert set(led) == new and all(any(ip_address(a) in net for net in subnets if net) for a in led), led
    for address in led:
        with namespaces.inside(ring.namespace("client")), socket.create_connection((address, 80), 10):
            pass
