"""One real lab for the session; it comes up with the first test that asks for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis

from tests import postgres as postgres_server
from tests.support import TOPOLOGY, Vmacro, site_of, without_probers
from vmacro import inventory
from vmacro.inventory import Settings
from vmacro.lab import topology
from vmacro.lab.lab import Lab

# How fast inputs are made says something of the machine, not of the code.
hypothesis.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("lab"):
                item.add_marker(pytest.mark.skip(reason="needs root: run `sudo make test`"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    found = Lab(topology.load(TOPOLOGY))
    found.down()  # what a killed run may have left
    found.up(TOPOLOGY, lambda text: print(text, flush=True))
    yield found
    assert found.down() == []


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres_server.Server]:
    binaries = postgres_server.installed()
    if binaries is None:
        pytest.skip("no PostgreSQL: install postgresql, as `make setup` does")
    server = postgres_server.Server(tmp_path_factory.mktemp("postgres"), binaries)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def settings(lab: Lab) -> Settings:
    return inventory.load(lab.inventory_file)


@pytest.fixture
def vmacro(lab: Lab, tmp_path: Path) -> Vmacro:
    return Vmacro(tmp_path, lab.inventory_file)


@pytest.fixture
def web_at_home(lab: Lab, vmacro: Vmacro) -> str:
    """`web` at bucharest, whatever a failed test has left; returns where it can go."""
    quiet = without_probers(vmacro)
    for left in json.loads(quiet("history", "--json").stdout):
        if left["guest"] == "web" and left["ended"] in ("not yet", "uncertain"):
            quiet("abort", left["move"])
    if site_of(lab, "web") != "bucharest":
        done = quiet("migrate", "web", "--to", "bucharest")
        assert done.returncode == 0, done.stdout + done.stderr
    return "berlin"
