"""What is removed of the lab's cache, and never with it: what a killed build has left mounted in there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from vmacro.errors import LabError
from vmacro.lab import images, mounts, process


class Mounts:
    """/proc/self/mounts, and the commands that change what it says. `busy` cannot be unmounted."""

    def __init__(self, file: Path, points: Sequence[str], busy: str = "") -> None:
        self._file, self._points, self._busy = file, [*points], busy
        self.ran: list[tuple[str, str]] = []
        self._write()

    def run(self, argv: Sequence[str | Path]) -> str:
        command, point = str(argv[0]), str(argv[-1])
        self.ran.append((command, point))
        if command == "umount" and point != self._busy:
            self._points.reverse()
            self._points.remove(point)
            self._points.reverse()
            self._write()
        return ""

    def _write(self) -> None:
        escaped = (point.replace(" ", r"\040") for point in self._points)
        self._file.write_bytes(b"".join(f"udev {point} devtmpfs rw 0 0\n".encode() for point in escaped))


def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *below: str, busy: str = "") -> tuple[Path, Mounts]:
    part = tmp_path / "a base.part"
    (part / "dev").mkdir(parents=True)
    (part / "dev/null").write_text("of the machine")
    points = ["/", "/proc", f"{part}.lock/dev", *(f"{part}/{name}" for name in below)]
    found = Mounts(tmp_path / "mounts", points, busy and f"{part}/{busy}")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(process, "run", found.run)
    return part, found


def test_what_is_mounted_in_a_tree_is_unmounted_before_it_goes_the_deepest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, found = mounted(tmp_path, monkeypatch, "dev", "dev/pts", "proc", "dev", "sys/fs/cgroup", "sys")
    mounts.remove_tree(part)
    order = ["sys/fs/cgroup", "dev/pts", "sys", "dev", "proc", "dev"]
    points = [f"{part}/{name}" for name in order]
    assert found.ran == [*(("mount", p) for p in points), *(("umount", p) for p in points)]
    assert not part.exists()


def test_a_tree_in_which_something_stays_mounted_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, _ = mounted(tmp_path, monkeypatch, "proc", "dev", busy="dev")
    with pytest.raises(LabError, match=r"a base\.part: not removed: .*/dev stays mounted"):
        images._empty(part)
    assert (part / "dev/null").read_text() == "of the machine"


def test_a_tree_without_mounts_goes_and_one_that_is_not_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, found = mounted(tmp_path, monkeypatch)
    mounts.remove_tree(part)
    mounts.remove_tree(part)
    assert not part.exists() and found.ran == []
