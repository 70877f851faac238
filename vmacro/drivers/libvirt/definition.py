"""What a domain's definitions name on their host, out of libvirt's XML (formatdomain). Pure.

Some of it moves by itself: the guest's own disks (planning/disks.py), NVRAM and a TPM's state (QEMU sends their
contents along), and what is one and the same everywhere, such as disks on Ceph.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vmacro.drivers.libvirt import devices, pages, taking
from vmacro.drivers.libvirt.xml import DISKS, attribute, chain, in_one_line, memory_mib, parse
from vmacro.model.definitions import (
    ADDRESS,
    DEVICE,
    FILE,
    FILTER,
    NETWORK,
    PORT_GROUP,
    SECRET,
    VOLUME,
    Definition,
    Need,
    Stay,
)
from vmacro.model.domains import LONGEST_PATH
from vmacro.wire import fields

_REMOVABLE = ("cdrom", "floppy")
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
# What a disk by network, or one that reserves, names on its host beside its source.
_BESIDE = (
    ("host", "socket", "socket"),
    ("config", "file", "settings"),
    ("identity", "keyfile", "key"),
    ("knownHosts", "path", "known hosts"),
    ("reservations/source", "path", "helper"),
)
_NODES = (("numatune/*", "nodeset"), ("devices/memory/source/nodemask", ""))
# Files by the place where they are named: an attribute, or the text. The others are made where there are none yet.
_FILES = (
    ("os/nvram/source", "dev", "NVRAM"),
    ("devices/memory/source/path", "", "memory module"),
    ("devices/lease/target", "path", "lease"),
    ("devices/shmem/server", "path", "shared memory's server"),
    ("devices/graphics[@type='sdl']", "xauth", "key to the display"),
    ("devices/audio[@type='oss']/input", "dev", "sound"),
    ("devices/audio[@type='oss']/output", "dev", "sound"),
    ("devices/audio[@type='pipewire']", "runtimeDir", "sound"),
    ("blkiotune/device/path", "", "limit of a disk"),
)
_MADE = (
    ("os/nvram", "", "NVRAM"),
    ("os/nvram/source", "file", "NVRAM"),
    ("os/varstore", "path", "NVRAM"),
    ("devices/tpm/backend/source", "path", "TPM's state"),
    ("devices/pstore/path", "", "crash records"),
    ("devices/audio[@type='file']", "path", "sound"),
    ("devices/interface/backend", "logFile", "card's log"),
)
_ARGUMENTS = ("commandline", "override")
_LIBVIRTS_OWN = ("/libvirt/qemu/channel/", "/lib/libvirt/qemu/nvram/")
_SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?\Z")


def definition(live: str, stored: str, **kept: Any) -> Definition:
    """`live` is the XML of the domain as it is, `stored` of what it will be, '' for a transient one; `kept` is the rest
    of it (model/definitions.py). Raises ValueError."""
    now, next = parse(live), parse(stored) if stored else None
    both = [now, *([next] if next is not None else [])]
    processor, needs = now.find("cpu"), _merged(now, next)
    found = {
        "emulator": now.findtext("devices/emulator", ""),
        "arch": attribute(now.find("os"), "type", "arch"),
        "machine": attribute(now.find("os"), "type", "machine"),
        "accelerator": now.get("type", ""),
        "processor": in_one_line(processor) if processor is not None else "",
        "memory_mib": memory_mib(now),
        "pages": [fields.encode(each) for each in pages.most(*map(pages.of, both))],
        "huge_mib": sum(pages.of(now).values()),
        "cpus": max(_highest(root, ("vcpu", "cpuset"), ("cputune/*", "cpuset")) for root in both),
        "nodes": max(
            _highest(root, ("numatune/*", "nodeset"), ("devices/memory/source/nodemask", "")) for root in both
        ),
        "arguments": any(root.find(f"{_QEMU}{kind}/*") is not None for root in both for kind in _ARGUMENTS),
        "needs": [fields.encode(need) for need in needs if _is_plain(need.name)],
        "unread": [f"{need.what}: {need.name}" for need in needs if not _is_plain(need.name)],
        "labels": list(dict.fromkeys(model for root in both for model in _labels(root))),
        "stays": [fields.encode(stay) for stay in _stays(now, next)],
        "devices": [fields.encode(device) for device in dict.fromkeys(d for root in both for d in devices.of(root))],
    }
    return fields.decode(Definition, {**found, **kept}, "definition")


def _merged(now: ElementTree.Element, next: ElementTree.Element | None) -> list[Need]:
    """Each need once, in the order in which the definitions have them; without what moves with the guest."""
    moving = {_path(disk) for disk in now.iterfind("devices/disk") if _is_its_own(disk)}  # of these disks.py decides
    found: dict[tuple[str, str], Need] = {}
    for is_live, root in ((True, now), (False, next)):
        for need in _needs(root, is_live) if root is not None else ():
            if not need.name or (need.kind == FILE and need.name in moving):
                continue
            known = found.get(need.key, replace(need, optional=True))
            found[need.key] = replace(
                known,
                live=known.live or is_live,
                next=known.next or not is_live,
                optional=known.optional and need.optional,
                read=known.read or need.read,
            )
    return list(found.values())


def _is_plain(name: str) -> bool:
    """Whether it can be asked for. File names that people have brought with them may have any space in them."""
    return len(name) <= LONGEST_PATH and name.isprintable()


def _labels(root: ElementTree.Element) -> Iterator[str]:
    """Of the domain, and of single disks and ports."""
    models = (label.get("model", "none") for label in root.iter("seclabel"))
    return (model for model in models if model != "none")


def _needs(root: ElementTree.Element, is_live: bool) -> Iterator[Need]:
    yield from _of_firmware(root)
    for disk in root.iterfind("devices/disk"):
        yield from _of_disk(disk, is_live)
    for card in root.iterfind("devices/interface"):
        yield from _of_card(card)
    for graphics in root.iterfind("devices/graphics"):
        yield from _of_graphics(graphics)
    for port in ("serial", "parallel", "console", "channel", "redirdev", "smartcard", "rng/backend"):
        for element in root.iterfind(f"devices/{port}"):
            yield from _of_port(port.partition("/")[0], element)
    yield from _of_others(root)


def _of_others(root: ElementTree.Element) -> Iterator[Need]:
    for secret in root.iterfind("devices/tpm/backend/encryption"):
        yield Need(SECRET, secret.get("secret", ""), "TPM's key")
    for backend in root.iterfind("devices/rng/backend"):
        if backend.get("model") == "random" and backend.text:
            yield Need(FILE, backend.text.strip(), "random numbers")
    for entry in root.iterfind("sysinfo[@type='fwcfg']/entry"):
        yield Need(FILE, entry.get("file", ""), f"firmware's {entry.get('name', '')}", read=True)
    for where, name, what in _FILES:
        for element in root.iterfind(where):
            yield Need(FILE, ((element.get(name) if name else element.text) or "").strip(), what)
    for where, name, what in _MADE:
        for element in root.iterfind(where):
            yield from _folder((element.get(name) if name else element.text) or "", what)
    yield from taking.of(root)


def _of_firmware(root: ElementTree.Element) -> Iterator[Need]:
    """A template is what a new NVRAM is made of, wherever there is none yet."""
    single = (("loader", "firmware"), ("kernel", "kernel"), ("initrd", "initrd"), ("dtb", "device tree"))
    for tag, what in single:
        if path := root.findtext(f"os/{tag}", "").strip():
            yield Need(FILE, path, what, read=tag == "loader")
    if template := attribute(root.find("os"), "nvram", "template"):
        yield Need(FILE, template, "NVRAM template")
    for table in root.iterfind("os/acpi/table"):
        yield Need(FILE, (table.text or "").strip(), "ACPI table")


def _of_disk(disk: ElementTree.Element, is_live: bool) -> Iterator[Need]:
    device, target, source = disk.get("device", "disk"), attribute(disk, "target", "dev"), disk.find("source")
    if source is None:
        return
    what, optional = f"{device} {target}", _may_be_missing(device, source.get("startupPolicy", ""), is_live)
    read = device in _REMOVABLE or disk.find("readonly") is not None
    if path := _path(disk):
        yield Need(FILE, path, what, optional=optional, read=read)
        if not _is_its_own(disk):
            yield from (Need(FILE, below, f"below {what}", optional=optional, read=read) for below in chain(disk))
    elif source.get("pool"):
        yield Need(VOLUME, f"{source.get('pool')}/{source.get('volume', '')}", what, optional=optional)
    for tag, name, purpose in _BESIDE:
        for found in source.iterfind(tag):
            yield Need(FILE, found.get(name, ""), f"{purpose} of {what}", optional=optional)
    for parent in (disk, source):
        for tag, purpose in (("auth", "login"), ("encryption", "key")):
            secret = parent.find(f"{tag}/secret")
            if secret is not None:
                name = secret.get("uuid") or f"{secret.get('type', '')}:{secret.get('usage', '')}"
                yield Need(SECRET, name, f"{purpose} of {what}")


def _may_be_missing(device: str, policy: str, is_live: bool) -> bool:
    """libvirt's qemuDomainCheckDiskStartupPolicy: at a migration it takes media out, and a disk that QEMU has told of
    must be there; what is `requisite` must be there at a start."""
    if is_live:
        return device in _REMOVABLE and policy in ("optional", "requisite")
    return policy == "optional"


def _of_card(card: ElementTree.Element) -> Iterator[Need]:
    what = f"card {attribute(card, 'mac', 'address')}"
    kind, network = card.get("type", ""), attribute(card, "source", "network")
    device = attribute(card, "source", "bridge") or attribute(card, "source", "dev")
    if network:
        yield Need(NETWORK, network, what)
        if group := attribute(card, "source", "portgroup"):
            yield Need(PORT_GROUP, f"{network}/{group}", what)
    elif device and kind not in ("hostdev", "vdpa"):
        yield Need(DEVICE, device, what)
    if kind == "vhostuser" and attribute(card, "source", "mode") == "server":
        yield from _folder(attribute(card, "source", "path"), what)
    elif kind == "vhostuser":
        yield Need(FILE, attribute(card, "source", "path"), what)
    if kind == "server":
        yield Need(ADDRESS, attribute(card, "source", "address"), what)
    for local in card.iterfind("source/local"):
        yield Need(ADDRESS, local.get("address", ""), what)
    if script := attribute(card, "script", "path"):
        yield Need(FILE, script, f"script of {what}")
    if kind == "ethernet" and attribute(card, "target", "dev") and card.find("target[@managed='no']") is not None:
        yield Need(DEVICE, attribute(card, "target", "dev"), what)
    for named in card.iterfind("filterref"):
        yield Need(FILTER, named.get("filter", ""), what)


def _of_graphics(graphics: ElementTree.Element) -> Iterator[Need]:
    what = graphics.get("type", "graphics").upper()
    listens = graphics.findall("listen")
    for listen in listens:
        if listen.get("type") == "network" and listen.get("network"):
            yield Need(NETWORK, listen.get("network", ""), what)
        elif listen.get("type") == "address" and listen.get("address"):
            yield Need(ADDRESS, listen.get("address", ""), what)
        elif listen.get("type") == "socket":
            yield from _folder(listen.get("socket", ""), what)
    for gl in graphics.iterfind("gl"):
        yield Need(FILE, gl.get("rendernode", ""), f"{what}'s renderer")
    if not listens and graphics.get("listen"):
        yield Need(ADDRESS, graphics.get("listen", ""), what)


def _of_port(port: str, element: ElementTree.Element) -> Iterator[Need]:
    """A file is made where there is none, in its folder; the host's devices are not."""
    kind = element.get("type", "")
    yield from _folder(attribute(element, "log", "file"), port)
    for source in element.iterfind("source"):
        path, binds = source.get("path", ""), source.get("mode") == "bind"
        if kind in ("dev", "pipe") or (kind == "unix" and not binds):
            yield Need(FILE, path, port)
        elif kind in ("file", "unix"):
            yield from _folder(path, port)
        elif kind in ("tcp", "udp") and binds and source.get("host"):
            yield Need(ADDRESS, source.get("host", ""), port)


def _folder(path: str, what: str) -> Iterator[Need]:
    """Of what is made in it. libvirt's own (/run/libvirt/qemu/channel/3-web for a domain) it makes itself."""
    folder = path.rpartition("/")[0]
    if folder and not any(own in path for own in _LIBVIRTS_OWN):
        yield Need(FILE, folder, f"folder for {what}")


def _stays(now: ElementTree.Element, next: ElementTree.Element | None) -> Iterator[Stay]:
    """Each once; that of the persistent definition only where the live one has none like it."""
    live = dict.fromkeys(devices.staying(now))
    yield from (Stay(what, why, live=True) for what, why in live)
    later = dict.fromkeys(devices.staying(next)) if next is not None else {}
    yield from (Stay(what, why, live=False) for what, why in later if (what, why) not in live)


def _is_its_own(disk: ElementTree.Element) -> bool:
    """One that the guest alone writes to."""
    plain = disk.get("device", "disk") in DISKS and disk.find("readonly") is None
    return plain and disk.find("shareable") is None and disk.get("type") != "network"


def _path(disk: ElementTree.Element) -> str:
    return attribute(disk, "source", "file") or attribute(disk, "source", "dev") or attribute(disk, "source", "dir")


def _highest(root: ElementTree.Element, *where: tuple[str, str]) -> int:
    """How many there must be for sets such as `0-3,^2,8` to mean something; 0 where none is named. They are attributes
    of this name, or, without one, text."""
    sets = [(e.get(name) if name else e.text) or "" for path, name in where for e in root.iterfind(path)]
    spans = [span for each in sets for span in each.split(",")]
    found = (_SPAN.match(span.strip()) for span in spans)
    return max((int(m[2] or m[1]) + 1 for m in found if m is not None), default=0)
