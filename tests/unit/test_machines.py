"""A machine that does not run, or no longer: what needs no root to be seen."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from vmacro.errors import LabError
from vmacro.lab import process, topology
from vmacro.lab.machines import Machine
from vmacro.lab.machines.container import Container


def container(folder: Path) -> Machine:
    return Container(topology.load(topology.DEFAULT), "berlin", folder)


def pretend_to_run(folder: Path, pid: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "leader.json").write_text(json.dumps(asdict(process.identify(pid))))


def test_one_that_was_never_booted(tmp_path: Path) -> None:
    machine = container(tmp_path / "none")
    assert (machine.name, machine.leader, machine.console()) == ("berlin", None, "")
    assert machine.address == str(topology.load(topology.DEFAULT).uplink("berlin").node.ip)
    machine.stop()


def test_nothing_runs_in_one_that_does_not(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text("Kernel panic")
    machine = container(tmp_path)
    with pytest.raises(LabError, match=r"machine berlin: does not run") as error:
        machine.inside(["true"])
    assert "Kernel panic" in error.value.hint
    with pytest.raises(LabError, match="does not run"):
        machine.put(Path("/etc/hostname"), Path("/tmp/hostname"))


def test_one_that_runs_is_entered_by_its_leader(tmp_path: Path) -> None:
    pretend_to_run(tmp_path, os.getpid())
    assert container(tmp_path).inside(["ls", Path("/etc")]) == ["nsenter", "-t", str(os.getpid()), "-a", "ls", "/etc"]


def test_one_whose_leader_has_ended_does_not_run(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        pretend_to_run(tmp_path, child.pid)
        assert container(tmp_path).leader is not None
        child.kill()
    assert container(tmp_path).leader is None


def test_what_is_its_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / "upper/etc").mkdir(parents=True)
    (tmp_path / "upper/etc/hostname").write_text("berlin\n")
    container(tmp_path).keep(tmp_path / "kept")
    assert (tmp_path / "kept/etc/hostname").read_text() == "berlin\n"
