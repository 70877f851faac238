"""What a host's QEMU says that it can: a program answers as QEMU 10.0 does, of whose schema it has what is read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vmacro.host import emulator
from vmacro.host.errors import RefusedError

PROGRAM = """\
#!{python}
import json, sys
assert sys.argv[1:] == {arguments!r}, sys.argv
text, decoder, asked, answers = sys.stdin.read(), json.JSONDecoder(), [], {answers!r}
while text:
    command, end = decoder.raw_decode(text)
    text = text[end:].strip()
    asked.append(command["execute"])
assert asked == ["qmp_capabilities", "query-qmp-schema", "quit"], asked
print("\\n".join(answers))
"""
GREETING = {"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}


def schema(values: list[str] | None) -> list[dict[str, Any]]:
    """`values`: of multifd-compression; None where there is none. Types have numbers for names."""
    level = {"name": "multifd-zlib-level", "default": None, "type": "int"}
    kind = {"name": "multifd-compression", "default": None, "type": "437"}
    members = [level] if values is None else [level, kind]
    return [
        {"name": "migrate-set-parameters", "ret-type": "0", "meta-type": "command", "arg-type": "212"},
        {"name": "212", "members": members, "meta-type": "object"},
        {"name": "437", "members": [{"name": v} for v in values or []], "meta-type": "enum", "values": values or []},
    ]


def qemu(folder: Path, told: object) -> str:
    """The path of one."""
    over: dict[str, object] = {
        "timestamp": {"seconds": 1, "microseconds": 2},
        "event": "SHUTDOWN",
        "data": {"guest": False},
    }
    said: list[dict[str, object]] = [{**GREETING}, {"return": {}}, {"return": told}, over, {"return": {}}]
    answers = [json.dumps(line) for line in said]
    program = folder / "qemu-system-x86_64"
    program.write_text(PROGRAM.format(python=sys.executable, arguments=[*emulator.ARGUMENTS], answers=answers))
    program.chmod(0o755)
    return str(program)


@pytest.fixture(autouse=True)
def as_whoever_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root becomes nobody else; and Python may take seconds to start."""
    monkeypatch.setattr(emulator, "USER", None)
    monkeypatch.setattr(emulator, "TIMEOUT_S", 120.0)


@pytest.mark.parametrize("values", [["none", "zlib", "zstd"], ["none", "zlib"], None])
def test_it_says_how_it_was_built(tmp_path: Path, values: list[str] | None) -> None:
    assert emulator.compressions(emulator.said_by(qemu(tmp_path, schema(values)))) == tuple(values or ())


@pytest.mark.parametrize("told", [{}, [], [{}], [{"name": "migrate-set-parameters"}], schema(["none"])[:1], "x"])
def test_one_that_says_something_odd_has_said_nothing(tmp_path: Path, told: object) -> None:
    with pytest.raises(RefusedError, match="odd"):
        emulator.compressions(emulator.said_by(qemu(tmp_path, told)))


@pytest.mark.parametrize("line", ["[]", "null", "{", "7"])
def test_nor_one_whose_words_are_no_answers(line: str) -> None:
    with pytest.raises(RefusedError, match="odd"):
        emulator.compressions(line)


@pytest.mark.parametrize("program", ["", "/nowhere/qemu", "/bin/false"])
def test_nor_one_that_does_not_run(program: str) -> None:
    with pytest.raises(RefusedError, match="does not say what it can"):
        emulator.said_by(program)


def test_it_is_asked_once_and_no_hosts_facts_fail_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    paths = iter([qemu(tmp_path, schema(["none", "zstd"])), "/nowhere"])

    def path(uri: str) -> str:
        asked.append(uri)
        return next(paths)

    monkeypatch.setattr(emulator, "path", path)
    able, unknown = emulator.Emulator("qemu:///system"), emulator.Emulator("qemu:///other")
    for _ in range(2):
        assert able.compressions() == ("none", "zstd") and unknown.compressions() == ()
    assert asked == ["qemu:///system", "qemu:///other"]


def test_its_path_is_what_libvirt_says() -> None:
    """libvirt's test driver has no such call: nobody knows then."""
    with pytest.raises(RefusedError, match="which emulator"):
        emulator.path("test:///default")
