"""Guests' own disks in memory: which bases a host has, by id, and which overlays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vmacro.errors import HostError
from vmacro.model.facts import BaseFacts, Disk, DiskCopy, DomainFacts, Fetching
from vmacro.model.nouns import Host

BASE_BYTES = 64 << 20


@dataclass
class FakeDisks:
    """`bases`: id by path, '' for one that nobody has frozen; `open`: an overlay that a copy writes to."""

    bases: dict[str, str] = field(default_factory=dict)
    overlays: set[str] = field(default_factory=set)
    serving: set[str] = field(default_factory=set)
    fetching: dict[str, int] = field(default_factory=dict)


class FakeHostDisks:
    """Implements ports.HostDisks. A base comes in as many looks as it takes."""

    def __init__(self, disks: FakeDisks, name: str, effect: Callable[[str], None]) -> None:
        self._disks, self._name, self._effect = disks, name, effect

    def look(self, disk: DiskCopy) -> BaseFacts:
        self._effect("disk.look")
        known = self._disks.bases.get(disk.base)
        there = disk.overlay in self._disks.overlays
        return BaseFacts(known is not None, known == disk.id, there, BASE_BYTES if known is not None else 0)

    def serve(self, disk: DiskCopy) -> int:
        self._effect("disk.serve")
        if disk.overlay not in self._disks.overlays:
            raise HostError(f"host {self._name}: its side refused 'disk-serve': still written to")
        self._disks.bases[disk.base] = disk.id
        self._disks.serving.add(disk.id)
        return 49215

    def fetch(self, disk: DiskCopy, source: Host, port: int, bytes_s: int) -> None:
        self._effect("disk.fetch")
        if self._disks.bases.get(disk.base) != disk.id:
            self._disks.fetching.setdefault(disk.id, 0)

    def fetched(self, disk: DiskCopy) -> Fetching:
        self._effect("disk.fetched")
        if disk.id not in self._disks.fetching:
            known = self._disks.bases.get(disk.base) == disk.id
            return Fetching(known, BASE_BYTES if known else 0, "" if known else "nothing is under way")
        self._disks.fetching[disk.id] += BASE_BYTES // 2
        if self._disks.fetching[disk.id] < BASE_BYTES:
            return Fetching(False, self._disks.fetching[disk.id])
        del self._disks.fetching[disk.id]
        self._disks.bases[disk.base] = disk.id
        return Fetching(True, BASE_BYTES)

    def lay(self, disk: DiskCopy) -> None:
        self._effect("disk.lay")
        if self._disks.bases.get(disk.base) != disk.id:
            raise HostError(f"host {self._name}: its side refused 'disk-lay': not the guest's")
        self._disks.overlays.add(disk.overlay)

    def stop(self, disk: DiskCopy, drop_overlay: bool = False) -> None:
        self._effect("disk.stop")
        self._disks.serving.discard(disk.id)
        self._disks.fetching.pop(disk.id, None)
        if drop_overlay:
            self._disks.overlays.discard(disk.overlay)

    def remove(self, disk: DiskCopy) -> None:
        self.stop(disk, drop_overlay=True)
        if self._disks.bases.get(disk.base) == disk.id:
            del self._disks.bases[disk.base]


def frozen(domain: DomainFacts, disks: tuple[DiskCopy, ...], here: FakeDisks) -> DomainFacts:
    """The domain as it runs on overlays."""
    by_target = {d.target: d for d in disks}
    here.overlays |= {d.overlay for d in disks}
    return replace(domain, disks=tuple(_below(d, by_target.get(d.target)) for d in domain.disks))


def _below(disk: Disk, copy: DiskCopy | None) -> Disk:
    if copy is None or disk.source == copy.overlay:
        return disk
    return replace(disk, source=copy.overlay, format="qcow2", backing=copy.base, backing_format=copy.format)
