"""Which disks move with a guest, and what stands against that. Pure.

The base is frozen and copied once. The overlay's name has the base's name and an id, so that a later move knows both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from vmacro.errors import without_subject
from vmacro.model.facts import BaseFacts, Disk, DiskCopy, DomainFacts, HostView, Pool, Survey
from vmacro.model.moves import Finding
from vmacro.planning.request import Request, blocker, source_view, target_view
from vmacro.wire import names
from vmacro.wire.host_verbs import FORMATS

UNFROZEN = "unfrozen"  # the id of a base that has none yet


def new_id(move_id: str, target: str) -> str:
    """An id for a base; one disk frozen twice makes two bases, with two ids."""
    return hashlib.sha256(f"{move_id}/{target}".encode()).hexdigest()[:12]


def local(domain: DomainFacts, pools: Iterable[Pool]) -> list[Disk]:
    """The guest's writable disks that other hosts do not see."""
    known = tuple(pools)
    return [d for d in domain.disks if d.writable and not d.shared and _shared_pool(d, known) is None]


def copies(domain: DomainFacts, pools: Iterable[Pool], move_id: str = "") -> tuple[DiskCopy, ...]:
    """The local disks that can move. `move_id`: the move that freezes those that are not frozen yet; without one, their
    id is UNFROZEN."""
    return tuple(_copy(d, move_id) for d in local(domain, pools) if _can_go(d))


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """Disks that cannot move, and what the destination lacks for those that can."""
    source, target = source_view(survey), target_view(request, survey)
    if source is None or source.domain is None:
        return
    subject = f"guest {request.guest.name}"
    if target is not None and not target.trouble and target.site != source.site:
        for disk in source.domain.disks:
            yield from _is_seen_there(disk, source, target)
    for disk in local(source.domain, source.pools):
        if disk.tied:
            text = f"disk {disk.target} ({disk.source}) is {disk.tied}: a copy of files alone would be another disk"
            yield blocker("disk-kind", subject, text, "put it on storage that both share; or make one plain file of it")
        elif not _can_go(disk):
            text = f"disk {disk.target} ({disk.source}) is a local {disk.kind} of format {disk.format or 'unknown'}"
            yield blocker("disk-kind", subject, text, "qcow2 and raw files move; or put it on storage that both share")
        elif target is not None and not target.trouble and target.site != source.site:
            yield from _at_destination(disk, source, target)


def _is_seen_there(disk: Disk, source: HostView, target: HostView) -> Iterator[Finding]:
    """That a pool is of a kind which others can see does not say that the destination does. Another one under its name
    would give the guest another disk in the midst of its life."""
    here = _shared_pool(disk, source.pools) if not disk.shared else None
    if here is None:
        return
    subject, what = f"host {target.host}", f"where the guest's disk {disk.target} lies"
    there = [p for p in target.pools if (p.path == here.path if disk.kind != "volume" else p.name == here.name)]
    if not there:
        place = f"at {here.path}" if disk.kind != "volume" else f"of the name {here.name!r}"
        text = f"has no active storage pool {place}, {what}: its host shares that ({here.kind}, {here.source})"
        yield blocker("pool-missing", subject, text, "virsh pool-define, pool-start there, with the same <source>")
    elif all((p.kind, p.source) != (here.kind, here.source) for p in there):
        theirs = f"{there[0].kind}, {there[0].source or 'its own'}"
        text = f"its pool {there[0].name!r} ({theirs}) is not {source.host}'s ({here.kind}, {here.source}), {what}"
        hint = "if it is one storage: the same <source> in both pools' definitions"
        yield blocker("pool-missing", subject, text, hint)


def _at_destination(disk: Disk, source: HostView, target: HostView) -> Iterator[Finding]:
    copy, subject = _copy(disk, ""), f"host {target.host}"
    folder = _folder(copy.base)
    for view in (source, target):  # a host side reads and writes in pools alone
        if _pool_at(view, folder) is None:
            known = ", ".join(f"{p.name} at {p.path}" for p in view.pools if p.path) or "none"
            text = f"has no active storage pool at {folder}, where disk {disk.target} lies (its pools: {known})"
            hint = "paths are the same at all hosts: vmacro provision hosts"
            yield blocker("pool-missing", f"host {view.host}", text, hint)
    below = _below(disk)
    for path in below:
        if _pool_at(source, _folder(path)) is None:
            text = (
                f"has no active storage pool at {_folder(path)}, where what is below disk {disk.target} lies ({path})"
            )
            hint = "its host side reads in pools alone: virsh pool-define-as; or virsh blockpull the disk"
            yield blocker("pool-missing", f"host {source.host}", text, hint)
    pool = _pool_at(target, folder)
    if pool is None or _pool_at(source, folder) is None:
        return
    here, there = _base(source, copy), _base(target, copy)
    if here is None or there is None:
        view = source if here is None else target
        trouble = without_subject(view.links_trouble, f"host {view.host}") or "it has none"
        text = f"its host side cannot be asked about disks: {trouble}"
        yield blocker("disk-needs-host-side", f"host {view.host}", text, view.links_hint or "say hosts.*.ssh")
        return
    if there.exists and not there.same:
        text = f"has {copy.base} already, and it is not what the guest's disk {disk.target} was frozen as"
        hint = "move it away, or remove it if you know what it is; on shared storage: a pool of type netfs says so"
        yield blocker("volume-in-the-way", subject, text, hint)
    sent = (source.file(path) for path in below)  # a base is sent with all that it builds on, as one file
    needed = 0 if there.same else here.bytes + sum(file.allocated for file in sent if file is not None)
    if pool.available_bytes < needed:
        text = f"pool {pool.name} has {pool.available_bytes >> 20} MiB free, disk {disk.target} needs {needed >> 20}"
        yield blocker("pool-full", subject, text, "choose another site, or make room")


def _pool_at(view: HostView, folder: str) -> Pool | None:
    return next((p for p in view.pools if p.path == folder), None)


def _base(view: HostView, copy: DiskCopy) -> BaseFacts | None:
    return next((facts for seen, facts in view.bases if seen.base == copy.base), None)


def _copy(disk: Disk, move_id: str) -> DiskCopy:
    base, id = names.base_and_id(disk.source) or ("", "")
    if id and base == disk.backing:
        return DiskCopy(id, disk.target, disk.backing, disk.backing_format)
    return DiskCopy(new_id(move_id, disk.target) if move_id else UNFROZEN, disk.target, disk.source, disk.format)


def _below(disk: Disk) -> tuple[str, ...]:
    """The files on which its base builds."""
    found = disk.chain if _copy(disk, "").base == disk.backing else (disk.backing, *disk.chain)
    return tuple(path for path in found if path)


def _can_go(disk: Disk) -> bool:
    return disk.kind == "file" and disk.format in FORMATS and not disk.tied


def _shared_pool(disk: Disk, pools: Iterable[Pool]) -> Pool | None:
    """The one that a disk lies in."""
    folder, shared = _folder(disk.source), [p for p in pools if p.shared]
    if disk.kind == "volume":
        return next((p for p in shared if p.name == disk.source), None)
    return next((p for p in shared if p.path == folder), None)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
