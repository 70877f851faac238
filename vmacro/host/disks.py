"""Disks of guests on this host: their frozen part goes to other hosts, over NBD with TLS both ways.

A disk that moves is two files of one name at each site: the base, frozen when the guest first left, and an overlay of
what it has written since. The base is copied once; afterwards moves send overlays alone. Beside a base lies a note,
by which hosts know that theirs is the same one, and that nobody has touched it since. What runs here for longer than
a request are units of systemd, which end by themselves if nobody ends them, and see no folder but the pool.

Whoever asks is not believed: files lie directly in the folder of an active pool, are regular ones, and are reached
through the opened folder, so that links lead nowhere (folder.py).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmacro.host.errors import RefusedError
from vmacro.host.folder import Folder
from vmacro.wire import names
from vmacro.wire.host_verbs import BaseFacts, Disk, Fetching
from vmacro.wire.messages import printable

CREDENTIALS = Path("/etc/pki/qemu")  # as libvirt's migrate_tls_x509_cert_dir
PORTS = range(49215, 49151, -1)  # libvirt's own for migrations, from their far end
LONGEST_S = 86_400
MOST_NOTE_BYTES = 4096
OVERLAY_S = 20.0
_PROGRAMS = {"bin", "dev", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "usr"}  # below /
_PLAIN = re.compile(r"""/[^,:%$\\"'\s]+""")  # as systemd takes it


class DiskError(RefusedError):
    """What cannot be done with a disk here, and why."""

    def __init__(self, text: str) -> None:
        super().__init__("disk", text)


@dataclass(frozen=True)
class Copy:
    """One disk's: the folder of its pool, its base's name there, the base's format, and the id that base and overlay
    share. `pools`: the folders of all, since what is below a base may be in another."""

    id: str
    folder: Folder
    name: str
    format: str
    pools: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        """For people, and for programs that open it by themselves."""
        return self.folder.path / self.name

    @property
    def overlay(self) -> str:
        """The name of what the guest writes to."""
        return names.overlay(self.name, self.id)

    @property
    def part(self) -> str:
        """The name of a base that is not complete yet."""
        return f"{self.overlay}.part"

    @property
    def note(self) -> str:
        """The name of what was written down about the base as it was frozen."""
        return names.base_note(self.name)

    def unit(self, what: str) -> str:
        """The systemd unit that serves or fetches it."""
        return f"vmacro-{what}-{self.id}.service"


@contextmanager
def opened(disk: Disk, folders: Callable[[], Collection[str]]) -> Iterator[Copy]:
    """The files here of a disk that another party named. `folders`: where disks may lie. Raises DiskError, OSError, and
    what `folders` raises."""
    path, _, name = disk.base.rpartition("/")
    known = folders()
    if path not in known:
        raise DiskError(f"{disk.base}: lies in no active pool of files here; they are at {', '.join(known) or 'none'}")
    if names.is_base_note(name):
        raise DiskError(f"{disk.base}: is the name of a note, and none of a disk")
    with Folder(path) as folder:
        folder.stat(name)  # refuses what is there and no regular file
        yield Copy(disk.id, folder, name, disk.format, tuple(known))


def look(copy: Copy) -> BaseFacts:
    """What is here of it."""
    here = copy.folder.stat(copy.name)
    overlay = copy.folder.stat(copy.overlay) is not None
    return BaseFacts(here is not None, here is not None and _noted(copy) == copy.id, overlay, _allocated(here))


def freeze(copy: Copy) -> None:
    """The base is written to no more, since the guest has an overlay. Idempotent."""
    if copy.folder.stat(copy.overlay) is None:
        raise DiskError(f"{copy.base}: has no overlay {copy.overlay}, so it is still written to")
    if _noted(copy) != copy.id:
        if _kept(copy).get("id") == copy.id:
            raise DiskError(f"{copy.base}: was written to after it was frozen; the guest's disk may be damaged")
        _note(copy, copy.name)


def serve(copy: Copy, address: str, reader: str) -> int:
    """Let one host read the base, the one with `reader` in its certificate; returns the port. Idempotent."""
    freeze(copy)
    title = f"vmacro: {reader} reads {copy.base} at port "
    known = _property(copy.unit("serve"), "Description")
    port_text = known.removeprefix(title)
    if port_text.isdigit() and _property(copy.unit("serve"), "ActiveState") == "active":
        return int(port_text)
    _reset(copy.unit("serve"))
    trouble = ""
    credentials = f"tls-creds-x509,id=tls0,endpoint=server,dir={CREDENTIALS},verify-peer=yes"
    for port in PORTS:
        command = ["qemu-nbd", "--read-only", "--persistent", "--shared=4", "--format", copy.format]
        command += ["--bind", address, "--port", str(port), "--export-name", copy.id]
        command += ["--object", credentials, "--tls-creds", "tls0"]
        command += ["--object", f"authz-simple,id=reader,identity=CN={reader}", "--tls-authz", "reader"]
        command += ["--fork", str(copy.base)]
        confined = _confined(copy, f"BindReadOnlyPaths={copy.folder.path}")
        trouble = _start(copy.unit("serve"), f"{title}{port}", [*confined, "--service-type=forking"], command)
        if not trouble:
            return port
        _reset(copy.unit("serve"))
        if "in use" not in trouble:
            break
    raise DiskError(f"{copy.base}: cannot be served: {trouble}")


def fetch(copy: Copy, address: str, port: int, tls_name: str, bytes_s: int) -> None:
    """Begin to copy the base from the host that serves it. Idempotent; one that failed is begun anew."""
    if look(copy).same or _property(copy.unit("fetch"), "ActiveState") in ("active", "activating"):
        return
    if copy.folder.stat(copy.name) is not None:
        raise DiskError(f"{copy.base}: is here already, and is not the guest's")
    _reset(copy.unit("fetch"))
    copy.folder.remove(copy.part)
    source = f"driver=nbd,server.type=inet,server.host={address},server.port={port},export={copy.id}"
    command = ["qemu-img", "convert", "-O", copy.format, "-t", "none", "-T", "none"]
    command += ["-r", str(bytes_s)] if bytes_s else []
    command += ["--object", f"tls-creds-x509,id=tls0,endpoint=client,dir={CREDENTIALS}"]
    command += ["--image-opts", f"{source},tls-creds=tls0,tls-hostname={tls_name}", str(copy.folder.path / copy.part)]
    confined = _confined(copy, f"BindPaths={copy.folder.path}", f"ReadWritePaths={copy.folder.path}")
    options = [*confined, "--service-type=exec", "--remain-after-exit"]
    if trouble := _start(copy.unit("fetch"), f"vmacro: fetching {copy.base}", options, command):
        raise DiskError(f"{copy.base}: cannot be fetched: {trouble}")


def fetched(copy: Copy) -> Fetching:
    """How far it is; what has come whole is given its name. `trouble` says why it failed."""
    if (seen := look(copy)).same:
        return Fetching(True, seen.bytes)
    state, sub = (_property(copy.unit("fetch"), key) for key in ("ActiveState", "SubState"))
    if (state, sub) == ("active", "exited"):
        if seen.exists:
            raise DiskError(f"{copy.base}: is here already, and is not the guest's")
        _note(copy, copy.part)  # before it has its name: a base without a note would be in its own way
        copy.folder.rename(copy.part, copy.name)
        _reset(copy.unit("fetch"))
        return Fetching(True, _allocated(copy.folder.stat(copy.name)))
    trouble = "" if state == "active" else _last(copy.unit("fetch")) or f"its unit is {state}"
    return Fetching(False, _allocated(copy.folder.stat(copy.part)), printable(trouble))


def create_overlay(copy: Copy) -> None:
    """A fresh overlay, for a guest that is about to come; an older one is of a state that it has left behind."""
    if not look(copy).same:
        raise DiskError(f"{copy.base}: is not the guest's, or was written to")
    here = copy.folder.descriptor
    target = f"/proc/self/fd/{here}/{copy.overlay}"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(copy.base), "-F", copy.format, target]
    try:
        done = _run(command, keep=(here,), timeout_s=OVERLAY_S)
    except subprocess.TimeoutExpired:
        raise DiskError(f"{copy.folder.path / copy.overlay}: was not made within {OVERLAY_S:g} s") from None
    if done.returncode != 0:
        raise DiskError(f"{copy.folder.path / copy.overlay}: cannot be made: {done.stderr.strip()[-400:]}")


def stop(copy: Copy, drop_overlay: bool) -> None:
    """End what runs for it, and remove what is half done. A base that has come whole stays. Idempotent."""
    for what in ("serve", "fetch"):
        _reset(copy.unit(what))
    copy.folder.remove(copy.part)
    if drop_overlay:
        copy.folder.remove(copy.overlay)


def remove(copy: Copy) -> None:
    """The guest's whole disk, where it is no more. Idempotent."""
    stop(copy, drop_overlay=True)
    if look(copy).same:
        copy.folder.remove(copy.name)
        copy.folder.remove(copy.note)


def _noted(copy: Copy) -> str:
    """The id by its note, where the file is as it was then; '' otherwise."""
    note, now = _kept(copy), copy.folder.stat(copy.name)
    same = now is not None and (note.get("size"), note.get("mtime_ns")) == (now.st_size, now.st_mtime_ns)
    same = same and note.get("format", copy.format) == copy.format  # or a guest's own bytes would be read as a header
    return str(note.get("id", "")) if same else ""


def _kept(copy: Copy) -> dict[str, object]:
    """What the note says; {} where it says nothing."""
    try:
        note = json.loads(copy.folder.read(copy.note, MOST_NOTE_BYTES))
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _note(copy: Copy, file: str) -> None:
    now = copy.folder.stat(file)
    if now is None:
        raise DiskError(f"{copy.folder.path / file}: is not there")
    kept = {"id": copy.id, "format": copy.format, "size": now.st_size, "mtime_ns": now.st_mtime_ns}
    copy.folder.write(copy.note, json.dumps(kept))


def _allocated(file: os.stat_result | None) -> int:
    return file.st_blocks * 512 if file is not None else 0


def _confined(copy: Copy, *pool: str) -> list[str]:
    """What a unit sees: programs, QEMU's certificates and pools, none of which it may write to unless `pool` says so.
    So neither a link that somebody has put there meanwhile nor what an image says is below it leads to the host's."""
    sees = ["ProtectSystem=strict", "NoNewPrivileges=yes", "DevicePolicy=closed"]
    sees += ["CapabilityBoundingSet=CAP_DAC_OVERRIDE"]  # others' /proc/PID/root, which sees all, takes more
    there = (p for p in sorted(Path("/").iterdir()) if p.is_dir() and not p.is_symlink() and p.name not in _PROGRAMS)
    sees += [f"TemporaryFileSystem={p}:ro" for p in there if str(p) not in (str(copy.folder.path), *copy.pools)]
    sees += [f"BindReadOnlyPaths={CREDENTIALS}", "BindReadOnlyPaths=-/etc/ld.so.cache"]
    others = (f for f in copy.pools if f != str(copy.folder.path) and _PLAIN.fullmatch(f))
    return [f"--property={each}" for each in (*sees, *(f"BindReadOnlyPaths=-{f}" for f in others), *pool)]


def _start(unit: str, description: str, options: list[str], command: list[str]) -> str:
    """Why it does not run, in its program's own words, or systemd's where it did not come to that; '' if it runs."""
    words = ["systemd-run", "--quiet", f"--unit={unit}", f"--description={description}", *options]
    words += [f"--property=RuntimeMaxSec={LONGEST_S}", "--property=Nice=5", "--property=IOSchedulingClass=idle"]
    done = _run([*words, "--", *command])
    if done.returncode == 0:
        return ""
    return _last(unit) or printable(done.stderr.strip()[-400:]) or f"systemd-run ended with {done.returncode}"


def _reset(unit: str) -> None:
    for verb in ("stop", "reset-failed"):
        _run(["systemctl", verb, unit])


def _property(unit: str, name: str) -> str:
    return _run(["systemctl", "show", "--value", "--property", name, unit]).stdout.strip()


def _last(unit: str) -> str:
    """What its program said last; systemd's own lines come after that, and say less. The journal may not have it
    yet."""
    _run(["journalctl", "--sync"])
    return _run(["journalctl", "-u", unit, "-n", "2", "-o", "cat", "_TRANSPORT=stdout"]).stdout.strip()[-400:]


def _run(
    command: list[str], keep: tuple[int, ...] = (), timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Nothing of it comes to our own output, which is the channel. QEMU's programs say names that an image has, which
    may be any bytes. `keep`: descriptors that it needs, too. Raises TimeoutExpired."""
    return subprocess.run(command, capture_output=True, text=True, errors="replace", pass_fds=keep, timeout=timeout_s)
