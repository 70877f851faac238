"""What the host side may be asked to do with disks: messages in, messages out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from vmacro.host import disks, files, pools
from vmacro.host.dispatch import Handler, handler
from vmacro.wire import host_verbs
from vmacro.wire.host_verbs import BaseFacts, Disk, Fetch, Fetching, Files, Paths, Serve, Served, Stop
from vmacro.wire.messages import Nothing


class DiskVerbs:
    """`folders`: where disks may lie; asked for each verb, since pools come and go."""

    def __init__(self, folders: Callable[[], Collection[str]]) -> None:
        self._folders = folders

    def handlers(self) -> tuple[Handler, ...]:
        """One for each verb about disks."""
        return (
            handler(host_verbs.DISK_FILES, self._files),
            handler(host_verbs.DISK_LOOK, self._look),
            handler(host_verbs.DISK_SERVE, self._serve),
            handler(host_verbs.DISK_FETCH, self._fetch),
            handler(host_verbs.DISK_FETCHED, self._fetched),
            handler(host_verbs.DISK_CREATE_OVERLAY, self._create_overlay),
            handler(host_verbs.DISK_STOP, self._stop),
            handler(host_verbs.DISK_REMOVE, self._remove),
        )

    def _files(self, args: Paths) -> Files:
        return Files(tuple(seen for path in args.paths if (seen := files.look(path)) is not None))

    def _look(self, disk: Disk) -> BaseFacts:
        with disks.opened(disk, self._folders) as copy:
            return disks.look(copy)

    def _serve(self, args: Serve) -> Served:
        with disks.opened(args.disk, self._folders) as copy:
            return Served(disks.serve(copy, args.address, args.reader))

    def _fetch(self, args: Fetch) -> Nothing:
        with disks.opened(args.disk, self._folders) as copy:
            disks.fetch(copy, args.address, args.port, args.tls_name, args.bytes_s)
        return Nothing()

    def _fetched(self, disk: Disk) -> Fetching:
        with disks.opened(disk, self._folders) as copy:
            return disks.fetched(copy)

    def _create_overlay(self, disk: Disk) -> Nothing:
        with disks.opened(disk, self._folders) as copy:
            disks.create_overlay(copy)
        return Nothing()

    def _stop(self, args: Stop) -> Nothing:
        with disks.opened(args.disk, self._folders) as copy:
            disks.stop(copy, args.drop_overlay)
        return Nothing()

    def _remove(self, disk: Disk) -> Nothing:
        with disks.opened(disk, self._folders) as copy:
            disks.remove(copy)
        return Nothing()


def of_libvirt(uri: str) -> DiskVerbs:
    """Disks in the pools of that libvirt."""
    return DiskVerbs(partial(pools.folders, uri))
