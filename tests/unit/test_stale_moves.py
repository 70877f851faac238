"""A move that has left something to be told outside, and its guest has moved again since."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vmacro.api
from tests.unit.town import PATIENCE_S, Town
from vmacro.errors import ConfigurationError
from vmacro.model.facts import HookEnd
from vmacro.model.moves import Ending
from vmacro.model.nouns import Hooks

HOOK = "/usr/local/sbin/told"


def with_a_hook_that_fails(town: Town, session: vmacro.api.Session) -> str:
    """A move of g1 to berlin-1 that ends well but for that; the hook is mended then."""
    town.fake.inventory = replace(town.fake.inventory, hooks=Hooks(after=(HOOK,)))
    town.fake.hooks.ends[HOOK] = HookEnd(1, 5, "", False)
    first = session.migrate("g1", "berlin/berlin-1").result(PATIENCE_S)
    assert first.outcome.ending == Ending.INCOMPLETE and first.outcome.remains
    town.fake.hooks.ends.clear()
    return first.move_id


@pytest.mark.parametrize("state", ["running", "paused", "shut off"])
def test_a_guest_that_has_moved_again_is_left_alone(town: Town, session: vmacro.api.Session, state: str) -> None:
    """What the first move has not told is told of a place where the guest is no more; and where it was then, nothing
    stands still that only remains."""
    first = with_a_hook_that_fails(town, session)
    hooks, domains = town.fake.hooks, town.fake.hosts["bucharest"].domains
    again = session.migrate("g1", "bucharest").result(PATIENCE_S)
    assert again.outcome.ending == Ending.MOVED
    domains["g1"] = there = replace(domains["g1"], state=state)
    told = len(hooks.ran)
    for how in (session.resume, session.abort):
        with pytest.raises(ConfigurationError, match=f"guest g1 has moved again since, by {again.move_id}"):
            how(first).result(PATIENCE_S)
    assert domains["g1"] == there and len(hooks.ran) == told


def test_one_that_has_rolled_back_since_changes_nothing(town: Town, session: vmacro.api.Session) -> None:
    first = with_a_hook_that_fails(town, session)
    gate = town.gate("agent.prepare", "g1")
    cancelled = session.migrate("g1", "bucharest")
    gate.wait_until_reached()
    cancelled.cancel()
    gate.open()
    assert cancelled.result(PATIENCE_S).outcome.ending == Ending.ROLLED_BACK
    assert session.resume(first).result(PATIENCE_S).outcome.ending == Ending.MOVED


@pytest.mark.parametrize("state", ["running", "paused", "shut off"])
def test_a_guest_that_somebody_has_taken_back_is_no_remains(
    town: Town, session: vmacro.api.Session, state: str
) -> None:
    """By hand, so that no journal knows."""
    first = with_a_hook_that_fails(town, session)
    here, there = town.fake.hosts["bucharest"].domains, town.fake.hosts["berlin-1"].domains
    here["g1"] = taken = replace(there.pop("g1"), state=state)
    for destination_answers in (True, False):
        town.fake.hosts["berlin-1"].reachable = destination_answers
        outcome = session.resume(first).result(PATIENCE_S).outcome
        assert (outcome.ending, outcome.remains) == (Ending.INCOMPLETE, True)
        assert "it may have gone back since" in outcome.reason
        assert here["g1"] == taken
