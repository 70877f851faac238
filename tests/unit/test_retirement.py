"""No address goes that a connection needs, and none stays that none needs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from guest_agent.retirement import retire
from tests.unit.guest_fakes import AWAY, AWAY6, HOME, World, at_home, connection, lease
from vmacro.wire.agent_verbs import Connection, Retired
from vmacro.wire.messages import ProtocolError

FOLLOWER, STUCK = connection(1, HOME, AWAY), connection(2, HOME)
WITHDRAWN = [f"withdraw initial {HOME}", f"withdraw {HOME}"]
GONE = [f"move out {HOME}", "forget round trips"]


@pytest.fixture
def away(tmp_path: Path) -> World:
    """Moved from HOME to AWAY, with HOME kept and announced."""
    world = at_home(tmp_path)
    world.guest.state.lease = lease(AWAY)
    world.kernel.main, world.kernel.kept, world.kernel.announced = AWAY, [HOME], {7: HOME}
    return world


def retired(world: World, address: str = HOME, force: bool = False) -> Retired:
    return asyncio.run(retire(world.guest, address, force))


def test_an_address_that_nobody_needs_is_withdrawn_and_then_removed(away: World) -> None:
    away.kernel.open = [FOLLOWER]
    assert retired(away) == Retired(True, 0)
    assert away.log == [*WITHDRAWN, *GONE]
    assert away.kernel.open == [replace(FOLLOWER, subflows=FOLLOWER.subflows[1:])]


@pytest.mark.parametrize("needing", [STUCK, connection(0, HOME)], ids=["MPTCP", "plain TCP"])
def test_an_address_that_a_connection_needs_stays_for_all_that_use_it(away: World, needing: Connection) -> None:
    away.kernel.open = [FOLLOWER, needing]
    assert retired(away) == Retired(False, 1)
    assert away.log == [] and FOLLOWER in away.kernel.open, "it is the way by which followers go on following"
    assert needing in away.kernel.open and away.kernel.kept == [HOME] and away.kernel.announced == {7: HOME}


def test_force_cuts_who_needs_it_and_nobody_else(away: World) -> None:
    away.kernel.open = [FOLLOWER, STUCK]
    assert retired(away, force=True) == Retired(True, 0)
    assert away.log == [f"cut {HOME} of 2", *WITHDRAWN, *GONE], "who follows is not cut"
    assert [c.token for c in away.kernel.open] == [1] and away.kernel.kept == []


def test_connections_elsewhere_keep_nothing(away: World) -> None:
    away.kernel.open = [connection(3, AWAY)]
    assert retired(away).retired


def test_a_join_that_is_not_established_yet_does_not_make_a_follower(away: World) -> None:
    initial, joining = FOLLOWER.subflows
    away.kernel.open = [replace(FOLLOWER, subflows=(initial, replace(joining, established=False)))]
    assert retired(away) == Retired(False, 1)


def test_a_follower_by_ipv6_counts_as_one(away: World) -> None:
    away.kernel.known6 = {AWAY6: True}
    away.kernel.open = [connection(1, HOME, AWAY6)]
    assert retired(away).retired


@pytest.mark.parametrize("present", [AWAY, AWAY6])
def test_the_present_addresses_are_never_retired(away: World, present: str) -> None:
    away.kernel.known6 = {AWAY6: True}
    with pytest.raises(ProtocolError) as refused:
        retired(away, present, force=True)
    assert refused.value.code == "in-use" and away.log == []


def test_a_kernel_that_cannot_cut_leaves_followers_where_they_are(away: World) -> None:
    away.kernel.can_cut = False
    away.kernel.open = [FOLLOWER, STUCK]
    assert retired(away) == Retired(False, 1)
    assert away.kernel.open == [FOLLOWER, STUCK]
    with pytest.raises(ProtocolError) as refused:
        retired(away, force=True)
    assert refused.value.code == "kernel" and away.log == [], "nothing is withdrawn under connections that live on"


def test_what_was_prepared_is_no_longer_once_it_is_retired(away: World) -> None:
    away.guest.state.prepared = (HOME, "")
    assert retired(away).retired
    assert away.guest.state.prepared == ("", "") == away.restarted().guest.state.prepared


def test_another_address_that_is_prepared_stays_so(away: World) -> None:
    away.guest.state.prepared = ("10.3.0.9", "")
    assert retired(away).retired
    assert away.guest.state.prepared == ("10.3.0.9", "")


def test_nothing_is_retired_before_there_is_a_lease(away: World) -> None:
    away.guest.state.lease = None
    with pytest.raises(ProtocolError) as refused:
        retired(away)
    assert refused.value.code == "not-ready"


def test_who_needs_an_old_address_is_remembered_until_it_follows(away: World) -> None:
    away.kernel.open = [FOLLOWER, STUCK, connection(0, HOME)]
    retired(away)
    assert away.guest.stuck == {2}
    away.kernel.joins(AWAY, 2)
    retired(away)
    assert away.guest.stuck == set()


def test_it_may_be_asked_again(away: World) -> None:
    assert retired(away) == retired(away) == Retired(True, 0)
