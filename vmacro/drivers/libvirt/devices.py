"""A domain's devices: what each asks of the hypervisor, and which of them stay where they are. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator

from vmacro.drivers.libvirt.xml import attribute, parse
from vmacro.model.definitions import Device

# By the path of a device's element below <devices> and its attribute: element and enum of formatdomaincaps.
_ASKED = {
    ("disk", "device"): ("disk", "diskDevice"),
    ("disk/target", "bus"): ("disk", "bus"),
    ("graphics", "type"): ("graphics", "type"),
    ("video/model", "type"): ("video", "modelType"),
    ("tpm", "model"): ("tpm", "model"),
    ("tpm/backend", "type"): ("tpm", "backendModel"),
    ("rng", "model"): ("rng", "model"),
    ("redirdev", "bus"): ("redirdev", "bus"),
    ("channel", "type"): ("channel", "type"),
    ("crypto", "model"): ("crypto", "model"),
    ("sound", "model"): ("sound", "model"),
    ("smartcard", "mode"): ("smartcard", "mode"),
    ("panic", "model"): ("panic", "model"),
}
# What libvirt takes where an attribute is missing.
_DEFAULTS = {("disk", "device"): "disk"}
# Of the same meaning to QEMU on every host: libvirt lists them in some versions only.
_EVERYWHERE = frozenset({("panic", "isa"), ("video", "none")})
# Of channels libvirt lists these, whatever else QEMU has (virQEMUCapsFillDomainDeviceChannelCaps); two are everywhere.
_MAY_BE_MISSING = {"channel": frozenset({"spicevmc"})}
_HOST_DEVICE = "it is a device of its host"
# qemuMigrationSrcIsSafe: "unsafe" is what can be written to, and is neither sent along nor on storage that both share.
_WRITABLE = "it can be written to, and its file stays on its host: eject it, or make it <readonly/>"
_STATE_STAYS = "QEMU does not know how to send its state"
_HOSTDEV_NAMES = {"pci": "PCI", "usb": "USB", "scsi": "SCSI", "scsi_host": "SCSI host", "mdev": "mediated"}


def of(root: ElementTree.Element) -> Iterator[Device]:
    """What a domain's devices are, as formatdomaincaps calls it."""
    for (path, name), (element, aspect) in _ASKED.items():
        for found in root.iterfind(f"devices/{path}"):
            value = found.get(name, _DEFAULTS.get((path, name), ""))
            listed = _MAY_BE_MISSING.get(element, {value})
            if value in listed and value and (element, value) not in _EVERYWHERE:
                yield Device(element, aspect, value)


def missing(devices: Iterable[Device], capabilities: str) -> tuple[list[Device], list[Device]]:
    """Those that a hypervisor does not have, and those that its domain capabilities say nothing of. Raises
    ValueError."""
    told = _listed(parse(capabilities).find("devices"))
    lacks, silent = [], []
    for device in devices:
        supported, enums = told.get(device.element, (False, {}))
        if device.element in told and not supported:
            lacks.append(device)
        elif not enums.get(device.aspect):
            silent.append(device)
        elif device.value not in enums[device.aspect]:
            lacks.append(device)
    return lacks, silent


def _listed(devices: ElementTree.Element | None) -> dict[str, tuple[bool, dict[str, set[str]]]]:
    """By element, the first of each name: whether it is supported, and the values of its enums. Read once: a host may
    say much, and a domain have many devices."""
    found: dict[str, tuple[bool, dict[str, set[str]]]] = {}
    for element in devices if devices is not None else ():
        if element.tag not in found:
            enums: dict[str, set[str]] = {}
            for enum in element.iterfind("enum"):
                enums.setdefault(enum.get("name", ""), set()).update(v.text or "" for v in enum.iterfind("value"))
            found[element.tag] = element.get("supported") != "no", enums
    return found


def staying(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """(what, why) of each that no live migration takes along: see libvirt's qemuMigrationSrcIsAllowed, and what QEMU
    itself refuses."""
    for device in root.iterfind("devices/hostdev"):
        yield _hostdev(device), _HOST_DEVICE
    for card in root.iterfind("devices/interface"):
        if card.get("type") in ("hostdev", "vdpa"):
            yield f"card {attribute(card, 'mac', 'address')} ({card.get('type')})", _HOST_DEVICE
    for shared in root.iterfind("devices/filesystem"):
        kind = attribute(shared, "driver", "type") or "9p"
        place = attribute(shared, "source", "dir") or attribute(shared, "target", "dir")
        yield f"shared folder {place} ({kind})", "its files are its host's, and QEMU cannot leave them while in use"
    for memory in root.iterfind("devices/shmem"):
        if memory.get("role") != "master":
            yield f"shared memory {memory.get('name', '')}", "other guests of its host use it too"
    yield from _of_disks(root)
    yield from _of_the_hosts(root)
    yield from _whose_state_stays(root)
    yield from _of_processor(root)


def _of_disks(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for disk in root.iterfind("devices/disk"):
        what = f"disk {attribute(disk, 'target', 'dev')}"
        if disk.find("transient") is not None:
            yield what, "it is transient: what the guest has written is thrown away"
        if disk.get("type") in ("nvme", "vhostuser", "vhostvdpa"):
            yield what, _HOST_DEVICE
        if disk.get("device") == "floppy" and disk.find("readonly") is None and disk.find("source") is not None:
            yield f"floppy {attribute(disk, 'target', 'dev')}", _WRITABLE


def _of_the_hosts(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """What the guest has lent of its host, by other names than <hostdev>."""
    for entry in root.iterfind("devices/input"):
        if entry.get("type") in ("passthrough", "evdev"):
            place = attribute(entry, "source", "evdev") or attribute(entry, "source", "dev")
            yield f"input {place}", _HOST_DEVICE
    for kind in ("tpm/backend", "smartcard"):
        for device in root.iterfind(f"devices/{kind}"):
            if device.get("type") in ("passthrough", "external") or device.get("mode", "").startswith("host"):
                yield kind.partition("/")[0].replace("tpm", "TPM"), _HOST_DEVICE


def _whose_state_stays(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """What QEMU has marked so (`unmigratable`, and virgl's migration_blocker), and libvirt does not look at."""
    for video in root.iterfind("devices/video"):
        if video.find("model/acceleration[@accel3d='yes']") is not None:
            yield "video with 3D acceleration", _STATE_STAYS
        if attribute(video, "driver", "name") == "vhostuser":
            yield "video by vhost-user", _STATE_STAYS
    for card in root.iterfind("devices/interface"):
        if attribute(card, "model", "type") == "usb-net":
            yield f"card {attribute(card, 'mac', 'address')} (usb-net)", _STATE_STAYS
    for sound in root.iterfind("devices/sound"):
        if sound.get("model") in ("usb", "virtio"):
            yield f"sound ({sound.get('model')})", _STATE_STAYS
    for crypto in root.iterfind("devices/crypto"):
        yield f"crypto device ({crypto.get('model', '')})", _STATE_STAYS
    for disk in root.iterfind("devices/disk/target[@bus='nvme']"):
        yield f"disk {disk.get('dev', '')} (bus nvme)", _STATE_STAYS


def _of_processor(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    sealed = root.find("launchSecurity")
    if sealed is not None:
        yield f"encrypted memory ({sealed.get('type', '')})", "its host's processor has the key"
    clock = root.find("clock/timer[@name='tsc'][@frequency]")
    for feature in root.iterfind("cpu/feature[@name='invtsc']"):
        if feature.get("policy") in ("require", "force") and clock is None:
            yield (
                "processor feature invtsc",
                "without a frequency of its own (<timer name='tsc'/>) QEMU refuses to move",
            )
    cpu = root.find("cpu")
    if cpu is not None and cpu.get("mode") == "host-passthrough" and cpu.get("migratable") == "off":
        yield "processor", "its features are said to be not migratable (migratable='off')"


def _hostdev(device: ElementTree.Element) -> str:
    kind = device.get("type", "") or device.get("mode", "")
    address, vendor = device.find("source/address"), device.find("source/vendor")
    if kind == "pci" and address is not None:
        numbers = [address.get(name, "0x0").removeprefix("0x") for name in ("domain", "bus", "slot", "function")]
        where = "{:0>4}:{:0>2}:{:0>2}.{}".format(*numbers)
    elif vendor is not None:
        product = attribute(device.find("source"), "product", "id")
        where = f"{vendor.get('id', '').removeprefix('0x')}:{product.removeprefix('0x')}"
    else:
        where = address.get("uuid", "") if address is not None else ""
    return f"{_HOSTDEV_NAMES.get(kind, kind)} device {where}".strip()
