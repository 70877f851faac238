"""A guest's own disks: the frozen base is sent ahead of the guest, the overlay with what it has written since moves
with it.

A base that the destination still has is not sent again, which makes moves back small.
"""

from __future__ import annotations

from vmacro.errors import HostError, InterruptedMoveError
from vmacro.model.events import DiskProgress, Note
from vmacro.model.facts import DiskCopy
from vmacro.model.moves import Plan
from vmacro.ports import World
from vmacro.services.troubles import Troubles

POLL_S = 0.5
TELL_EVERY_S = 2.0


def send_ahead(plan: Plan, world: World) -> None:
    """Freeze the disks, and copy bases that the destination lacks from host to host. Raises HostError,
    InterruptedMoveError."""
    world.hypervisor(plan.source).freeze(plan.guest.domain, plan.disks)
    for disk in plan.disks:
        if world.host_disks(plan.destination).look(disk).same:
            text = f"disk {disk.target}: {plan.destination.name} has its base still; only what was written since goes"
            world.tell(plan.move_id, Note(text))
        else:
            _send(plan, world, disk)


def create_overlays(plan: Plan, world: World) -> None:
    """Empty overlays at the destination, which the migration fills. Raises HostError if one is in use."""
    for disk in plan.disks:
        world.host_disks(plan.destination).create_overlay(disk)


def undo(plan: Plan, world: World) -> None:
    """Undo send_ahead(). The guest goes on with its overlay, and a base that has arrived completely is kept. Raises the
    first error."""
    _stop(plan, world, drop_overlay=True)


def let_go(plan: Plan, world: World) -> None:
    """End what runs for the disks, and remove nothing. Raises the first error."""
    _stop(plan, world, drop_overlay=False)


def clean(plan: Plan, world: World) -> None:
    """End what runs for the disks, and remove them from the source if the policy says so. Raises HostError."""
    _stop(plan, world, drop_overlay=False)
    for disk in plan.disks if plan.policy.remove_source_disks else ():
        world.host_disks(plan.source).remove(disk)


def _send(plan: Plan, world: World, disk: DiskCopy) -> None:
    total = world.host_disks(plan.source).look(disk).bytes
    port = world.host_disks(plan.source).serve(disk, plan.destination)
    world.host_disks(plan.destination).fetch(disk, plan.source, port, plan.policy.bandwidth_mib_s << 20)
    told_s = float("-inf")
    while not (seen := world.host_disks(plan.destination).fetched(disk)).done:
        if seen.trouble:
            raise HostError(f"host {plan.destination.name}: disk {disk.target} did not come: {seen.trouble}")
        if world.cancelled():
            raise InterruptedMoveError("interrupted while disks were sent ahead")
        if world.clock.monotonic_s() >= told_s + TELL_EVERY_S:
            told_s = world.clock.monotonic_s()
            _tell(plan, world, disk, seen.bytes, total)
        world.clock.sleep(POLL_S)
    world.host_disks(plan.source).stop(disk)
    _tell(plan, world, disk, total, total)


def _tell(plan: Plan, world: World, disk: DiskCopy, sent: int, total: int) -> None:
    percent = min(100, 100 * sent // total) if total else 0
    world.tell(plan.move_id, DiskProgress(disk.target, percent, sent, total))


def _stop(plan: Plan, world: World, drop_overlay: bool) -> None:
    troubles = Troubles()
    for disk in plan.disks:
        for host, drop in ((plan.source, False), (plan.destination, drop_overlay)):
            with troubles.of(HostError):
                world.host_disks(host).stop(disk, drop)
    troubles.raise_first()
