"""Which findings a lab's real domains and hosts have provoked: all but those of docs/testing.md's table."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FINDINGS = ROOT / "vmacro/planning/findings.toml"
# Labs that know a finding by its words, as people do.
BY_ITS_WORDS = {
    "already-there": "test_refusals.py::test_already_there",
    "destination-unreachable": "test_refusals.py::test_an_unreachable_destination",
    "guest-claimed": "test_orchestrator.py::test_two_operators_at_once",
    "moved-since": "test_evacuation.py::test_who_was_moved_by_hand_meanwhile_is_left_where_it_is",
}


def literals() -> set[str]:
    """All strings that stand in the lab's tests, but for docstrings."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests/lab").glob("*.py")]
    return {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def unprovoked() -> set[str]:
    section = (ROOT / "docs/testing.md").read_text().partition("## Findings on real libvirt")[2].partition("\n## ")[0]
    return {code for row in re.findall(r"^\| (`.+?`) \|", section, re.M) for code in re.findall(r"`([a-z0-9-]+)`", row)}


def test_each_finding_is_provoked_for_real_or_its_reason_is_written_down() -> None:
    known, seen = set(tomllib.loads(FINDINGS.read_text())), literals()
    provoked = {code for code in known if any(text == code or text.startswith(f"{code}: ") for text in seen)}
    provoked |= set(BY_ITS_WORDS)
    assert known - provoked == unprovoked()


def test_what_knows_a_finding_by_its_words_is_there() -> None:
    for where in BY_ITS_WORDS.values():
        file, _, name = where.partition("::")
        assert f"def {name}(" in (ROOT / "tests/lab" / file).read_text(), where
