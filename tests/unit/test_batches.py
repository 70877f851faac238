"""Batches on the fake world, with the real journal, claims, queue and event log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support import eventually
from tests.unit.town import Town
from vmacro import crews, wiring
from vmacro.inventory import Settings
from vmacro.model.batches import Wish
from vmacro.model.events import Event
from vmacro.services.batches import Batches
from vmacro.services.crew import Crew

PATIENCE_S = 60.0


@contextmanager
def at_work(settings: Settings, folder: Path) -> Iterator[tuple[Batches, Crew, list[Event]]]:
    seen: list[Event] = []
    with ExitStack() as stack:
        log = stack.enter_context(wiring.event_log(settings, print))

        def publish(event: Event) -> None:
            seen.append(event)
            log.append(event)

        worlds = stack.enter_context(wiring.drivers(settings))
        working = stack.enter_context(crews.working(settings, worlds, log, publish, print, folder))
        yield stack.enter_context(crews.batches(settings, working.moves, publish)), working.crew, seen


def test_a_site_is_evacuated_and_restored(town: Town, tmp_path: Path) -> None:
    settings = wiring.load(town.file)
    with at_work(settings, tmp_path / "report") as (batches, _crew, seen):
        batch = batches.plan_evacuation("bucharest")
        assert [m.guest for m in batch.moves] == ["g1", "g2", "g3", "g4"] and batch.stays == ()
        batches.begin(batch)
        eventually(lambda: batches.progress(batch.batch_id).wish == Wish.ENDED, "the end", within_s=PATIENCE_S)
        assert batches.progress(batch.batch_id).moved == 4
        print([e.text for e in seen if e.kind.startswith(("try", "batch"))])
        assert not any(town.fake.running_at(g) == ["bucharest"] for g in town.guests)
        back = batches.plan_restore("bucharest")
        batches.begin(back)
        eventually(lambda: batches.progress(back.batch_id).wish == Wish.ENDED, "the end", within_s=PATIENCE_S)
        assert all(town.fake.running_at(g) == ["bucharest"] for g in town.guests)
