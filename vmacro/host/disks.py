"""Disks of guests on this host: their frozen part goes to other hosts, over NBD with TLS both ways.

A disk that moves is two files of one name at each site: the base, frozen when the guest first left, and an overlay of
what it has written since. The base is copied once; afterwards moves send overlays alone. Beside a base lies a note,
by which hosts know that theirs is the same one, and that nobody has touched it since. What runs here for longer than
a request are units of systemd, which end by themselves if nobody ends them.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

FORMATS = ("qcow2", "raw")
CREDENTIALS = Path("/etc/pki/qemu")  # as libvirt's migrate_tls_x509_cert_dir
PORTS = range(49215, 49151, -1)  # libvirt's own for migrations, from their far end
LONGEST_S = 86_400
_ID = re.compile(r"[a-z0-9]{4,32}\Z")


class DiskError(Exception):
    """What cannot be done with a disk here, and why."""


@dataclass(frozen=True)
class Copy:
    """One disk's: its base, the base's format, and the id that base and overlay share."""

    id: str
    base: Path
    format: str

    @property
    def overlay(self) -> Path:
        return self.base.with_name(f"{self.base.name}.vmacro-{self.id}")

    @property
    def part(self) -> Path:
        return self.overlay.with_name(f"{self.overlay.name}.part")

    @property
    def note(self) -> Path:
        return self.base.with_name(f"{self.base.name}.vmacro")

    def unit(self, what: str) -> str:
        return f"vmacro-{what}-{self.id}.service"


def from_words(id: str, base: str, format: str) -> Copy:
    """Raises DiskError for what is no disk of ours."""
    found = Copy(id, Path(base), format)
    if not found.base.is_absolute() or ".." in found.base.parts or not base.isprintable() or "," in base:
        raise DiskError(f"path {base!r}: must be absolute and plain")
    if not _ID.match(id) or format not in FORMATS:
        raise DiskError(f"disk {id!r} of format {format!r}: no such id or format")
    return found


def look(copy: Copy) -> dict[str, object]:
    """What is here of it. `same`: a base with that id, untouched since it was noted; `bytes` that it takes up."""
    here = copy.base.exists()
    return {
        "exists": here,
        "same": here and _noted(copy) == copy.id,
        "overlay": copy.overlay.exists(),
        "bytes": _allocated(copy.base),
    }


def freeze(copy: Copy) -> None:
    """The base is written to no more, since the guest has an overlay. Idempotent."""
    if not copy.overlay.exists():
        raise DiskError(f"{copy.base}: has no overlay {copy.overlay.name}, so it is still written to")
    if _noted(copy) != copy.id:
        if _kept(copy).get("id") == copy.id:
            raise DiskError(f"{copy.base}: was written to after it was frozen; the guest's disk may be damaged")
        _note(copy, copy.base)


def serve(copy: Copy, address: str) -> int:
    """Let hosts with a certificate of ours read the base; returns the port. Idempotent."""
    freeze(copy)
    known = _property(copy.unit("serve"), "Description").rpartition(" ")[2]
    if _property(copy.unit("serve"), "ActiveState") == "active" and known.isdigit():
        return int(known)
    _reset(copy.unit("serve"))
    trouble = ""
    credentials = f"tls-creds-x509,id=tls0,endpoint=server,dir={CREDENTIALS},verify-peer=yes"
    for port in PORTS:
        command = ["qemu-nbd", "--read-only", "--persistent", "--shared=4", "--format", copy.format]
        command += ["--bind", address, "--port", str(port), "--export-name", copy.id]
        command += ["--object", credentials, "--tls-creds", "tls0", "--fork", str(copy.base)]
        if _start(copy.unit("serve"), f"vmacro: reading {copy.base} at port {port}", command, forks=True):
            return port
        trouble = _last(copy.unit("serve"))
        _reset(copy.unit("serve"))
        if "in use" not in trouble:
            break
    raise DiskError(f"{copy.base}: cannot be served: {trouble}")


def fetch(copy: Copy, address: str, port: int, tls_name: str, bytes_s: int) -> None:
    """Begin to copy the base from the host that serves it. Idempotent; one that failed is begun anew."""
    if look(copy)["same"] or _property(copy.unit("fetch"), "ActiveState") in ("active", "activating"):
        return
    if copy.base.exists():
        raise DiskError(f"{copy.base}: is here already, and is not the guest's")
    _reset(copy.unit("fetch"))
    source = f"driver=nbd,server.type=inet,server.host={address},server.port={port},export={copy.id}"
    command = ["qemu-img", "convert", "-O", copy.format, "-t", "none", "-T", "none"]
    command += ["-r", str(bytes_s)] if bytes_s else []
    command += ["--object", f"tls-creds-x509,id=tls0,endpoint=client,dir={CREDENTIALS}"]
    command += ["--image-opts", f"{source},tls-creds=tls0,tls-hostname={tls_name}", str(copy.part)]
    if not _start(copy.unit("fetch"), f"vmacro: fetching {copy.base}", command, forks=False):
        raise DiskError(f"{copy.base}: cannot be fetched: {_last(copy.unit('fetch'))}")


def fetched(copy: Copy) -> dict[str, object]:
    """How far it is; what has come whole is given its name. `trouble` says why it failed."""
    if look(copy)["same"]:
        return {"done": True, "bytes": _allocated(copy.base), "trouble": ""}
    state, sub = (_property(copy.unit("fetch"), key) for key in ("ActiveState", "SubState"))
    if (state, sub) == ("active", "exited"):
        _note(copy, copy.part)  # before it has its name: a base without a note would be in its own way
        copy.part.rename(copy.base)
        _reset(copy.unit("fetch"))
        return {"done": True, "bytes": _allocated(copy.base), "trouble": ""}
    trouble = "" if state == "active" else _last(copy.unit("fetch")) or f"its unit is {state}"
    return {"done": False, "bytes": _allocated(copy.part), "trouble": trouble}


def lay(copy: Copy) -> None:
    """A fresh overlay, for a guest that is about to come; an older one is of a state that it has left behind."""
    if not look(copy)["same"]:
        raise DiskError(f"{copy.base}: is not the guest's, or was written to")
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(copy.base), "-F", copy.format, str(copy.overlay))


def stop(copy: Copy, drop_overlay: bool) -> None:
    """End what runs for it, and remove what is half done. A base that has come whole stays. Idempotent."""
    for what in ("serve", "fetch"):
        _reset(copy.unit(what))
    copy.part.unlink(missing_ok=True)
    if drop_overlay:
        copy.overlay.unlink(missing_ok=True)


def remove(copy: Copy) -> None:
    """The guest's whole disk, where it is no more. Idempotent."""
    stop(copy, drop_overlay=True)
    if look(copy)["same"]:
        copy.base.unlink()
        copy.note.unlink()


def _noted(copy: Copy) -> str:
    """The id by its note, where the file is as it was then; '' otherwise."""
    note = _kept(copy)
    try:
        now = copy.base.stat()
    except OSError:
        return ""
    same = (note.get("size"), note.get("mtime_ns")) == (now.st_size, now.st_mtime_ns)
    return str(note.get("id", "")) if same else ""


def _kept(copy: Copy) -> dict[str, object]:
    """What the note says; {} where it says nothing."""
    try:
        note = json.loads(copy.note.read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _note(copy: Copy, file: Path) -> None:
    now = file.stat()
    fresh = copy.note.with_name(f"{copy.note.name}.new")
    fresh.write_text(json.dumps({"id": copy.id, "size": now.st_size, "mtime_ns": now.st_mtime_ns}))
    fresh.replace(copy.note)


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _start(unit: str, description: str, command: list[str], forks: bool) -> bool:
    kind = "forking" if forks else "exec"
    words = ["systemd-run", "--quiet", f"--unit={unit}", f"--description={description}", f"--service-type={kind}"]
    words += [f"--property=RuntimeMaxSec={LONGEST_S}", "--property=Nice=5", "--property=IOSchedulingClass=idle"]
    words += [] if forks else ["--remain-after-exit"]
    return subprocess.run([*words, "--", *command], capture_output=True).returncode == 0


def _reset(unit: str) -> None:
    for verb in ("stop", "reset-failed"):
        subprocess.run(["systemctl", verb, unit], capture_output=True)


def _property(unit: str, name: str) -> str:
    done = subprocess.run(["systemctl", "show", "--value", "--property", name, unit], capture_output=True, text=True)
    return done.stdout.strip()


def _last(unit: str) -> str:
    done = subprocess.run(["journalctl", "-u", unit, "-n", "2", "-o", "cat"], capture_output=True, text=True)
    return done.stdout.strip()[-400:]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise DiskError(f"{command[0]}: {done.stderr.strip()[-400:]}")
