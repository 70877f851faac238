"""Machines have cgroups of their own, and nothing of them stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmacro.errors import LabError
from vmacro.lab import cgroups


@pytest.fixture
def hierarchies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders for cgroups: both are removed by rmdir, and not while something is in them."""
    found = [tmp_path / name for name in ("unified", "systemd")]
    for folder in found:
        folder.mkdir()
    lines = [
        f"tmpfs {tmp_path} tmpfs rw 0 0",
        f"cgroup {tmp_path}/cpu cgroup rw,relatime,cpu 0 0",
        f"cgroup {found[1]} cgroup rw,relatime,xattr,name=systemd 0 0",
        f"cgroup2 {found[0]} cgroup2 rw,nsdelegate 0 0",
    ]
    (tmp_path / "mounts").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(cgroups, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(cgroups, "GONE_WITHIN_S", 0.1)
    return found


def test_a_machine_has_one_in_each_hierarchy_that_systemd_uses(hierarchies: list[Path]) -> None:
    made = cgroups.make("vmacro-test-berlin")
    assert sorted(made) == sorted(folder / "vmacro-test-berlin" for folder in hierarchies)
    assert cgroups.make("vmacro-test-berlin") == made == [path for path in made if path.is_dir()]


def test_one_that_cannot_be_made_is_told(hierarchies: list[Path]) -> None:
    (hierarchies[1] / "vmacro-test-berlin").write_text("in the way")
    with pytest.raises(LabError, match=r"systemd/vmacro-test-berlin: cannot be made: File exists"):
        cgroups.make("vmacro-test-berlin")


def test_they_go_with_all_that_is_below(hierarchies: list[Path]) -> None:
    for folder in cgroups.make("vmacro-test-berlin"):
        (folder / "payload/system.slice/libvirtd.service").mkdir(parents=True)
        (folder / "supervisor").mkdir()
    cgroups.make("vmacro-test-two-berlin")
    assert len(cgroups.existing("test")) == 2 and len(cgroups.existing("test-two")) == 2
    cgroups.remove("vmacro-test-berlin")
    cgroups.remove("vmacro-test-berlin")
    assert cgroups.existing("test") == [] and len(cgroups.existing("test-two")) == 2


def test_what_is_still_in_use_is_told(hierarchies: list[Path]) -> None:
    (folder, other) = cgroups.make("vmacro-test-berlin")
    (folder / "payload").mkdir()
    (folder / "payload/somebody").write_text("runs")
    cgroups.remove("vmacro-test-berlin")
    assert cgroups.existing("test") == [folder] and not other.exists()
