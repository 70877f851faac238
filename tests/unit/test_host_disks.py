"""The host side's disks: what it refuses, and by what it knows a base again. The copying itself is in tests/lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmacro.host import disk_verbs, disks
from vmacro.host.disks import Copy, DiskError

ID = "ab12cd34ef56"


def copy_in(folder: Path) -> Copy:
    base = folder / "web.qcow2"
    base.write_bytes(b"base")
    return disks.from_words(ID, str(base), "qcow2")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": "images/web.qcow2"}, "must be absolute"),
        ({"base": "/images/../etc/shadow"}, "must be absolute"),
        ({"base": "/images/web,file=x"}, "must be absolute"),
        ({"id": "x; reboot"}, "no such id"),
        ({"format": "vmdk"}, "no such id or format"),
    ],
)
def test_what_is_no_disk_of_ours(change: dict[str, str], said: str) -> None:
    words = {"id": ID, "base": "/images/web.qcow2", "format": "qcow2"}
    assert str(disks.from_words(**words).overlay) == f"/images/web.qcow2.vmacro-{ID}", "beside its base, nowhere else"
    with pytest.raises(DiskError, match=said):
        disks.from_words(**{**words, **change})


def test_verbs_refuse_what_is_no_word() -> None:
    wrong: list[disk_verbs.Arguments] = [{}, {"id": 7}, {"id": "x" * 501}]
    for args in wrong:
        with pytest.raises(DiskError):
            disk_verbs.VERBS["disk-look"](args)


def test_a_base_is_known_by_its_note_as_long_as_nobody_touches_it(tmp_path: Path) -> None:
    copy = copy_in(tmp_path)
    assert disks.look(copy) == {"exists": True, "same": False, "overlay": False, "bytes": disks.look(copy)["bytes"]}
    with pytest.raises(DiskError, match="still written to"):
        disks.freeze(copy)
    copy.overlay.write_bytes(b"")
    disks.freeze(copy)
    disks.freeze(copy)
    assert disks.look(copy)["same"] is True
    other = disks.from_words("0123456789ab", str(copy.base), "qcow2")
    assert disks.look(other)["same"] is False
    copy.base.write_bytes(b"changed")
    assert disks.look(copy)["same"] is False
    with pytest.raises(DiskError, match="written to after it was frozen"):
        disks.freeze(copy)
    with pytest.raises(DiskError, match="is not the guest's"):
        disks.lay(copy)


@pytest.mark.parametrize("note", ["", "not JSON", "[]", '{"id": "ab12cd34ef56"}'])
def test_a_note_that_says_nothing_is_none(tmp_path: Path, note: str) -> None:
    copy = copy_in(tmp_path)
    copy.note.write_text(note)
    assert disks.look(copy)["same"] is False


def test_remove_takes_only_what_is_known(tmp_path: Path) -> None:
    copy = copy_in(tmp_path)
    disks.remove(copy)
    assert copy.base.exists(), "nobody has frozen it"
    copy.overlay.write_bytes(b"")
    disks.freeze(copy)
    disks.remove(copy)
    assert not list(tmp_path.iterdir())
