"""A guest's own disks: what goes ahead, what comes back, what stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from vmacro.drivers.fake import BASE_BYTES, FakeWorld
from vmacro.drivers.fake.host_disks import FakeHostDisks
from vmacro.model.events import DiskProgress
from vmacro.model.facts import DiskCopy, Fetching
from vmacro.model.moves import Ending, Outcome
from vmacro.model.nouns import Policy
from vmacro.planning import checks, planner
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import measured, migrate

Result = TypeVar("Result")


class Straight:
    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        return act()


def moved(fake: FakeWorld, to: int, move_id: str, **bounds: object) -> Outcome:
    policy = Policy(**bounds)  # type: ignore[arg-type]
    wanted = Request(fake.inventory.guests[0], fake.inventory.sites[to], SEAMLESS, policy)
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=True)
    findings = checks.check(wanted, seen)
    assert not [f for f in findings if "disk" in f.code or "pool" in f.code or "volume" in f.code], findings
    return migrate.run_move(planner.plan(move_id, fake.inventory, wanted, seen), fake.world, Straight())


def notes(fake: FakeWorld) -> list[str]:
    return [e.text for e in fake.events if e.kind in ("note", "disk.progress") and "disk" in e.text]


def test_the_base_goes_ahead_once_and_the_way_back_needs_it_no_more() -> None:
    fake = FakeWorld()
    fake.give_disk()
    assert moved(fake, 1, "web-1").ending == Ending.MOVED
    (disk,) = fake.hosts["berlin"].domains["web"].disks
    assert disk.backing == "/images/web.qcow2" and disk.source.startswith("/images/web.qcow2.vmacro-")
    assert notes(fake)[-1] == f"disk vda: 100 % of {BASE_BYTES >> 20} MiB"
    assert "/images/web.qcow2" in fake.hosts["bucharest"].disks.bases, "the source keeps its copy"
    fake.events.clear()
    assert moved(fake, 0, "web-2").ending == Ending.MOVED
    assert fake.running_at() == ["bucharest"] and fake.hosts["bucharest"].domains["web"].disks == (disk,)
    assert notes(fake) == ["disk vda: bucharest has its base still; only what was written since goes"]


def test_a_base_on_its_way_is_asked_for_often_and_told_of_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, fetched, percents = FakeWorld(), FakeHostDisks.fetched, [*range(90, -10, -10)]

    def slowly(side: FakeHostDisks, disk: DiskCopy) -> Fetching:
        return Fetching(False, -(-BASE_BYTES * percents.pop() // 100)) if percents else fetched(side, disk)

    monkeypatch.setattr(FakeHostDisks, "fetched", slowly)
    fake.give_disk()
    assert moved(fake, 1, "web-1").ending == Ending.MOVED
    seen = [(e.wall_ns, e.what) for e in fake.events if isinstance(e.what, DiskProgress)]
    assert [what.percent for _, what in seen] == [0, 40, 80, 100]
    assert (seen[0][1].bytes_sent, seen[-1][1].bytes_sent) == (0, BASE_BYTES)
    assert {what.bytes_total for _, what in seen} == {BASE_BYTES}
    assert [round((at - seen[0][0]) / 1e9, 3) for at, _ in seen[:3]] == [0, 2, 4], "two seconds from one to the next"


def test_the_source_gives_its_copy_up_if_asked() -> None:
    fake = FakeWorld()
    fake.give_disk()
    assert moved(fake, 1, "web-1", remove_source_disks=True).ending == Ending.MOVED
    assert not fake.hosts["bucharest"].disks.bases and not fake.hosts["bucharest"].disks.overlays
    fake.events.clear()
    assert moved(fake, 0, "web-2").ending == Ending.MOVED
    assert "100 %" in notes(fake)[-1]


def test_an_interruption_leaves_the_guest_and_no_half_of_a_base() -> None:
    fake = FakeWorld()
    fake.give_disk()

    def interrupt(effect: str) -> None:
        fake.interrupted = fake.interrupted or effect == "disk.fetched berlin"

    fake.before = interrupt
    outcome = moved(fake, 1, "web-1")
    assert outcome.ending == Ending.ROLLED_BACK and "interrupted" in outcome.reason
    there = fake.hosts["berlin"].disks
    assert not (there.bases or there.overlays or there.fetching or fake.hosts["bucharest"].disks.serving)
    fake.interrupted, fake.before = False, lambda _effect: None
    assert moved(fake, 1, "web-2").ending == Ending.MOVED, "on the overlay that the first try made"
