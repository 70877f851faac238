"""What a host's libvirt has of a domain that may come. It is asked; nothing there is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt

from vmacro.drivers.libvirt import devices, filters
from vmacro.drivers.libvirt.xml import parse
from vmacro.model.definitions import (
    DIFFERS,
    FILTER,
    FITS,
    OF_THE_HOSTS_SIZE,
    PASSED_THROUGH,
    PORT_GROUP,
    SECRET,
    UNKNOWN,
    VOLUME,
    Definition,
    Fit,
    Need,
)
from vmacro.wire import fields

_KVM = "kvm"
_DEFAULTS_KIB = (2048, 1 << 20)  # what hosts have as their huge pages' default size; libvirt does not tell which
_UNCHECKED = "libvirt checks nothing of it (check='none'), and the host's has not all that it names"
_MISSING = frozenset(
    {
        libvirt.VIR_ERR_NO_NWFILTER,
        libvirt.VIR_ERR_NO_SECRET,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_OPERATION_INVALID,  # a pool that is not active
    }
)
_NOT_THERE = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_SYSTEM_ERROR)  # a daemon
_USAGES = {
    "volume": libvirt.VIR_SECRET_USAGE_TYPE_VOLUME,
    "ceph": libvirt.VIR_SECRET_USAGE_TYPE_CEPH,
    "iscsi": libvirt.VIR_SECRET_USAGE_TYPE_ISCSI,
    "tls": libvirt.VIR_SECRET_USAGE_TYPE_TLS,
    "vtpm": libvirt.VIR_SECRET_USAGE_TYPE_VTPM,
}


def fit(connection: Any, name: str, uuid: str, wanted: Definition, described: Callable[[str], str]) -> Fit:
    """`connection` is the host's virConnect; `described` tells a network filter of the host's as XML, '' for none.
    Raises libvirtError where it cannot be asked, ValueError where it says what cannot be."""
    there = {need: _is_there(connection, need) for need in wanted.needs if need.kind in _LOOKS}
    refusal, lacks, silent = _capabilities(connection, wanted)
    processor, why = _processor(connection, wanted) if not refusal else (FITS, "")
    seen = connection.getInfo()
    found = {
        "absent": [fields.encode(need) for need, known in there.items() if known is False],
        "unasked": [fields.encode(need) for need, known in there.items() if known is None],
        "namesake": _namesake(connection, name, uuid),
        "refusal": refusal,
        "processor": processor,
        "processor_why": why,
        "lacks": [fields.encode(device) for device in lacks],
        "silent": [fields.encode(device) for device in silent],
        "free_pages": [{"kib": each.kib, "mib": _free_mib(connection, each.kib)} for each in wanted.pages],
        "cpus": seen[2],
        "nodes": seen[4],
        "filters": [fields.encode(held) for held in filters.elsewhere(wanted.filters, described)],
    }
    return fields.decode(Fit, found, "fit")


def _is_there(connection: Any, need: Need) -> bool | None:
    """None where this libvirt cannot be asked about such things: its daemon is not there, it was built without that
    driver, or has a reason of its own. What else it says of other things still counts."""
    try:
        return bool(_LOOKS[need.kind](connection, need.name))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _MISSING:
            return False
        if error.get_error_domain() == libvirt.VIR_FROM_RPC and error.get_error_code() not in _NOT_THERE:
            raise
        return None


def _port_group(connection: Any, name: str) -> bool:
    """libvirt says nothing of one that is missing, and gives the card none of its VLANs (virPortGroupFindByName)."""
    network, _, group = name.partition("/")
    groups = parse(connection.networkLookupByName(network).XMLDesc()).iterfind("portgroup")
    return group in {each.get("name", "") for each in groups}


def _volume(connection: Any, name: str) -> Any:
    pool, _, volume = name.partition("/")
    return connection.storagePoolLookupByName(pool).storageVolLookupByName(volume)


def _secret(connection: Any, name: str) -> Any:
    kind, colon, usage = name.partition(":")
    if colon:
        return connection.secretLookupByUsage(_USAGES.get(kind, libvirt.VIR_SECRET_USAGE_TYPE_NONE), usage)
    return connection.secretLookupByUUIDString(name)


_LOOKS: dict[str, Callable[[Any, str], Any]] = {
    FILTER: lambda connection, name: connection.nwfilterLookupByName(name),
    SECRET: _secret,
    VOLUME: _volume,
    PORT_GROUP: _port_group,
}


def _namesake(connection: Any, name: str, uuid: str) -> str:
    """The name of another domain that has its UUID."""
    try:
        known = str(connection.lookupByUUIDString(uuid).name())
    except libvirt.libvirtError as error:
        if error.get_error_code() in _MISSING:
            return ""
        raise
    return known if known != name else ""


def _capabilities(connection: Any, wanted: Definition) -> tuple[str, list[Any], list[Any]]:
    """Why no such domain runs there ('' where one does), which of its devices the hypervisor lacks, and of which it
    says nothing (virConnectGetDomainCapabilities)."""
    asked = (wanted.emulator or None, wanted.arch or None, wanted.machine or None, wanted.accelerator or None)
    try:
        told = connection.getDomainCapabilities(*asked)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return "", [], list(wanted.devices)
        if error.get_error_domain() == libvirt.VIR_FROM_RPC:
            raise
        return str(error), [], []
    lacks, silent = devices.missing(wanted.devices, told)
    return "", lacks, silent


def _processor(connection: Any, wanted: Definition) -> tuple[str, str]:
    """Whether the host's has all that the domain's has (virConnectCompareHypervisorCPU), and why not. Without KVM it is
    QEMU's own; what it passes through as it is, libvirt compares with nothing."""
    if not wanted.processor or wanted.accelerator != _KVM:
        return FITS, ""
    processor = parse(wanted.processor)
    if processor.get("mode") == "host-passthrough":
        return UNKNOWN, PASSED_THROUGH
    asked = (wanted.emulator or None, wanted.arch, wanted.machine, wanted.accelerator, wanted.processor)
    try:
        found = connection.compareHypervisorCPU(*asked)
    except libvirt.libvirtError as error:
        if error.get_error_domain() == libvirt.VIR_FROM_RPC:
            raise
        return UNKNOWN, str(error)
    fits = found in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET)
    if not fits and processor.get("check") == "none":
        return UNKNOWN, _UNCHECKED
    return (FITS if fits else DIFFERS), ""


def _free_mib(connection: Any, kib: int) -> int:
    sizes = _DEFAULTS_KIB if kib == OF_THE_HOSTS_SIZE else (kib,)
    return max(_free_pages_mib(connection, each) for each in sizes)


def _free_pages_mib(connection: Any, kib: int) -> int:
    """On all NUMA nodes together (virNodeGetFreePages)."""
    try:
        found = connection.getFreePages([kib], 0, max(1, int(connection.getInfo()[4])))
    except libvirt.libvirtError as error:
        if error.get_error_domain() == libvirt.VIR_FROM_RPC:
            raise
        return 0  # it has none of that size
    return sum(int(count) for node in found.values() for count in node.values()) * kib >> 10
