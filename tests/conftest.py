"""What tests share: real labs, side by side on workers of pytest-xdist, each brought up by its first test.

docs/testing.md says what runs where.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis
from xdist.remote import Producer

from tests import labs
from tests import postgres as postgres_server
from tests.support import TOPOLOGY, UP, Vmacro, Way, guests_seen, lab_of_topology, other_site, site_of, without_probers
from tests.timing import Timing
from vmacro import inventory
from vmacro.inventory import Settings
from vmacro.lab.lab import Lab
from vmacro.model.moves import Ending
from vmacro.services.archive import Archive, Record

# How fast inputs are made says something of the machine, not of the code.
hypothesis.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis.load_profile("steady")

LAB_TIMEOUT_S = 1800  # the first test waits for images, which other labs may be building


def pytest_configure(config: pytest.Config) -> None:
    labs.stand_back_if_spare(config)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Timing())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> labs.Scheduling:
    return labs.Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("lab"):
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LAB_TIMEOUT_S))
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: run `sudo make test`"))
    items.sort(key=lambda item: labs.ORDER.index(labs.lab_of(item.nodeid)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure in a lab tells how its guests were: CI keeps nothing else of them."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and item.get_closest_marker("lab"):
        for up in UP:
            report.sections.append((f"guests of {up.topology.name}", guests_seen(up)))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with lab_of_topology(TOPOLOGY) as found:
        yield found


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    binaries = postgres_server.installed()
    if binaries is None:
        pytest.skip("no PostgreSQL: install postgresql, as `make test` does")
    with postgres_server.running(binaries) as server:
        yield server


@pytest.fixture(scope="session")
def settings(lab: Lab) -> Settings:
    return inventory.load(lab.inventory_file)


@pytest.fixture
def vmacro(lab: Lab, tmp_path: Path) -> Vmacro:
    return Vmacro(tmp_path, lab.inventory_file)


@pytest.fixture
def way(lab: Lab, vmacro: Vmacro) -> Way:
    """Of `web`, from wherever the test before has left it; of what a failed one has left nothing is under way."""
    for left in _never_ended(lab):
        without_probers(vmacro)("abort", left)
    here = site_of(lab, "web")
    return Way(here, other_site(here))


def _never_ended(lab: Lab) -> list[str]:
    """Moves of `web` that are under way, or left it uncertain where it is. Read here: a command takes two seconds."""
    with closing(Archive(inventory.load(lab.inventory_file).database_url)) as archive:
        moves = [r for r in archive.moves() if isinstance(r, Record) and r.guest == "web"]
    return [r.move_id for r in moves if r.outcome is None or r.outcome.ending == Ending.UNCERTAIN]


@pytest.fixture
def web_at_home(way: Way, vmacro: Vmacro) -> str:
    """`web` at bucharest; returns where it can go."""
    if way.here != "bucharest":
        done = without_probers(vmacro)("migrate", "web", "--to", "bucharest")
        assert done.returncode == 0, done.stdout + done.stderr
    return "berlin"
