"""The seamless handoff on real parts: nobody is lost, and nothing is left."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from tests.support import (
    Vmacro,
    Way,
    address_of,
    clients,
    probing,
    site_of,
    summary,
    traces_of_moves,
    verdicts,
    without_probers,
)
from vmacro import inventory
from vmacro.lab import echo
from vmacro.lab.lab import Lab
from vmacro.services.archive import Archive

pytestmark = pytest.mark.lab
ALL = ("idle-500", "chatter", "tcp-chatter", "idle", "tcp-idle", "download", "upload")


@pytest.fixture
def quiet(lab: Lab, vmacro: Vmacro) -> Vmacro:
    """What moves of earlier tests have left carried is of no use by now: closed, so that only this test's is seen."""
    quiet = without_probers(vmacro)
    with closing(Archive(inventory.load(lab.inventory_file).database_url)) as archive:
        carried = archive.carriages()
    if carried:
        ended = quiet("carry")
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return quiet


def test_no_client_of_any_kind_is_lost(lab: Lab, quiet: Vmacro, way: Way) -> None:
    before, old = traces_of_moves(lab), address_of(lab, "web")
    with clients(lab, "client", old, *ALL) as willing, clients(lab, "deaf", old, "chatter", "idle") as deaf:
        done = quiet("migrate", "web", "--to", way.there, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        figures = summary(done)
        carried = json.loads(quiet("carried", "--json").stdout)
        assert verdicts(willing) == dict.fromkeys(ALL, "")
        assert verdicts(deaf) == {"chatter": "", "idle": ""}
    connections = figures["connections"]
    assert len(connections) > 500 and all(c["kept"] for c in connections)
    assert all(c["carried"] for c in connections if not c["mptcp"]), "plain TCP cannot follow"
    assert sum(c["followed"] for c in connections) >= 3
    assert figures["carried_addresses"] == [old]
    assert {c["transport"] for c in carried} == {"mptcp", "tcp"} and all(c["address"] == old for c in carried)
    assert any(c["bytes"] > 1000 for c in carried)

    closing = quiet("carry", "--json")
    assert closing.returncode == 0 and "last connection has ended" in closing.stdout, closing.stdout + closing.stderr
    assert json.loads(quiet("carried", "--json").stdout) == []
    assert traces_of_moves(lab) == before


def test_what_is_sent_into_the_pause_is_delivered(lab: Lab, quiet: Vmacro, way: Way) -> None:
    """Nothing retransmits an echo request: what is answered has been held."""
    with echo.echoing(lab.namespace("client"), address_of(lab, "web")) as echoes:
        done = quiet("migrate", "web", "--to", way.there, "--json", "--report", "out")
        assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in (quiet.folder / "out/events.ndjson").read_text().splitlines()]
    at = {(e["data"]["side"], e["data"]["event"]): e["wall_ns"] for e in events if e["kind"] == "domain"}
    paused, resumed = at["source", "suspended"], at["destination", "resumed"]
    answered, sent = echoes.answered(paused, resumed)
    assert sent >= 5 and answered >= 0.9 * sent, f"{answered} of {sent}"
    assert quiet("carry").returncode == 0, "once the kernels have forgotten the echoes"


def test_a_carried_connection_goes_on_from_site_to_site_and_home(lab: Lab, quiet: Vmacro, way: Way) -> None:
    before, home = traces_of_moves(lab), address_of(lab, "web")
    with clients(lab, "client", home, "chatter", "tcp-chatter") as process:
        for to in (way.there, way.here, way.there):
            done = quiet("migrate", "web", "--to", to, "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            assert all(c["kept"] for c in summary(done)["connections"])
            assert site_of(lab, "web") == to
            if to == way.here:
                assert not any("vmac-" in line for lines in traces_of_moves(lab).values() for line in lines)
        assert verdicts(process) == {"chatter": "", "tcp-chatter": ""}
    assert quiet("carry").returncode == 0
    assert traces_of_moves(lab) == before


@pytest.mark.parametrize("moves", [2, pytest.param(10, marks=pytest.mark.slow("the same again"))])
def test_a_client_that_takes_one_address_at_a_time_follows_every_move(
    lab: Lab, quiet: Vmacro, way: Way, moves: int
) -> None:
    """Beside another client's connection that cannot follow, so that its address is carried all the while."""
    before, home, shy = traces_of_moves(lab), address_of(lab, "web"), str(lab.topology.uplink("shy").node.ip)
    with clients(lab, "shy", home, "chatter") as follower, clients(lab, "client", home, "tcp-chatter") as carried:
        for number in range(moves):
            done = quiet("migrate", "web", "--to", (way.there, way.here)[number % 2], "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            found = [c for c in summary(done)["connections"] if shy in c["client"]]
            assert [c["verdict"] for c in found] == ["followed"], found
        assert verdicts(follower) == {"chatter": ""} and verdicts(carried) == {"tcp-chatter": ""}
    assert quiet("carry").returncode == 0
    assert traces_of_moves(lab) == before


@pytest.mark.parametrize("moves", [2, pytest.param(3, marks=pytest.mark.slow("and away once more"))])
def test_datagrams_are_answered_from_site_to_site_and_home(lab: Lab, quiet: Vmacro, way: Way, moves: int) -> None:
    """By a server on the wildcard, whose kernel answers from its newest address."""
    before, home = traces_of_moves(lab), address_of(lab, "web")
    with clients(lab, "client", home, "datagrams") as process:
        for to in (way.there, way.here, way.there)[:moves]:
            checked = quiet("check", "web", "--to", to)
            assert f" of {home}" in checked.stdout and "are carried" in checked.stdout, checked.stdout + checked.stderr
            done = quiet("migrate", "web", "--to", to, "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            (found,) = (f for f in summary(done)["datagrams"] if f["address"] == home)
            assert found["udp_before"] >= 1 and found["udp_after"] >= 1 and found["carried"]
            carried = json.loads(quiet("carried", "--json").stdout)
            assert (home, "udp") in {(c["address"], c["transport"]) for c in carried}
        assert verdicts(process) == {"datagrams": ""}
    assert quiet("carry").returncode == 0, "once the kernels have forgotten the flows"
    assert traces_of_moves(lab) == before


def test_interrupted_in_the_copy_nothing_prepared_is_left(lab: Lab, quiet: Vmacro, way: Way) -> None:
    before = traces_of_moves(lab)
    with probing(lab, "client", address_of(lab, "web"), quiet.folder):
        arguments = ("--json", "--bandwidth-mib-s", "1", "--copy-timeout-s", "3")
        done = quiet("migrate", "web", "--to", way.there, *arguments)
        assert done.returncode == 4, done.stdout + done.stderr
    assert traces_of_moves(lab) == before
    found = json.loads(quiet("connections", "web", "--json").stdout)
    assert all(len(c["subflows"]) == 1 for c in found)


def test_a_host_without_ssh_blocks_before_anything_is_touched(lab: Lab, quiet: Vmacro, way: Way) -> None:
    there = lab.host(way.there).address
    mute = quiet.altered("mute.toml", lambda t: t.replace(f'ssh = "root@{there}"', ""))
    done = mute("check", "web", "--to", way.there, "--json")
    assert done.returncode == 3
    assert "no-host-side" in [f["code"] for f in json.loads(done.stdout)["findings"]]
    stranger = quiet.folder / "known_hosts"
    stranger.write_text("")
    unknown = quiet.altered("unknown.toml", lambda t: t.replace(f"{lab.folder}/ssh/known_hosts", str(stranger)))
    refused = unknown("migrate", "web", "--to", way.there)
    assert refused.returncode == 3 and "not found in known_hosts" in refused.stderr
