"""What a killed agent leaves to the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guest_agent import state
from guest_agent.state import KeptClaim, State
from vmacro.wire.agent_verbs import Arrival, Lease


def test_the_next_agent_knows_what_the_last_one_knew(tmp_path: Path) -> None:
    kept = State(
        Lease("10.50.1.97", 24, "10.50.1.1", "10.50.1.1", 3600),
        ("10.50.2.10", "fd50:2::1"),
        Arrival("channel", "10.50.3.9", "10.50.1.97", "10.50.1.1", 2, 300, 400),
        7,
        KeptClaim("web-1", "me@here", 10.0, 20.0),
    )
    kept.save(tmp_path / "state.json")
    assert state.load(tmp_path / "state.json") == kept
    assert state.load(tmp_path / "none.json") == State()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"lease": 1}', "\x00" * 50, '{"lease": {"address": "a"}}'])
def test_a_broken_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert state.load(tmp_path / "state.json") == State()


def test_an_older_agent_knew_of_no_public_addresses(tmp_path: Path) -> None:
    kept = State(Lease("10.50.1.97", 24, "10.50.1.1", "10.50.1.1", 3600), ("10.50.2.10", ""), None, 7, None)
    kept.save(tmp_path / "state.json")
    older = json.loads((tmp_path / "state.json").read_text())
    del older["public"]
    (tmp_path / "state.json").write_text(json.dumps(older))
    assert state.load(tmp_path / "state.json") == kept
