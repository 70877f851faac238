"""Four guests at once, both ways, in one process by vmacro.api: first all well, then one with a dead destination and
one that is cancelled. Then a site that is emptied by a program that is killed: a worker goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import vmacro.api
from tests.support import (
    Vmacro,
    address_of,
    clients,
    eventually,
    lab_of_topology,
    on_host,
    other_site,
    site_of,
    traces_of_moves,
    verdicts,
)
from vmacro.lab.lab import Lab
from vmacro.model.events import CopyProgress, DomainChanged, PhaseBegan, PhaseEnded
from vmacro.model.moves import Ending, Verdict

# Four guests under emulation starve each other's agents where another lab runs beside.
pytestmark = [pytest.mark.lab, pytest.mark.slow("wants the machine for itself")]
TOPOLOGY = Path(__file__).with_name("many.toml")
GUESTS = ("ada", "bob", "cleo", "dan")
PATIENCE_S = 300.0
# A host that takes packets and never answers: nobody has this address of the lab's transit network.
SILENT = """
[sites.nowhere]

[hosts.nowhere]
site = "nowhere"
ssh = "root@10.48.250.9"
uri = "qemu+tls://10.48.250.9/system"
address = "10.48.250.9"
"""


@pytest.fixture(scope="module")
def many() -> Iterator[Lab]:
    with lab_of_topology(TOPOLOGY) as found:
        yield found


@pytest.fixture
def inventory(many: Lab, tmp_path: Path) -> Path:
    """Without probers: a connection of each guest is looked at by its own client."""
    text = many.inventory_file.read_text()
    (tmp_path / "inventory.toml").write_text("".join(x for x in text.splitlines(True) if not x.startswith("probe =")))
    return tmp_path / "inventory.toml"


def phases_s(report: vmacro.api.Report) -> dict[str, float]:
    """How long each phase took."""
    began = {e.what.phase: e.wall_ns for e in report.events if isinstance(e.what, PhaseBegan)}
    ended = {e.what.phase: e.wall_ns for e in report.events if isinstance(e.what, PhaseEnded)}
    return {phase.value: round((ended[phase] - began[phase]) / 1e9, 2) for phase in began if phase in ended}


def only_its_own(report: vmacro.api.Report, guest: str) -> None:
    assert report.plan.guest.name == guest and {e.move_id for e in report.events} == {report.move_id}
    seen = [(e.what.side, e.what.event) for e in report.events if isinstance(e.what, DomainChanged)]
    assert seen.count(("destination", "resumed")) == (report.outcome.ending == Ending.MOVED)


def test_four_at_once_both_ways(many: Lab, inventory: Path, tmp_path: Path) -> None:
    before, homes = traces_of_moves(many), {guest: site_of(many, guest) for guest in GUESTS}
    assert sorted(homes.values()) == ["berlin", "berlin", "bucharest", "bucharest"]
    with ExitStack() as connected, vmacro.api.open(inventory, tmp_path / "report") as session:
        held = {g: connected.enter_context(clients(many, "client", address_of(many, g), "chatter")) for g in GUESTS}
        moves = {guest: session.migrate(guest, other_site(homes[guest])) for guest in GUESTS}
        reports = {guest: move.result(PATIENCE_S) for guest, move in moves.items()}
        wrong = {guest: verdicts(process) for guest, process in held.items()}
    for guest, report in reports.items():
        print(guest, phases_s(report), "downtime", report.figures["guest_downtime_ms"], "ms")
        assert report.outcome.ending == Ending.MOVED, report.outcome
        assert [c.verdict for c in report.outcome.connections] == [Verdict.FOLLOWED]
        only_its_own(report, guest)
    assert wrong == {guest: {"chatter": ""} for guest in GUESTS}
    assert {guest: site_of(many, guest) for guest in GUESTS} == {g: other_site(homes[g]) for g in GUESTS}
    assert traces_of_moves(many) == before
    together = [(r.events[0].wall_ns, r.events[-1].wall_ns) for r in reports.values()]
    assert max(began for began, _ in together) < min(ended for _, ended in together), "they were under way at once"


def test_one_dead_and_one_cancelled_delay_nobody(many: Lab, inventory: Path, tmp_path: Path) -> None:
    """Beside a lone move's times, those of two moves while a third knocks at a dead host and a fourth rolls back."""
    homes = {guest: site_of(many, guest) for guest in GUESTS}
    inventory.write_text(inventory.read_text() + SILENT)
    with vmacro.api.open(inventory, tmp_path / "report") as session:
        alone = session.migrate("ada", other_site(homes["ada"])).result(PATIENCE_S)
        assert alone.outcome.ending == Ending.MOVED
        dead = session.migrate("bob", "nowhere")
        cancelled = session.migrate("cleo", other_site(homes["cleo"]), bandwidth_mib_s=4)
        moves = {"ada": session.migrate("ada", homes["ada"]), "dan": session.migrate("dan", other_site(homes["dan"]))}
        _cancel_in_the_copy(cancelled)
        reports = {guest: move.result(PATIENCE_S) for guest, move in moves.items()}
        given_up = cancelled.result(PATIENCE_S)
        with pytest.raises(vmacro.api.PlanRejectedError, match=r"host nowhere: .*no answer"):
            dead.result(PATIENCE_S)
    assert given_up.outcome.ending == Ending.ROLLED_BACK and "interrupted" in given_up.outcome.reason
    only_its_own(given_up, "cleo")
    lone = phases_s(alone)
    for guest, report in reports.items():
        assert report.outcome.ending == Ending.MOVED, report.outcome
        only_its_own(report, guest)
        found = phases_s(report)
        print(f"{guest}: {found}; alone: {lone}")
        late = {p: s for p, s in found.items() if s > 3 * lone[p] + 3}
        assert not late, f"{guest}: slower than alone, {lone}"
    where = {guest: site_of(many, guest) for guest in GUESTS}
    assert where == homes | {"dan": other_site(homes["dan"])}


def test_who_empties_a_site_is_killed_and_a_worker_goes_on(many: Lab, inventory: Path, tmp_path: Path) -> None:
    """Two of four guests are under way as the program dies that moves them, and the destination's libvirtd is restarted
    after that: all come to the other site in the end, and keep their connections."""
    vmacro = Vmacro(tmp_path, inventory)
    home = site_of(many, "ada")
    away = other_site(home)
    for guest in GUESTS:
        if site_of(many, guest) != home:
            assert vmacro("migrate", guest, "--to", home).returncode == 0
    with ExitStack() as connected:
        held = {g: connected.enter_context(clients(many, "client", address_of(many, g), "chatter")) for g in GUESTS}
        doomed = vmacro.start("evacuate", home, "--yes", "--json")
        assert doomed.stdout is not None
        for line in doomed.stdout:
            if '"copy.progress"' in line:
                break
        doomed.kill()
        doomed.communicate()
        on_host(many, away, "systemctl", "restart", "libvirtd")
        batch = json.loads(vmacro("batch", "list", "--json").stdout)["batches"][0]
        assert batch["wanted"] == "run" and batch["moved"] < len(GUESTS)
        worker = vmacro.start("worker")
        try:
            watched = vmacro("batch", "watch", batch["batch"])
        finally:
            worker.terminate()
            said = worker.communicate(timeout=PATIENCE_S)
        shown = vmacro("batch", "show", batch["batch"], "--json")
        assert watched.returncode == 0, (watched.stdout, watched.stderr, said, shown.stdout)
        assert {guest: site_of(many, guest) for guest in GUESTS} == dict.fromkeys(GUESTS, away)
        wrong = {guest: verdicts(process) for guest, process in held.items()}
    assert wrong == {guest: {"chatter": ""} for guest in GUESTS}
    told = json.loads(shown.stdout.splitlines()[-1])
    assert told["moved"] == len(GUESTS) and told["most_at_once"]["host"] <= 2, told
    assert vmacro("restore", home, "--yes", "--json").returncode == 0
    assert {guest: site_of(many, guest) for guest in GUESTS} == dict.fromkeys(GUESTS, home)


def _cancel_in_the_copy(move: vmacro.api.Move) -> None:
    eventually(lambda: any(isinstance(e.what, CopyProgress) for e in move.events) or move.done, "the copy to begin")
    move.cancel()
