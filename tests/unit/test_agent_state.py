"""What the agent knows of a move: who has the guest, and what a killed agent leaves to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from guest_agent import state
from guest_agent.lease import Lease
from guest_agent.protocol import ProtocolError
from guest_agent.state import Arrival, Claim, State, claimed

ASKED = {"move": "web-1", "by": "me@here", "seconds": 60}


def test_one_move_has_the_guest_and_may_ask_again() -> None:
    first = claimed(None, ASKED)
    again = claimed(first, {**ASKED, "seconds": 600})
    assert (again.move, again.since_s) == ("web-1", first.since_s) and again.until_s > first.until_s
    with pytest.raises(ProtocolError, match="move web-1 of me@here has it for") as refused:
        claimed(first, {**ASKED, "move": "web-2"})
    assert refused.value.code == "claimed"


def test_a_claim_that_is_over_is_nobodys() -> None:
    old = Claim("web-1", "me@here", state.now_s() - 60, state.now_s() - 1)
    assert old.over and claimed(old, {**ASKED, "move": "web-2"}).move == "web-2"


@pytest.mark.parametrize(
    "wrong",
    [
        {"move": "a b"},
        {"move": 7},
        {"by": "x" * 81},
        {"by": "line\nbreak"},
        {"seconds": 0},
        {"seconds": True and "60"},
        {"seconds": 10**9},
    ],
)
def test_odd_claims_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ProtocolError) as refused:
        claimed(None, {**ASKED, **wrong})
    assert refused.value.code == "bad-args"


def test_the_next_agent_knows_what_the_last_one_knew(tmp_path: Path) -> None:
    kept = State(
        Lease("10.50.1.97", 24, "10.50.1.1", "10.50.1.1", 3600),
        ("10.50.2.10", "fd50:2::1"),
        Arrival("channel", "10.50.3.9", "10.50.1.97", "10.50.1.1", 2, 300, 400),
        7,
        Claim("web-1", "me@here", 10.0, 20.0),
    )
    kept.save(tmp_path / "state.json")
    assert state.load(tmp_path / "state.json") == kept
    assert state.load(tmp_path / "none.json") == State()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"lease": 1}', "\x00" * 50, '{"lease": {"address": "a"}}'])
def test_a_broken_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert state.load(tmp_path / "state.json") == State()
