"""Guests' own disks at one host, in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from vmacro.drivers.fake.state import BASE_BYTES, Effect, FakeDisks, FakeFetch, FakeHost
from vmacro.errors import HostError
from vmacro.model.facts import BaseFacts, DiskCopy, Fetching, FileFacts
from vmacro.model.nouns import Host
from vmacro.wire import host_verbs

if TYPE_CHECKING:
    from vmacro.drivers.fake.world import FakeWorld

PORT = 49215


class FakeHostDisks:
    """Implements ports.HostDisks. A base that is fetched is complete at the second look."""

    def __init__(self, world: FakeWorld, name: str) -> None:
        self._world, self._name = world, name

    def files(self, paths: tuple[str, ...]) -> tuple[FileFacts, ...]:
        with self._host("files") as host:
            return tuple(_at(host, path) for path in paths)

    def look(self, disk: DiskCopy) -> BaseFacts:
        with self._host("look") as host:
            known, overlay = host.disks.bases.get(disk.base), disk.overlay in host.disks.overlays
            return BaseFacts(known is not None, known == disk.id, overlay, BASE_BYTES if known is not None else 0)

    def serve(self, disk: DiskCopy, reader: Host) -> int:
        with self._host("serve") as host:
            if disk.overlay not in host.disks.overlays or disk.base not in host.disks.bases:
                raise self._refused(f"{disk.base}: is not there, or still written to")
            host.disks.bases[disk.base] = disk.id
            host.disks.serving[disk.id] = reader.name
            return PORT

    def fetch(self, disk: DiskCopy, source: Host, port: int, bytes_s: int) -> None:
        with self._host("fetch") as host:
            known = host.disks.bases.get(disk.base)
            if known not in (None, disk.id):
                raise self._refused(f"{disk.base}: is here already, and is not the guest's")
            under_way = host.disks.fetching.get(disk.id)
            if known is None and (under_way is None or not self._served(disk, under_way)):
                host.disks.fetching[disk.id] = FakeFetch(source.name)

    def fetched(self, disk: DiskCopy) -> Fetching:
        with self._host("fetched") as host:
            if _same(host.disks, disk):
                return Fetching(True, BASE_BYTES)
            under_way = host.disks.fetching.get(disk.id)
            if under_way is None:
                return Fetching(False, 0, "nothing is under way")
            if not self._served(disk, under_way):
                return Fetching(False, under_way.bytes, f"{under_way.source} serves it no more")
            under_way.bytes += BASE_BYTES // 2
            if under_way.bytes < BASE_BYTES:
                return Fetching(False, under_way.bytes)
            del host.disks.fetching[disk.id]
            host.disks.bases[disk.base] = disk.id
            return Fetching(True, BASE_BYTES)

    def create_overlay(self, disk: DiskCopy) -> None:
        with self._host("create_overlay") as host:
            if not _same(host.disks, disk):
                raise self._refused(f"{disk.base}: is not the guest's")
            if self._is_open(host, disk.overlay):
                raise self._refused(f"{disk.overlay}: somebody writes to it")
            host.disks.overlays.add(disk.overlay)

    def stop(self, disk: DiskCopy, drop_overlay: bool = False) -> None:
        with self._host("stop") as host:
            host.disks.serving.pop(disk.id, None)
            host.disks.fetching.pop(disk.id, None)
            if drop_overlay:
                host.disks.overlays.discard(disk.overlay)

    def remove(self, disk: DiskCopy) -> None:
        self.stop(disk, drop_overlay=True)
        with self._host("remove") as host:
            if _same(host.disks, disk):
                del host.disks.bases[disk.base]

    def _served(self, disk: DiskCopy, fetch: FakeFetch) -> bool:
        source = self._world.hosts[fetch.source]
        return source.reachable and source.disks.serving.get(disk.id) == self._name

    def _is_open(self, host: FakeHost, overlay: str) -> bool:
        """By a domain here, or by a copy on its way."""
        coming = [h.domains[d] for h in self._world.hosts.values() for d, to in h.leaving.items() if to == self._name]
        return any(d.source == overlay for found in (*host.domains.values(), *coming) for d in found.disks)

    def _host(self, effect: str) -> AbstractContextManager[FakeHost]:
        return self._world.reached(Effect(f"disk.{effect} {self._name}", self._name), "no SSH")

    def _refused(self, text: str) -> HostError:
        return HostError(f"host {self._name}: its host side refused: {text}")


def _at(host: FakeHost, path: str) -> FileFacts:
    if path in host.disks.bases:
        return FileFacts(path, host_verbs.PLAIN, BASE_BYTES, BASE_BYTES)
    return host.files.get(path, FileFacts(path, host_verbs.ABSENT))


def _same(disks: FakeDisks, disk: DiskCopy) -> bool:
    return disks.bases.get(disk.base) == disk.id
