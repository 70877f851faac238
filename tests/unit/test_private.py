"""What is written down is its owner's alone, whatever the umask, and is not kept for ever."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

import vmacro.api
from tests.unit.test_archive import knowing, no_world
from tests.unit.test_enumeration import stage
from tests.unit.test_follow import POLICY
from tests.unit.town import PATIENCE_S, Town
from vmacro import moving, private, wiring
from vmacro.cli.app import app, main
from vmacro.cli.commands import ENTRIES, Commands
from vmacro.drivers.fake import connection
from vmacro.model.events import Event, Note
from vmacro.model.moves import Ending, Outcome
from vmacro.planning.handoffs import SEAMLESS
from vmacro.provisioning import ansible_inventory
from vmacro.rtt import recording as recordings
from vmacro.rtt.samples import Sample
from vmacro.services import journal, migrate, retention, upkeep, workflows
from vmacro.services.archive import Archive
from vmacro.services.event_log import DatabaseEventLog

DAY_S = 86_400.0


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """As most machines have it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def readable_by_others(folder: Path) -> list[str]:
    """What others can read below a folder that they can enter."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink() and path.stat().st_mode & 0o077:
            found.append(f"{path.relative_to(folder)} {path.stat().st_mode & 0o777:o}")
    return found


SINCE = ("--from", "2026-06-01T00:00:00Z")
# Every command that can write, with what it needs. `{}` is the folder.
COMMANDS: dict[str, list[list[str]]] = {
    "init": [["init", "made/inventory.toml", *("--host", "a/a=10.0.0.1", "--host", "b/b=10.0.0.2")]],
    "pki init": [["pki", "init"]],
    "pki issue": [["pki", "issue", "operator"]],
    "pki renew": [["pki", "renew", "operator"]],
    "pki revoked": [["pki", "revoked"], ["pki", "revoked", "--for", "qemu"]],
    "pki show": [["pki", "show"]],
    "sites": [["sites"]],
    "doctor": [["doctor"]],
    "check": [["check", "g1", "--to", "berlin"]],
    "connections": [["connections", "g1"]],
    "migrate": [["migrate", "g1", "--to", "berlin"]],
    "resume": [["resume"]],
    "abort": [["abort"]],
    "history": [["history"]],
    "show": [["show", "g1"]],
    "events": [["events"]],
    "carried": [["carried"]],
    "carry": [["carry"]],
    "cleanup": [["cleanup"]],
    "evacuate": [["evacuate", "bucharest", "--yes"]],
    "drain": [["drain", "bucharest", "--yes", "--detach"]],
    "restore": [["restore", "bucharest"]],
    "follow": [["follow", "policy.toml", "--once"]],
    "signals": [["signals", "policy.toml"]],
    "simulate": [["simulate", "policy.toml", "--days", "0.1", *SINCE, "--png", "days.png", "--html", "days.html"]],
    **{f"batch {verb}": [["batch", verb]] for verb in ("list", "show", "watch", "pause", "resume", "abort")},
    "inventory": [["inventory"]],
    "provision hosts": [["provision", "hosts"]],
    "provision guests": [["provision", "guests"]],
    "provision probes": [["provision", "probes"]],
    "provision orchestrator": [["provision", "orchestrator", "--check"]],  # it is this machine that it changes
    "rtt report": [["rtt", "report", "rtt.ndjson", "--png", "rtt.png", "--html", "rtt.html"]],
    "rtt probe": [["rtt", "probe", "127.0.0.1:1", "--record", "probe.ndjson"]],
}
# They write nothing, make what a lab's machines must read, or never end: a worker writes what `evacuate` does.
OTHERS = {
    "rtt serve",
    "rtt watch",
    "worker",
    "image build",
    "image list",
    *(f"lab {v}" for v in ("up", "down", "demo", "status")),
}
OTHERS |= {"lab shell"}


def test_every_command_is_looked_at() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    names = set()
    for name in ENTRIES:
        command = group.get_command(typer.Context(group), name)
        names |= {f"{name} {each}" for each in command.commands} if isinstance(command, TyperGroup) else {name}
    assert names == set(COMMANDS) | OTHERS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an inventory of hosts that live in memory; Ansible's SSH to them is `false`."""
    town = Town(tmp_path, 2)
    lines = town.file.read_text().replace("[orchestrator]", f'[orchestrator]\nca_dir = "{tmp_path}/ca"')
    lines = lines.replace("[orchestrator]", f'[orchestrator]\npki_dir = "{tmp_path}/us"')
    ssh = 'ansible = { ansible_ssh_executable = "/bin/false", ansible_become_password = "hush" }'
    number = itertools.count(1)
    lines = re.sub("address = ", lambda _: f'ssh = "root@192.0.2.{next(number)}"\n{ssh}\naddress = ', lines)
    lines = lines.replace("[guests.g1]", f'[guests.g1]\nssh = "root@192.0.2.9"\n{ssh}\nprobe = {{ from = "p" }}')
    town.file.write_text(f'{lines}[probers.p]\nssh = "root@192.0.2.8"\n{ssh}\n')
    samples = "".join(recordings.sample_line(Sample(n, n * 10**7, 10**6)) for n in range(9))
    (tmp_path / "rtt.ndjson").write_text(recordings.header("g1", "tcp", 10, 0, 0) + samples)
    (tmp_path / "rtt.ndjson").chmod(0o600)
    town.file.chmod(0o600)
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "policy.toml").chmod(0o600)
    parts = ansible_inventory.Parts((Path("/w/a.whl"),), "", Path("/w/a.deb"), Path("/w/a.pyz"), Path("/w/vmacro-rtt"))
    monkeypatch.setattr(ansible_inventory, "parts", lambda: parts)
    monkeypatch.setattr(wiring, "drivers", town.drivers)
    monkeypatch.setenv("OUR_ENVIRONMENT", "hush")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_writes_is_its_owners_alone(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = COMMANDS[name]
    if name.startswith(("pki", "provision", "inventory")) and name != "pki init":
        words = [["pki", "init"], *words]
    for command in words:
        given = [] if command[0] in ("init", "rtt") else ["-i", str(home / "inventory.toml")]
        monkeypatch.setattr(sys, "argv", ["vmacro", *command, *given])
        with pytest.raises(SystemExit):
            main()
    assert readable_by_others(home) == []
    if name.startswith("provision") and name != "provision orchestrator":
        see_that_it_ran_and_tells_no_secret(home / "state" / moving.PLAYBOOK_RUNS)


def see_that_it_ran_and_tells_no_secret(runs: Path) -> None:
    """Passwords are in what the operator said under `ansible`, and nowhere else; nothing is of our environment."""
    kept = [p for p in runs.rglob("*") if p.is_file()]
    assert {"inventory.json", "stdout"} <= {p.name for p in kept}
    assert {p.name for p in kept if "hush" in p.read_text(errors="replace")} == {"inventory.json"}
    assert not [p for p in kept if "OUR_ENVIRONMENT" in p.read_text(errors="replace")]


def test_a_move_leaves_nothing_for_others_to_read(town: Town, session: vmacro.api.Session, tmp_path: Path) -> None:
    """Journal, write-ahead logs, events, locks and report, while it goes on and afterwards."""
    town.file.chmod(0o600)
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "policy.toml").chmod(0o600)
    gate = town.gate("copy bucharest", "g1")
    move = session.migrate("g1", "berlin")
    gate.wait_until_reached()
    during = readable_by_others(tmp_path)
    gate.open()
    assert move.result(PATIENCE_S).outcome.ending is Ending.MOVED
    assert during == readable_by_others(tmp_path) == []
    names = {p.name for p in tmp_path.rglob("*")}
    assert {"journal.sqlite", "journal-events.sqlite", "g1.lock", "summary.json", "events.ndjson"} <= names


def test_files_from_before_become_their_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    file.write_text("kept")
    assert file.stat().st_mode & 0o777 == 0o644
    private.touch(file)
    assert file.stat().st_mode & 0o777 == 0o600 and file.read_text() == "kept"


def test_a_file_is_private_before_there_is_anything_in_it(tmp_path: Path) -> None:
    """And what somebody has put in the way of it is not written to."""
    goal = tmp_path / "goal"
    (tmp_path / ".a.part").symlink_to(goal)
    private.write(tmp_path / "a", "secret")
    assert not goal.exists() and (tmp_path / "a").read_text() == "secret"
    assert readable_by_others(tmp_path) == []


# What is forgotten.


def aged(path: Path, days: float) -> Path:
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))
    return path


def test_runs_of_playbooks_are_forgotten_by_age(tmp_path: Path) -> None:
    for name, days in (("20250101-120000", 91), ("20260101-120000", 89), ("mine", 91)):
        (tmp_path / name / "artifacts").mkdir(parents=True)
        aged(tmp_path / name, days)
    (tmp_path / "20240101-120000").symlink_to(tmp_path / "mine")
    assert retention.of_playbooks(tmp_path, time.time() - 90 * DAY_S) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"20260101-120000", "mine", "20240101-120000"}
    assert retention.of_playbooks(tmp_path / "none", 0) == 0


def test_reports_are_forgotten_by_age_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    for name, days in (("web-1", 91), ("web-2", 89), ("web-3", 91)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text("{}")
        (tmp_path / name / "rtt.ndjson").write_text("")
        if name == "web-3":
            (tmp_path / name / "notes.txt").write_text("mine")
        aged(tmp_path / name, days)
    (tmp_path / "holidays").mkdir()
    aged(tmp_path / "holidays", 91)
    assert retention.of_reports(tmp_path, time.time() - 90 * DAY_S) == 2
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    assert left == {"web-2", "web-2/summary.json", "web-2/rtt.ndjson", "web-3", "web-3/notes.txt", "holidays"}


def test_moves_are_forgotten_but_for_those_that_are_still_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, url = stage(SEAMLESS).plan, f"sqlite:///{tmp_path}/journal.sqlite"
    world = knowing(stage(SEAMLESS).fake.world, *(replace(plan.guest, name=name) for name in "gh"))
    leg = replace(plan.new_legs[0], move_id="g-2")
    plans = {
        "g-1": plan,  # an ordinary one
        "g-2": plan,  # the last one's leg is of it
        "g-3": replace(plan, earlier_legs=(leg,)),  # the guest's last
        "h-1": plan,  # never ended well, but there was a later one
        "h-2": plan,  # unfinished, the last
    }
    endings = iter([Outcome(Ending.MOVED)] * 3 + [Outcome(Ending.UNCERTAIN, remains=True)] * 2)
    monkeypatch.setattr(migrate, "run_move", lambda *_, **__: next(endings))
    with journal.open_journal(url, no_world, "test-1"):
        for name, chosen in plans.items():
            guest = replace(plan.guest, name=name[0])
            workflows.run(replace(chosen, move_id=name, guest=guest), world)
    archive = Archive(url)
    assert upkeep.forget(archive, int((time.time() - DAY_S) * 1000)) == 0, "they are of today"
    assert {r.move_id for r in _records(archive)} == set(plans)
    later = int((time.time() + DAY_S) * 1000)
    assert upkeep.forget(archive, later) == 2 and upkeep.forget(archive, later) == 0
    assert {r.move_id for r in _records(archive)} == {"g-2", "g-3", "h-2"}
    assert archive.steps("g-1") == [] and archive.move("g-1") is None
    archive.close()


def _records(archive: Archive) -> list[Any]:
    return list(archive.moves())


def test_a_move_whose_address_is_carried_is_kept(town: Town, session: vmacro.api.Session, tmp_path: Path) -> None:
    guest = town.fake.guests["g1"]
    guest.connections.append(connection(0, guest.address, willing=False))
    for to in ("berlin", "bucharest", "berlin"):
        moved = session.migrate("g1", to).result(PATIENCE_S)
        assert moved.outcome.ending in (Ending.MOVED, Ending.INCOMPLETE), moved.outcome
    archive = Archive(f"sqlite:///{tmp_path}/state/journal.sqlite")
    carried = {carriage.move_id for carriage in archive.carriages()}
    assert carried
    upkeep.forget(archive, int((time.time() + DAY_S) * 1000))
    assert carried <= {record.move_id for record in _records(archive)}
    assert {carriage.move_id for carriage in archive.carriages()} == carried
    archive.close()


def test_events_are_forgotten_by_age(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/journal.sqlite"
    complaints: list[str] = []
    with DatabaseEventLog(url, complaints.append) as log:
        log.forget(10)
        for at in (1, 9, 10, 11):
            log.append(Event("web-1", at, Note("x")))
        assert len(log.read()) == 4
        log.forget(10)
        assert [event.wall_ns for _, event in log.read()] == [10, 11]
    assert not complaints


def test_forgetting_comes_with_the_next_move_and_its_trouble_stops_nothing(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = tmp_path / "report/web-1"
    old.mkdir(parents=True)
    (old / "summary.json").write_text("{}")
    aged(old, 91)
    with vmacro.api.open(town.file, tmp_path / "report") as session:
        assert session.migrate("g1", "berlin").result(PATIENCE_S).outcome.ending is Ending.MOVED
    assert not old.exists() and not caplog.messages

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(retention, "of_playbooks", refuse)
    with vmacro.api.open(town.file, tmp_path / "report") as session:
        assert session.migrate("g1", "bucharest").result(PATIENCE_S).outcome.ending is Ending.MOVED
    assert "what is older than keep_days cannot be removed" in caplog.text


def test_the_folder_of_a_playbooks_run_has_the_name_that_is_forgotten() -> None:
    assert retention._RUN.match(time.strftime("%Y%m%d-%H%M%S"))


def test_a_folder_that_another_move_makes_meanwhile_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, look = tmp_path / "state/guests", Path.is_dir

    def look_and_then_it_is_there(path: Path) -> bool:
        found = look(path)
        if path == wanted and not found:
            path.mkdir()
        return found

    monkeypatch.setattr(Path, "is_dir", look_and_then_it_is_there)
    assert private.folder(wanted) == wanted
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        private.folder(tmp_path / "file")
