"""What a further attempt at a move takes over from earlier attempts. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, TypeVar

from vmacro.errors import InterruptedMoveError, JournalError, TakenOverError
from vmacro.model.moves import Ending, Noted, Outcome, Phase
from vmacro.model.nouns import Guest, Host, Inventory

Found = TypeVar("Found")
_UP_TO_ARRIVAL = [p.value for p in (Phase.HOOKS_BEFORE, Phase.SURVEY, Phase.DISKS, Phase.PREPARE, Phase.COPY)]
_ALWAYS_AGAIN = {phase.value for phase in (Phase.CLEAN, Phase.UNDO)}
_BESIDE = {phase.value for phase in (Phase.NAMES, Phase.HOOKS_AFTER)}  # what follows does not wait for them to succeed


def inherited(steps: Iterable[Noted], outcome: Outcome | None) -> list[Noted]:
    """The steps that need not be run again. `outcome`: how the last attempt ended, None where it was cut off.

    An attempt that was rolling back, or had to, goes on doing so: its error before the arrival is kept. In all other
    cases the step that failed is tried again. Hooks that the inventory has had only since then are too late to run
    before anything is touched, and count as run.
    """
    own = (s for s in steps if not isinstance(s.error, TakenOverError))  # which says nothing of the move
    known = [s for s in own if s.name not in _ALWAYS_AGAIN and (s.error is None or s.name not in _BESIDE)]
    if known and Phase.HOOKS_BEFORE.value not in {s.name for s in known}:
        known = [Noted(Phase.HOOKS_BEFORE.value, True), *known]
    if outcome is not None and outcome.ending != Ending.ROLLED_BACK:
        return list(takewhile(lambda s: s.error is None, known))
    kept = [s for s in known if s.error is None or s.name in _UP_TO_ARRIVAL]
    if outcome is None or any(s.error is not None for s in kept):
        return kept
    # It rolled back because of an error that is not in the journal: it could not be written. Of which phase does not
    # matter: the first of these that the plan has, as not all have disks, ends this attempt, too.
    left = [name for name in _UP_TO_ARRIVAL if name not in {s.name for s in kept}]
    return [*kept, *(Noted(name, error=InterruptedMoveError(outcome.reason, outcome.hint)) for name in left)]


def as_the_inventory_has_it(found: Found, inventory: Inventory) -> Found:
    """A plan or a carriage that a row of the journal describes, with each host and guest replaced by the inventory's of
    that name: how a host is reached is no row's to say. Raises JournalError where the inventory has none."""
    known: Any = _known(found, inventory)
    return known  # type: ignore[no-any-return]


def _known(found: Any, inventory: Inventory) -> Any:
    if isinstance(found, (Host, Guest)):
        kind, known = ("host", inventory.host) if isinstance(found, Host) else ("guest", inventory.guest)
        here = known(found.name)
        if here is None:
            text = f"{kind} {found.name}: the journal speaks of it, and the inventory has none; nothing was changed"
            raise JournalError(text, f"put {kind}s.{found.name} back into the inventory")
        return here
    if isinstance(found, tuple):
        return tuple(_known(item, inventory) for item in found)
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        names = [f.name for f in dataclasses.fields(found)]
        return dataclasses.replace(found, **{name: _known(getattr(found, name), inventory) for name in names})
    return found
