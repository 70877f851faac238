"""HostDisks: a guest's own disk, sent ahead from host to host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.contract import certifies
from tests.contract.stages import Stage
from vmacro.errors import HostError
from vmacro.model.facts import BaseFacts, DiskCopy, Fetching
from vmacro.ports import HostDisks
from vmacro.wire.host_verbs import ABSENT, PLAIN

PATIENCE_S = 60.0


@pytest.fixture
def source(stage: Stage, scratch: str) -> Iterator[HostDisks]:
    """Of the host where the scratch domain runs."""
    side = stage.world.host_disks(stage.here)
    yield side
    side.stop(stage.disk)


@pytest.fixture
def destination(stage: Stage, scratch: str) -> Iterator[HostDisks]:
    side = stage.world.host_disks(stage.there)
    yield side
    side.stop(stage.disk, drop_overlay=True)


@pytest.fixture
def disk(stage: Stage, scratch: str) -> DiskCopy:
    """Frozen: the scratch domain writes to its overlay."""
    stage.world.hypervisor(stage.here).freeze(scratch, (stage.disk,))
    return stage.disk


def ended(stage: Stage, side: HostDisks, disk: DiskCopy) -> Fetching:
    deadline = stage.world.clock.monotonic_s() + PATIENCE_S
    while not ((found := side.fetched(disk)).done or found.trouble):
        assert stage.world.clock.monotonic_s() < deadline
        stage.world.clock.sleep(0.2)
    return found


@certifies("HostDisks.look", "HostDisks.serve")
def test_a_base_that_is_written_to_is_not_served(stage: Stage, source: HostDisks) -> None:
    seen = source.look(stage.disk)
    assert (seen.exists, seen.same, seen.overlay) == (True, False, False) and seen.bytes > 0
    with pytest.raises(HostError, match=stage.here.name):
        source.serve(stage.disk, stage.there)


@certifies("HostDisks.files")
def test_what_is_at_a_path_is_told_with_its_size(stage: Stage, source: HostDisks, destination: HostDisks) -> None:
    paths = (stage.disk.base, "/nowhere/Büro server.iso")
    here, nowhere = source.files(paths)
    assert (here.path, here.kind, nowhere.path, nowhere.kind) == (paths[0], PLAIN, paths[1], ABSENT)
    assert here.bytes >= 4 << 20 and here.allocated == source.look(stage.disk).bytes
    assert [file.kind for file in destination.files(paths)] == [ABSENT, ABSENT] and source.files(()) == ()


@certifies("HostDisks.look", "HostDisks.serve", "HostDisks.fetch", "HostDisks.fetched", "HostDisks.stop")
def test_a_base_goes_from_host_to_host(stage: Stage, source: HostDisks, destination: HostDisks, disk: DiskCopy) -> None:
    assert destination.look(disk) == BaseFacts(False, False, False, 0)
    port = source.serve(disk, stage.there)
    assert 0 < port < 65536 and source.serve(disk, stage.there) == port
    assert source.look(disk).same and source.look(disk).overlay
    assert not source.look(replace(disk, id="another1")).same
    destination.fetch(disk, stage.here, port, 0)
    destination.fetch(disk, stage.here, port, 0)
    assert ended(stage, destination, disk).done
    seen = destination.look(disk)
    assert (seen.exists, seen.same, seen.overlay, seen.bytes) == (True, True, False, source.look(disk).bytes)
    destination.fetch(disk, stage.here, port, 0)
    assert destination.fetched(disk) == Fetching(True, seen.bytes)
    for side in (source, destination):
        for _ in range(2):
            side.stop(disk)
            assert side.look(disk).same, "a whole base stays"


@certifies("HostDisks.serve", "HostDisks.fetch", "HostDisks.fetched")
def test_a_base_is_read_by_the_host_that_it_is_for_and_by_no_other(
    stage: Stage, source: HostDisks, destination: HostDisks, disk: DiskCopy
) -> None:
    port = source.serve(disk, replace(stage.there, name="another"))
    destination.fetch(disk, stage.here, port, 0)
    failed = ended(stage, destination, disk)
    assert not failed.done and failed.trouble
    destination.fetch(disk, stage.here, source.serve(disk, stage.there), 0)
    assert ended(stage, destination, disk).done


@certifies("HostDisks.create_overlay", "HostDisks.stop", "HostDisks.remove")
def test_overlays_are_made_where_the_base_is_and_go_with_it(
    stage: Stage, source: HostDisks, destination: HostDisks, disk: DiskCopy
) -> None:
    with pytest.raises(HostError, match=stage.there.name):
        destination.create_overlay(disk)
    destination.fetch(disk, stage.here, source.serve(disk, stage.there), 0)
    assert ended(stage, destination, disk).done
    for drops in (False, True):
        destination.create_overlay(disk)
        destination.create_overlay(disk)
        assert destination.look(disk).overlay
        destination.stop(disk, drops)
        assert destination.look(disk).overlay is not drops
    destination.create_overlay(disk)
    for _ in range(2):
        destination.remove(disk)
        assert destination.look(disk) == BaseFacts(False, False, False, 0)


@certifies("HostDisks.create_overlay")
def test_an_overlay_that_somebody_writes_to_is_not_made_anew(stage: Stage, source: HostDisks, disk: DiskCopy) -> None:
    source.serve(disk, stage.there)
    with pytest.raises(HostError):
        source.create_overlay(disk)


@certifies("HostDisks.fetched", "HostDisks.fetch", "HostDisks.stop")
def test_a_fetch_that_fails_says_so_and_may_begin_anew(
    stage: Stage, source: HostDisks, destination: HostDisks, disk: DiskCopy
) -> None:
    nothing = destination.fetched(disk)
    assert not nothing.done and nothing.trouble
    port = source.serve(disk, stage.there)
    source.stop(disk)
    destination.fetch(disk, stage.here, port, 0)
    failed = ended(stage, destination, disk)
    assert not failed.done and failed.trouble
    destination.fetch(disk, stage.here, source.serve(disk, stage.there), 0)
    assert ended(stage, destination, disk).done


@certifies("HostDisks.fetch", "HostDisks.remove", "HostDisks.look")
def test_what_is_not_the_guests_is_neither_overwritten_nor_removed(
    stage: Stage, source: HostDisks, destination: HostDisks, disk: DiskCopy
) -> None:
    stage.backstage.put_file(stage.there, disk.base)
    with pytest.raises(HostError, match="is here already"):
        destination.fetch(disk, stage.here, source.serve(disk, stage.there), 0)
    destination.remove(disk)
    seen = destination.look(disk)
    assert seen.exists and not seen.same
