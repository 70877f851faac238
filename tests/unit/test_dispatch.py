"""What of a batch may begin: no limit is ever passed, nothing waits for nothing, and all of it comes to its end."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from vmacro.model.batches import Limits, PlannedMove
from vmacro.planning.dispatch import Load, Waiting, expected_s

HOSTS = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}


def move(guest: str, source: str, destination: str, seconds: float = 10.0) -> PlannedMove:
    return PlannedMove(guest, source, HOSTS[source], destination, HOSTS[destination], 256.0, seconds / 2, seconds)


ROUTES = st.sampled_from([(a, b) for a in HOSTS for b in HOSTS if HOSTS[a] != HOSTS[b]])
LIMITS = st.builds(Limits, st.integers(1, 3), st.integers(1, 4), st.integers(1, 6))


@given(st.lists(ROUTES, max_size=40), LIMITS, st.integers())
def test_no_limit_is_passed_and_all_begin(routes: list[tuple[str, str]], limits: Limits, seed: int) -> None:
    moves = {n: move(f"g{n}", *route) for n, route in enumerate(routes)}
    waiting, chance = Waiting(moves), random.Random(seed)
    under_way: list[int] = []
    begun: list[int] = []
    while len(begun) < len(moves) or under_way:
        load = Load.of(moves[n] for n in under_way)
        taken = waiting.take(load, limits)
        under_way += taken
        begun += taken
        assert Load.of(moves[n] for n in under_way).over(limits) == []
        rest = set(moves) - set(begun)
        assert not any(Load.of(moves[n] for n in under_way).has_room(moves[n], limits) for n in rest), "one could begin"
        assert under_way, "nothing is under way, and nothing begins"
        under_way.remove(chance.choice(under_way))
    assert sorted(begun) == sorted(moves) and len(waiting) == 0


def test_a_busy_link_keeps_nobody_from_another() -> None:
    """The first ten share a link of which two may be used at once: the eleventh does not wait for them."""
    moves = {n: move(f"g{n}", "a1", "b1") for n in range(10)} | {10: move("g10", "a2", "c1")}
    waiting = Waiting(moves)
    assert waiting.take(Load(), Limits(per_host=8, per_link=2, in_all=8)) == [0, 1, 10]


def test_what_is_tried_again_comes_after_the_others() -> None:
    moves = {n: move(f"g{n}", "a1", "b1") for n in range(3)}
    waiting, one = Waiting(moves), Limits(per_host=1, per_link=1, in_all=1)
    assert waiting.take(Load(), one) == [0]
    waiting.back(0, moves[0])
    assert [waiting.take(Load(), one) for _ in range(3)] == [[1], [2], [0]]


def test_a_link_that_is_full_or_a_host_or_all_say_how_long_it_takes() -> None:
    alone = expected_s([move("g", "a1", "b1", 30)], Limits())
    assert alone == 30
    four = [move(f"g{n}", "a1", "b1", 30) for n in range(4)]
    assert expected_s(four, Limits(per_host=4, per_link=4, in_all=4)) == 60, "the link sends 15 s of each"
    assert expected_s(four, Limits(per_host=1, per_link=4, in_all=4)) == 120, "one after another"
    assert expected_s([*four, move("h", "a2", "c1", 30)], Limits(per_host=8, per_link=8, in_all=1)) == 150
    assert expected_s([], Limits()) == 0
