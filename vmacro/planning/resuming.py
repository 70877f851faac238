"""What a further attempt at a move need not do again. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from vmacro.errors import InterruptedMoveError
from vmacro.model.moves import Ending, Noted, Outcome, Phase

_UP_TO_ARRIVAL = [phase.value for phase in (Phase.SURVEY, Phase.DISKS, Phase.PREPARE, Phase.COPY)]
_ALWAYS_AGAIN = {phase.value for phase in (Phase.CLEAN, Phase.UNDO)}


def inherited(steps: Iterable[Noted], outcome: Outcome | None) -> list[Noted]:
    """Of the steps of earlier attempts, and of how the last one ended (None: it did not).

    An attempt that was rolling back, or had to, goes on doing so: an error before the arrival stays one. In all
    other cases what went wrong is tried again.
    """
    known = [step for step in steps if step.name not in _ALWAYS_AGAIN]
    if outcome is not None and outcome.ending != Ending.ROLLED_BACK:
        return list(takewhile(lambda s: s.error is None, known))
    kept = [s for s in known if s.error is None or s.name in _UP_TO_ARRIVAL]
    if outcome is None or any(s.error is not None for s in kept):
        return kept
    # Rolled back, by an error that the journal does not have: it could not be written.
    failed = next(name for name in _UP_TO_ARRIVAL if name not in {s.name for s in kept})
    return [*kept, Noted(failed, error=InterruptedMoveError(outcome.reason, outcome.hint))]
