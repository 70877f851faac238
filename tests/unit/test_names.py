"""To what a name is to lead, and how long an old address lingers. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmacro.model.names import NameFacts, NameView, RecordSet
from vmacro.model.nouns import Policy
from vmacro.planning.names import LINGER_S, LONGEST_FOLLOWED_S, addresses_wanted, linger_s

OLD, NEW, OLDER, OTHER = "10.1.0.9", "10.2.0.9", "10.3.0.9", "10.9.9.9"
OLD6, NEW6, OTHER6 = "fd00:1::9", "fd00:2::9", "fd00:9::9"
ALL_OLD = {OLD, OLDER, OLD6, ""}


def facts(*addresses: str, ttl_s: int = 30) -> NameFacts:
    four, six = (tuple(sorted(a for a in addresses if (":" in a) == v6)) for v6 in (False, True))
    return NameFacts("www.example.net", RecordSet(four, ttl_s), RecordSet(six, ttl_s))


@pytest.mark.parametrize(
    ("seen", "present", "wanted"),
    [
        ((OLD,), (NEW,), (NEW,)),
        ((NEW,), (NEW,), (NEW,)),
        ((OLD, OLD6), (NEW, NEW6), (NEW, NEW6)),
        ((NEW, OLD6), (NEW, NEW6), (NEW, NEW6)),
        ((OLD,), (NEW, NEW6), (NEW,)),
        ((OLD6,), (NEW, NEW6), (NEW6,)),
        ((OLD, OLD6), (NEW,), (NEW,)),
        ((OLD6,), (NEW,), None),
        ((OLD, OTHER), (NEW,), (NEW, OTHER)),
        ((OLDER,), (NEW,), (NEW,)),
        ((OLD, OLDER), (NEW,), (NEW,)),
        ((OTHER,), (NEW,), None),
        ((OLD, OTHER6), (NEW, NEW6), None),
        ((OLD, OTHER6), (NEW,), (NEW, OTHER6)),
        ((OTHER, OLD6), (NEW,), None),
        ((), (NEW,), None),
    ],
    ids=[
        "moved",
        "done already",
        "both families",
        "half done",
        "no AAAA is added",
        "no A is added",
        "the AAAA goes where there is no IPv6",
        "but not the last record",
        "others' records stay",
        "a move before was not told",
        "nor taken back",
        "somebody else's",
        "somebody else's AAAA",
        "an AAAA of somebody's where the guest has no IPv6",
        "an A of somebody's where the guest has no IPv6 any more",
        "nobody's",
    ],
)
def test_a_name_is_led_to_where_its_guest_is(
    seen: tuple[str, ...], present: tuple[str, ...], wanted: tuple[str, ...] | None
) -> None:
    assert addresses_wanted(facts(*seen), ALL_OLD, present) == (None if wanted is None else tuple(sorted(wanted)))


ADDRESSES = st.lists(st.sampled_from([OLD, NEW, OLDER, OTHER, OLD6, NEW6, OTHER6]), unique=True)


@given(ADDRESSES, st.sampled_from([(NEW,), (NEW, NEW6)]))
def test_it_is_done_once_and_takes_nothing_from_others(seen: list[str], present: tuple[str, ...]) -> None:
    wanted = addresses_wanted(facts(*seen), ALL_OLD, present)
    if wanted is None:
        return
    assert wanted and not set(wanted) & ALL_OLD
    assert {OTHER, OTHER6} & set(seen) == {OTHER, OTHER6} & set(wanted)
    assert addresses_wanted(facts(*wanted), ALL_OLD, present) == wanted


def view(ttl_s: int) -> NameView:
    return NameView("www.example.net", facts(OLD, ttl_s=ttl_s))


def test_an_old_address_lingers_as_long_as_others_keep_the_names() -> None:
    assert linger_s(Policy(), ()) == linger_s(Policy(), [view(5)]) == LINGER_S
    assert linger_s(Policy(), [view(5), view(300)]) == 300
    assert linger_s(Policy(), [view(1 << 30)]) == LONGEST_FOLLOWED_S, "whatever a name server says"
    assert linger_s(Policy(), [NameView("www.example.net", None, "silent")]) == LINGER_S


@pytest.mark.parametrize("said", [0.0, 7.0, 86_400.0])
def test_the_policy_comes_first(said: float) -> None:
    assert linger_s(Policy(linger_s=said), [view(300)]) == said
