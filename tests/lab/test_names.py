"""Names that follow their guest, and who comes by the old address, on real parts: Knot with TSIG in the lab."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import knot
from tests.support import Vmacro, Way, address_of, site_of, summary, traces_of_moves, without_probers
from tests.visitor import PATIENCE_S
from vmacro.drivers.dns import DnsNames
from vmacro.lab import namespaces
from vmacro.lab.lab import Lab
from vmacro.lab.topology import OPERATOR

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not knot.installed(), reason="no Knot: `make test` unpacks it"),
]
PORT, TTL_S, LINGER_S = 15353, 4, 15
WWW, FOREIGN = "www.example.test", "www.elsewhere.test"  # the server has the zone of the first alone


@pytest.fixture
def server(lab: Lab, tmp_path: Path) -> Iterator[knot.Knot]:
    """In the operator's network, with the guest's name as it is now."""
    inside = ("ip", "netns", "exec", lab.namespace(OPERATOR))
    address = str(lab.topology.uplink(OPERATOR).node.ip)
    records = f"www {TTL_S} A {address_of(lab, 'web')}\n"
    with knot.running(tmp_path / "knot", records, address, PORT, inside) as found:
        yield found


@pytest.fixture
def named(lab: Lab, vmacro: Vmacro, server: knot.Knot) -> Vmacro:
    """The lab's inventory, with the name and its server."""
    key = knot.key_file(vmacro.folder / "key")
    dns = f'\n[dns]\nserver = "{server.address}"\nport = {PORT}\nkey_file = "{key}"\n'
    quiet = without_probers(vmacro)
    return quiet.altered(
        "named.toml",
        lambda t: (
            t.replace("[guests.web]\n", f'[guests.web]\nnames = ["{WWW}"]\n').replace(
                "linger_s = 0\n", f"linger_s = {LINGER_S}\n"
            )
            + dns
        ),
    )


def leads_to(lab: Lab, server: knot.Knot, named: Vmacro) -> tuple[str, ...]:
    with namespaces.inside(lab.namespace(OPERATOR)):
        return DnsNames(server.address, PORT, named.folder / "key").look(WWW).addresses


def set_to(lab: Lab, server: knot.Knot, named: Vmacro, address: str) -> None:
    """As somebody else does it."""
    names = DnsNames(server.address, PORT, named.folder / "key")
    with namespaces.inside(lab.namespace(OPERATOR)):
        assert names.replace(names.look(WWW), (address,))


@contextmanager
def visitor(lab: Lab, *words: str) -> Iterator[list[dict[str, Any]]]:
    """What came of its visits so far, once they have begun."""
    command = ["ip", "netns", "exec", lab.namespace("client"), sys.executable, "-m", "tests.visitor", *words]
    visits: list[dict[str, Any]] = []
    output = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert output.stdout is not None
    try:
        visits.append(json.loads(output.stdout.readline()))
        yield visits
    finally:
        output.terminate()
        visits += [json.loads(line) for line in output.stdout if line.endswith("\n")]
        output.wait(30)


def codes(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [finding["code"] for finding in json.loads(done.stdout)["findings"]]


def test_who_comes_anew_lands_at_the_new_address_and_who_has_the_old_one_is_served(
    lab: Lab, named: Vmacro, server: knot.Knot, way: Way
) -> None:
    before, old = traces_of_moves(lab), address_of(lab, "web")
    probe = 'probe = { from = "client", visit_every_ms = 100 }'
    visited = named.altered("visited.toml", lambda t: t.replace("[guests.web]\n", f"[guests.web]\n{probe}\n"))
    with (
        visitor(lab, WWW, server.address, str(PORT)) as asking,
        visitor(lab, old) as keeping,
    ):
        done = visited("migrate", "web", "--to", way.there, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        told = summary(done)["visitors"]  # as in the demo: they know the old address alone
        assert told["during"]["count"] > 20 and not any(part["failed"] for part in told.values()), told
        ended_s, new = time.time(), address_of(lab, "web")
        assert leads_to(lab, server, named) == (new,) and new != old
        (carried,) = {(c["address"], c["lingers for s"] > 0) for c in json.loads(named("carried", "--json").stdout)}
        assert carried == (old, True)
        closing = named("carry", "--json")
        closed_s = time.time()
        assert closing.returncode == 0, closing.stdout + closing.stderr
        assert closed_s - ended_s >= LINGER_S - 10, "the carriage began a little before the report was written"
        time.sleep(PATIENCE_S + 3)  # visits to an address that is no more
    events = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    (moved,) = [e for e in events if e.get("kind") == "name"]
    assert moved["data"] == {"name": WWW, "addresses": [new], "instead_of": [old]}
    assert [v for v in asking if v["trouble"]] == [] and {v["address"] for v in asking} == {old, new}
    late = [v for v in asking if v["address"] == old and v["wall_ns"] > moved["wall_ns"] + (TTL_S + 1) * 1e9]
    assert late == [], "within its TTL"
    served = [v for v in keeping if v["wall_ns"] < (ended_s + LINGER_S - 10) * 1e9]
    assert len(served) > 10 and [v for v in served if v["trouble"]] == []
    afterwards = [v["trouble"] for v in keeping if v["wall_ns"] > (closed_s + 0.5) * 1e9]
    assert afterwards and all(afterwards)
    assert traces_of_moves(lab) == before


def test_check_finds_what_stands_against_a_name(lab: Lab, named: Vmacro, server: knot.Knot, way: Way) -> None:
    here, key = address_of(lab, "web"), named.folder / "key"
    check = ("check", "web", "--to", way.there, "--json")
    assert {c for c in codes(named(*check)) if c.startswith("name-")} == set()
    set_to(lab, server, named, "10.9.9.9")
    assert "name-differs" in codes(named(*check))
    set_to(lab, server, named, here)
    short = named.altered("short.toml", lambda t: t.replace(f"linger_s = {LINGER_S}", f"linger_s = {TTL_S - 1}"))
    assert "name-ttl" in codes(short(*check))
    foreign = named.altered("foreign.toml", lambda t: t.replace(f'"{WWW}"', f'"{FOREIGN}"'))
    assert "name-refused" in codes(foreign(*check))
    knot.key_file(key, secret=knot.OTHER_SECRET)
    wrong = named(*check)
    assert wrong.returncode == 0 and "name-key" in codes(wrong)
    assert knot.OTHER_SECRET not in wrong.stdout + wrong.stderr
    key.chmod(0o644)
    refused = named(*check)
    assert refused.returncode == 2 and f"{key}: dns.key_file: mode 0644" in refused.stderr
    key.chmod(0o600)
    server.stop()
    assert "name-server" in codes(named(*check))
    server.start()


def test_a_name_server_that_fails_after_the_arrival_leaves_work_that_resume_does(
    lab: Lab, named: Vmacro, server: knot.Knot, way: Way
) -> None:
    """It is up while the move is checked; a hook ends it before anything is touched."""
    before, old, hook = traces_of_moves(lab), address_of(lab, "web"), named.folder / "hook"
    hook.write_text(f"#!/bin/sh\ncat > {named.folder}/told\nkill {server.pid}\n")
    hook.chmod(0o755)
    hooked = named.altered("hooked.toml", lambda t: t + f'\n[hooks]\nbefore = ["{hook}"]\n')
    done = hooked("migrate", "web", "--to", way.there, "--json")
    assert done.returncode == 5, done.stdout + done.stderr
    figures = summary(done)
    assert "name server" in figures["reason"] and site_of(lab, "web") == way.there
    told = json.loads((named.folder / "told").read_text())
    assert (told["when"], told["guest"], told["names"]) == ("before", "web", [WWW])
    server.stop()
    server.start()
    assert leads_to(lab, server, named) == (old,)
    resumed = named("resume", told["move"], "--json")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    new = address_of(lab, "web")
    assert leads_to(lab, server, named) == (new,)

    set_to(lab, server, named, "10.9.9.9")
    changed = named("migrate", "web", "--to", way.here, "--json")
    assert changed.returncode == 5 and "10.9.9.9" in changed.stdout, changed.stdout + changed.stderr
    assert leads_to(lab, server, named) == ("10.9.9.9",) and site_of(lab, "web") == way.here
    set_to(lab, server, named, address_of(lab, "web"))
    assert named("resume", summary(changed)["move_id"], "--json").returncode == 0
    closing = named("carry")
    assert closing.returncode == 0 and traces_of_moves(lab) == before, closing.stdout + closing.stderr
