"""The source's way to the destination: wide for a copy that is compressed, and as it was once the move is over."""

from __future__ import annotations

from contextlib import suppress

from vmacro.errors import HostError, UnknownVerbError
from vmacro.model.moves import Plan
from vmacro.model.nouns import Compression
from vmacro.planning.handoffs import SEAMLESS
from vmacro.ports import World


def widen(plan: Plan, world: World) -> None:
    """Before the copy. Where it cannot be done the pause is longer, and nothing else."""
    if plan.policy.compression == Compression.ZSTD:
        with suppress(HostError):
            world.host_network(plan.source).widen(plan.move_id, plan.destination.address)


def narrow(plan: Plan, world: World) -> None:
    """As the move ends, whoever has widened it. `renumber` does without host sides, and fails for none: there `vmacro
    cleanup` finds what is left. Idempotent. Raises HostError."""
    if plan.policy.compression == Compression.ZSTD:
        with suppress(UnknownVerbError if plan.handoff == SEAMLESS else HostError):
            world.host_network(plan.source).narrow(plan.move_id)
