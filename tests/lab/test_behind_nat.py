"""Whole moves between sites whose networks translate guests' addresses 1:1, as clouds do: clients know public addresses
alone (docs/decisions/0022)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support import Vmacro, Way, address_of, clients, summary, traces_of_moves, verdicts, without_probers
from vmacro.lab.lab import Lab
from vmacro.lab.topology import WAN

pytestmark = pytest.mark.lab
PUBLIC = {"bucharest": IPv4Network("198.51.100.0/24"), "berlin": IPv4Network("203.0.113.0/24")}
TABLE = "vmacro-test-nat"


@pytest.fixture
def translated(lab: Lab, vmacro: Vmacro) -> Iterator[Vmacro]:
    """The WAN translates, and brings clients to no private address; the inventory says so."""
    inside = ["ip", "netns", "exec", lab.namespace(WAN), "nft"]
    subprocess.run([*inside, "-f", "-"], input=rules(lab), text=True, check=True)
    try:
        said = without_probers(vmacro)
        for site, public in PUBLIC.items():
            line = f'subnet = "{lab.topology.sites[site].subnet}"\n'
            said = said.altered(f"{site}.toml", lambda t: t.replace(line, f'{line}public_subnet = "{public}"\n'))  # noqa: B023 at once
        yield said
    finally:
        subprocess.run([*inside, "delete", "table", "ip", TABLE], check=True)


def rules(lab: Lab) -> str:
    """For nft, in the router between the sites."""
    pairs = [pair for site, net in PUBLIC.items() for pair in zip(net, lab.topology.sites[site].subnet, strict=True)]
    there = ", ".join(f"{public} : {private}" for public, private in pairs)
    back = ", ".join(f"{private} : {public}" for public, private in pairs)
    private = ", ".join(str(lab.topology.sites[site].subnet) for site in PUBLIC)
    return f"""table ip {TABLE} {{
  chain there {{
    type nat hook prerouting priority dstnat; policy accept;
    dnat to ip daddr map {{ {there} }}
  }}
  chain back {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "client" snat to ip saddr map {{ {back} }}
  }}
  chain apart {{
    type filter hook forward priority filter; policy accept;
    iifname "client" ip daddr {{ {private} }} ct status dnat accept
    iifname "client" ip daddr {{ {private} }} drop
  }}
}}
"""


def public_of(lab: Lab) -> str:
    """The guest's present address as clients know it."""
    address = IPv4Address(address_of(lab, "web"))
    (site,) = (site for site in PUBLIC if address in lab.topology.sites[site].subnet)
    return str(PUBLIC[site][int(address) - int(lab.topology.sites[site].subnet[0])])


def peers(lab: Lab) -> set[str]:
    """Whom the client has connections with, by its own kernel."""
    inside = ["ip", "netns", "exec", lab.namespace("client"), "ss", "-Htn", "state", "established"]
    told = subprocess.run(inside, capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].rpartition(":")[0] for line in told.splitlines()}


@pytest.mark.parametrize("moves", [1, pytest.param(3, marks=pytest.mark.slow("the same again"))])
def test_clients_follow_from_one_public_address_to_the_next(lab: Lab, translated: Vmacro, way: Way, moves: int) -> None:
    before, first = traces_of_moves(lab), public_of(lab)
    with clients(lab, "client", first, "chatter", "tcp-chatter") as process:
        assert peers(lab) == {first}
        for number in range(moves):
            done = translated("migrate", "web", "--to", (way.there, way.here)[number % 2], "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            found = {c["mptcp"]: c["verdict"] for c in summary(done)["connections"]}
            plain = "followed" if public_of(lab) == first else "carried"  # at home again
            assert found == {True: "followed", False: plain}, found
            assert peers(lab) == {first, public_of(lab)}
        assert verdicts(process) == {"chatter": "", "tcp-chatter": ""}
    assert translated("carry").returncode == 0
    assert traces_of_moves(lab) == before
