"""The operator's own executables, as they are and as they should not be."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract import certifies
from tests.support import eventually
from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.hooks import MOST_SAID, Executables, why_not
from vmacro.errors import HookError
from vmacro.model.facts import HookEnd

TOLD = '{"version": 1, "guest": "web"}'
Write = Callable[..., str]


@pytest.fixture
def hook(tmp_path: Path) -> Write:
    def written(script: str, mode: int = 0o755, first: str = "#!/bin/sh") -> str:
        path = tmp_path / "hook"
        path.write_text(f"{first}\n{script}\n")
        path.chmod(mode)
        return str(path)

    return written


@certifies("Hooks.run")
def test_it_is_told_of_the_move_and_what_it_says_is_kept(hook: Write) -> None:
    end = Executables().run(hook("cat; echo done >&2"), TOLD, 5)
    assert (end.code, end.late) == (0, False)
    assert json.loads(end.said.partition("}")[0] + "}") == json.loads(TOLD) and end.said.endswith("done")
    assert 0 <= end.took_ms < 5000


@certifies("Hooks.run")
def test_in_memory_it_is_told_the_same() -> None:
    fake = FakeWorld()
    assert fake.hooks.run("/hook", TOLD, 5) == HookEnd(0, 5, "") and fake.hooks.ran == [("/hook", TOLD)]
    fake.hooks.ends["/hook"] = HookEnd(-9, 0, "", late=True)
    assert fake.hooks.run("/hook", TOLD, 5) == HookEnd(-9, 5000, "", late=True)
    fake.hooks.missing.add("/hook")
    with pytest.raises(HookError):
        fake.hooks.run("/hook", TOLD, 5)


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -TERM $$", -15)])
def test_how_it_ends_is_told(hook: Write, script: str, code: int) -> None:
    assert Executables().run(hook(script), TOLD, 5).code == code


def test_at_its_deadline_it_is_ended_with_all_that_it_has_started(hook: Write, tmp_path: Path) -> None:
    began = time.monotonic()
    end = Executables().run(hook(f"echo begun; (sleep 60; echo $$) & echo $! > {tmp_path}/pid; sleep 60"), TOLD, 0.5)
    assert end.late and end.code == -9 and end.said == "begun" and time.monotonic() - began < 5
    child = int((tmp_path / "pid").read_text())
    eventually(lambda: not _runs(child), "the end of what it had started")


def test_what_it_leaves_behind_neither_keeps_us_nor_goes_on(hook: Write, tmp_path: Path) -> None:
    """A child that holds its output open."""
    began = time.monotonic()
    end = Executables().run(hook(f"sleep 60 & echo $! > {tmp_path}/pid; echo over"), TOLD, 30)
    assert (end.code, end.late, end.said) == (0, False, "over") and time.monotonic() - began < 10
    child = int((tmp_path / "pid").read_text())
    eventually(lambda: not _runs(child), "the end of what it had started")


def test_of_a_flood_the_beginning_is_kept_and_nothing_rules_a_terminal(hook: Write) -> None:
    end = Executables().run(hook("printf '\\033[31mred'; head -c 3000000 /dev/zero | tr '\\0' x"), TOLD, 20)
    assert (end.code, end.late) == (0, False)
    assert len(end.said) <= MOST_SAID and "\x1b" not in end.said and "red" in end.said


def test_one_that_does_not_listen_is_no_trouble(hook: Write) -> None:
    assert Executables().run(hook("exec <&-; exit 0"), "x" * 500_000, 5).code == 0


def test_nothing_of_our_environment_is_its_own(hook: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMACRO_DATABASE_URL", "postgresql://me:secret@b1/journal")
    end = Executables().run(hook("env; pwd"), TOLD, 5)
    assert "secret" not in end.said and "VMACRO" not in end.said and end.said.endswith("/")


@pytest.mark.parametrize(
    ("mode", "why"), [(0o775, "0775: others"), (0o757, "0757: others"), (0o644, "0644: is not executable")]
)
def test_who_can_be_changed_by_others_is_not_run(hook: Write, mode: int, why: str) -> None:
    if why.endswith("executable") or os.geteuid() == 0:
        with pytest.raises(HookError, match=why):
            Executables().run(hook("touch /nowhere", mode), TOLD, 5)
    assert why in why_not(Path(hook("exit 0", mode)))


def test_what_is_no_executable_is_said_before_it_is_run(hook: Write, tmp_path: Path) -> None:
    assert "absolute" in why_not(Path("hook")) and "no file" in why_not(tmp_path)
    assert "No such file" in why_not(tmp_path / "none") and why_not(Path(hook("exit 0"))) == ""
    with pytest.raises(HookError, match="cannot be run"):
        Executables().run(hook("exit 0", first="#!/no/such/program"), TOLD, 5)


def test_who_can_put_another_in_its_place_could_have_that_run(hook: Write, tmp_path: Path) -> None:
    """Also where the folder is that of a link to it, or above its own."""
    theirs = tmp_path / "theirs"
    within = theirs / "within"
    within.mkdir(parents=True)
    (within / "hook").write_text("#!/bin/sh\n")
    (within / "hook").chmod(0o755)
    (within / "link").symlink_to(hook("exit 0"))
    for path in (within / "hook", within / "link"):
        assert why_not(path) == ""
        for folder, mode in ((theirs, 0o777), (within, 0o777), (within, 0o775)):
            folder.chmod(mode)
            assert "others than its owner may write" in why_not(path)
            folder.chmod(0o755)
        within.chmod(0o1777)
        assert why_not(path) == "", "others may add to it, and change nothing"
        within.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(theirs, 12345, 0)
            assert "neither root's nor ours" in why_not(path)
            os.chown(theirs, 0, 0)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
