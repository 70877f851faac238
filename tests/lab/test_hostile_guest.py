"""A guest whose owner has changed its agent: real, in a real guest, through whole moves and a carriage. All lies, from
every phase on, are told in memory (unit/test_hostile_agent.py, test_hostile_parties.py)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.breaking import Scene, in_guest
from tests.support import (
    Vmacro,
    Way,
    address_of,
    clients,
    eventually,
    site_of,
    traces_of_moves,
    verdicts,
    without_probers,
)
from vmacro.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow("three moves; in memory: test_hostile_agent, test_hostile_parties")]
# Runs the agent that is there, and changes what it says: by verb, the fields of its answer; to lists it adds.
LIAR = """
import json, sys
sys.path.insert(0, "/usr/local/sbin/vmacro-agent.pyz")
from guest_agent import __main__, channel
honest = channel.answer

async def answer(line, handler):
    said = await honest(line, handler)
    try:
        asked, reply = json.loads(line), json.loads(said)
    except ValueError:
        return said
    with open("/run/lies") as file:
        lie = json.load(file).get(asked.get("verb"), {})
    result = reply.get("result", {})
    for field, value in lie.items():
        result[field] = result.get(field, []) + value if isinstance(value, list) else value
    return json.dumps(reply).encode() + b"\\n"

channel.answer = answer
sys.exit(__main__.main())
"""
UNIT = """[Service]
ExecStart=
ExecStart=/usr/bin/python3 /run/liar.py --interface eth0
"""
DROP_IN = "/run/systemd/system/vmacro-agent.service.d"
MARKUP = "[bold]\x1b]0;owned\x07[/nothing]"
Lies = dict[str, dict[str, Any]]


def put(lab: Lab, vmacro: Vmacro, path: str, text: str) -> None:
    """By the console: it is no matter what the guest's agent says, or where the guest is."""
    packed = base64.b64encode(text.encode()).decode()
    in_guest(Scene(lab, vmacro, "", ""), f"mkdir -p {PurePosixPath(path).parent}; echo {packed} | base64 -d > {path}")


def says(lab: Lab, vmacro: Vmacro, lies: Lies) -> None:
    put(lab, vmacro, "/run/lies", json.dumps(lies))


@contextmanager
def lying(lab: Lab, vmacro: Vmacro, lies: Lies) -> Iterator[None]:
    """From now on; afterwards its agent is the honest one again."""
    again = "systemctl daemon-reload; systemctl restart vmacro-agent"
    says(lab, vmacro, lies)
    put(lab, vmacro, "/run/liar.py", LIAR)
    put(lab, vmacro, f"{DROP_IN}/liar.conf", UNIT)
    in_guest(Scene(lab, vmacro, "", ""), again)
    try:
        yield
    finally:
        in_guest(Scene(lab, vmacro, "", ""), f"rm -r {DROP_IN}; {again}")
        eventually(lambda: lab.guest("web").agent is not None, "its honest agent")


def others(lab: Lab, way: Way) -> list[list[str]]:
    """For a move each, since a kernel has room for eight: a neighbour's, a free one there, somebody's in the Internet;
    a gateway's, a host's, a free one at home."""
    free = {site: str(lab.topology.sites[site].subnet[200]) for site in (way.here, way.there)}
    first = [address_of(lab, "busy"), free[way.there], "8.8.8.8"]
    return [first, [str(lab.topology.sites[way.here].subnet[1]), lab.host(way.there).address, free[way.here]]]


def test_one_that_lies_about_its_addresses_gets_none_of_them(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """There, carried, and back: legs, rules and reservations are of its own address alone."""
    quiet, before, home = without_probers(vmacro), traces_of_moves(lab), address_of(lab, "web")
    first, second = others(lab, way)
    with clients(lab, "client", home, "chatter", "tcp-chatter") as process:
        with lying(lab, vmacro, {"status": {"extra_addresses": first, "endpoints": first}}):
            for to, names in ((way.there, first), (way.here, second)):
                says(lab, vmacro, {"status": {"extra_addresses": names, "endpoints": names}})
                done = quiet("migrate", "web", "--to", to, "--json")
                assert done.returncode in (0, 5), done.stdout[-3000:] + done.stderr
                assert site_of(lab, "web") == to
                new = {line for host, lines in traces_of_moves(lab).items() for line in lines - before[host]}
                assert not [line for line in new for name in names if name in line.split()], new
        assert verdicts(process) == {"chatter": "", "tcp-chatter": ""}
    assert quiet("carry").returncode == 0
    assert json.loads(quiet("carried", "--json").stdout) == []
    assert traces_of_moves(lab) == before


def test_one_that_says_to_have_another_address_is_not_moved(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    quiet, before = without_probers(vmacro), traces_of_moves(lab)
    gateway = str(lab.topology.sites[way.here].subnet[1])
    lease = {
        "address": address_of(lab, "busy"),
        "prefix_length": 24,
        "gateway": gateway,
        "server": gateway,
        "seconds": 60,
    }
    with lying(lab, vmacro, {"status": {"mac": lab.topology.mac("busy")}}):
        done = quiet("migrate", "web", "--to", way.there)
        assert done.returncode == 3, done.stdout + done.stderr
        for odd in ({"hostname": MARKUP}, {"claim": {"move": "theirs-1", "by": MARKUP, "age_s": 1.0}}):
            says(lab, vmacro, {"status": odd})
            done = quiet("migrate", "web", "--to", way.there)
            assert done.returncode == 3 and "\x1b" not in done.stdout + done.stderr, done.stdout + done.stderr
        says(lab, vmacro, {"status": {"lease": lease}})
        done = quiet("migrate", "web", "--to", way.there)
        assert done.returncode == 3, done.stdout + done.stderr
    assert site_of(lab, "web") == way.here and traces_of_moves(lab) == before


def test_one_that_lies_once_it_has_arrived_runs_where_it_is_said_to(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Nobody believes where it says to be; an honest agent, or the move's deadlines, end what remains."""
    quiet, before, home = without_probers(vmacro), traces_of_moves(lab), address_of(lab, "web")
    with clients(lab, "client", home, "chatter", "tcp-chatter") as process:
        with lying(lab, vmacro, {"arrive": {"new": "8.8.8.8", "old": "224.0.0.5", "lease_ms": 10**400}}):
            done = quiet("migrate", "web", "--to", way.there)
            assert done.returncode == 5, done.stdout[-3000:] + done.stderr
            assert site_of(lab, "web") == way.there
        ended = quiet("resume")
        assert ended.returncode in (0, 5), ended.stdout[-3000:] + ended.stderr
        assert verdicts(process) == {"chatter": "", "tcp-chatter": ""}
    assert quiet("carry").returncode == 0
    assert traces_of_moves(lab) == before
