"""A guest's own disks go ahead of it: what it had, frozen, once; what it has written since goes with the guest itself.

A base that the destination has already, untouched since, is not sent again: that is what makes moves back small.
"""

from __future__ import annotations

from vmacro.errors import HostError, InterruptedMoveError, VmacroError
from vmacro.model.facts import DiskCopy
from vmacro.model.moves import Plan
from vmacro.ports import World

POLL_S = 0.5
TELL_EVERY_S = 2.0


def send_ahead(plan: Plan, world: World) -> None:
    """Freeze, and copy what the destination lacks, from host to host. Raises HostError, InterruptedMoveError."""
    world.hypervisor(plan.source).freeze(plan.guest.domain, plan.disks)
    for disk in plan.disks:
        if world.host_disks(plan.destination).look(disk).same:
            text = f"disk {disk.target}: {plan.destination.name} has its base still; only what was written since goes"
            world.tell(plan.move_id, "note", text)
        else:
            _send(plan, world, disk)


def lay(plan: Plan, world: World) -> None:
    """Empty overlays, that the guest's fill as it goes. Raises HostError where somebody has one open."""
    for disk in plan.disks:
        world.host_disks(plan.destination).lay(disk)


def undo(plan: Plan, world: World) -> None:
    """The guest stays, on its overlay; a base that has arrived whole stays where it is. Raises the first error."""
    _stop(plan, world, drop_overlay=True)


def clean(plan: Plan, world: World) -> None:
    """The guest's old disk stays at its source, unless the policy says otherwise. Raises HostError."""
    _stop(plan, world, drop_overlay=False)
    for disk in plan.disks if plan.policy.remove_source_disks else ():
        world.host_disks(plan.source).remove(disk)


def _send(plan: Plan, world: World, disk: DiskCopy) -> None:
    total = world.host_disks(plan.source).look(disk).bytes
    port = world.host_disks(plan.source).serve(disk)
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
    text = f"disk {disk.target}: {percent} % of {total >> 20} MiB"
    world.tell(plan.move_id, "disk.progress", text, percent=percent, bytes_sent=sent, bytes_total=total)


def _stop(plan: Plan, world: World, drop_overlay: bool) -> None:
    troubles: list[VmacroError] = []
    for disk in plan.disks:
        for host, drop in ((plan.source, False), (plan.destination, drop_overlay)):
            try:
                world.host_disks(host).stop(disk, drop)
            except HostError as error:
                troubles.append(error)
    if troubles:
        raise troubles[0]
