"""Whether a copy gets anywhere: on made-up passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from vmacro.model.facts import CopyProgress
from vmacro.model.nouns import Policy
from vmacro.planning.convergence import FULL_THROTTLE, GIVE_UP_AFTER, WARN_AFTER, allowed_downtime_ms, judge

MIB = 1 << 20
PLAIN = Policy(auto_converge=False, max_downtime_ms=300)


def passes(remaining_mib: Iterable[float], rate_mib_s: float = 10.0, throttle: int = 0) -> list[CopyProgress]:
    return [
        CopyProgress(1000 * n, 256 * MIB, int(left * MIB), 0, n + 1, 9.0, rate_mib_s, throttle)
        for n, left in enumerate(remaining_mib)
    ]


def test_the_pause_asked_for_grows_only_where_the_copy_does_not_converge() -> None:
    asked = [allowed_downtime_ms(n, 300) for n in range(1, 20)]
    assert asked[:10] == [20, 20, 20, 40, 40, 40, 80, 80, 80, 160] and asked == sorted(asked) and asked[-1] == 300
    assert allowed_downtime_ms(0, 300) == 20 and allowed_downtime_ms(10_000, 60_000) == 60_000
    assert allowed_downtime_ms(1, 5) == 5, "never over the policy"


def test_a_copy_that_shrinks_is_left_alone() -> None:
    shrinking = passes([256 / 2**n for n in range(20)])
    assert all(not judge(shrinking[:n], PLAIN).text for n in range(20))


def test_a_guest_that_dirties_as_fast_as_the_link_takes_is_told_of_early_and_given_up_later() -> None:
    stuck = passes([256] + [40] * 30)
    told = next(n for n in range(31) if judge(stuck[:n], PLAIN).text)
    ended = next(n for n in range(31) if judge(stuck[:n], PLAIN).hopeless)
    assert told == WARN_AFTER + 2 and ended == GIVE_UP_AFTER + 2
    text = judge(stuck[:ended], PLAIN).text
    assert "dirties 9.0 MiB/s, 10.0 MiB/s are sent" in text and "4000 ms, 300 are allowed" in text


def test_what_fits_into_the_pause_needs_not_shrink() -> None:
    assert not judge(passes([256] + [2] * 30), PLAIN).text, "2 MiB at 10 MiB/s are 200 ms"


def test_the_bound_itself_is_allowed() -> None:
    assert not judge(passes([256] + [3] * 30), PLAIN).text, "3 MiB at 10 MiB/s are 300 ms"
    assert judge(passes([256] + [0.2] * 30, rate_mib_s=0.5), PLAIN).text, "400 ms on a slow link"


def test_what_is_compressed_takes_less_time_than_its_bytes() -> None:
    stuck = [replace(p, memory_mib_s=30.0) for p in passes([256] + [8.9] * 30)]
    assert not judge(stuck, PLAIN).text, "8.9 MiB at 30 MiB/s of memory are less than 300 ms"
    assert "a pause of 890 ms" in judge([replace(p, memory_mib_s=0.0) for p in stuck], PLAIN).text


def test_one_good_pass_gives_a_copy_more_time() -> None:
    """Counted from the pass before the last ones: what was earlier is forgotten, and every later one counts."""
    assert not judge(passes([256, 100, 100, 80, 80]), PLAIN).text
    assert not judge(passes([256, 100, 80, 100, 100]), PLAIN).text
    assert judge(passes([256, 100, 91, 91, 91]), PLAIN).text
    assert judge(passes([256, 400, 100, 91, 91, 91]), PLAIN).text, "the gain before them is no merit of theirs"
    unknown = [replace(p, dirty_mib_s=0.0) for p in passes([256] + [40] * 10)]
    assert judge(unknown, PLAIN).text.startswith("the copy does not converge: the guest 10.0 MiB/s are sent")


def test_while_the_guest_is_being_slowed_down_there_is_hope() -> None:
    slowing = Policy(auto_converge=True)
    assert judge(passes([256] + [40] * 30, throttle=50), slowing).text
    assert not judge(passes([256] + [40] * 30, throttle=50), slowing).hopeless
    assert judge(passes([256] + [40] * 30, throttle=FULL_THROTTLE), slowing).hopeless


@pytest.mark.parametrize("few", [[], [256.0], [256.0, 40.0]])
def test_too_little_is_known_at_first(few: list[float]) -> None:
    assert not judge(passes(few), PLAIN).text
    assert not judge(passes([256] + [40] * 30, rate_mib_s=0), PLAIN).text, "no rate yet"
