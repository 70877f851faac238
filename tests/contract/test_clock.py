"""Clock."""

from __future__ import annotations

from tests.contract import certifies
from tests.contract.stages import Stage


@certifies("Clock.wall_ns", "Clock.monotonic_s", "Clock.sleep")
def test_both_clocks_go_on_while_one_sleeps(stage: Stage) -> None:
    clock = stage.world.clock
    wall_ns, monotonic_s = clock.wall_ns(), clock.monotonic_s()
    clock.sleep(0.0625)
    assert clock.wall_ns() - wall_ns >= 62_000_000
    assert clock.monotonic_s() - monotonic_s >= 0.0625
