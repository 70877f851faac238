"""How much of a domain's memory lies in huge pages of which size, as libvirt gives them out (formatdomain). Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from vmacro.drivers.libvirt.xml import memory_mib
from vmacro.model.definitions import OF_THE_HOSTS_SIZE, Pages

_UNITS = {"b": -10, "bytes": -10, "KB": 0, "k": 0, "KiB": 0, "M": 10, "MiB": 10, "G": 20, "GiB": 20}
_ORDINARY_KIB = 4  # libvirt takes the host's own page size for a huge one, too, and it is none


def of(root: ElementTree.Element) -> dict[int, int]:
    """MiB by size in KiB, or OF_THE_HOSTS_SIZE. A page of no node is for what no other is for; a memory module may
    have a size of its own. Raises ValueError."""
    modules = [(_kib(m.find("source/pagesize")), _kib(m.find("target/size"))) for m in root.iterfind("devices/memory")]
    found = [(size, kib) for size, kib in modules if size]
    rest = (memory_mib(root) << 10) - sum(kib for _, kib in found)
    cells = _cells(root)
    for size, nodes in _pages(root):
        kib = sum(cells.pop(node, 0) for node in nodes) if nodes else rest
        found.append((size, min(kib, rest)))
        rest -= min(kib, rest)
    sizes = dict.fromkeys(size for size, kib in found if size != _ORDINARY_KIB and kib > 0)
    return {size: -(-sum(kib for each, kib in found if each == size) // 1024) for size in sizes}


def most(*domains: dict[int, int]) -> tuple[Pages, ...]:
    """What several definitions of one domain need at most."""
    sizes = dict.fromkeys(size for domain in domains for size in domain)
    return tuple(Pages(size, max(domain.get(size, 0) for domain in domains)) for size in sizes)


def _pages(root: ElementTree.Element) -> list[tuple[int, tuple[int, ...]]]:
    """Each size, and the nodes of the guest that it is for; last the one that is for all others."""
    huge = root.find("memoryBacking/hugepages")
    if huge is None:
        return []
    said = [(_kib(p, "size"), tuple(_numbers(p.get("nodeset", "")))) for p in huge.iterfind("page")]
    return sorted(said, key=lambda page: not page[1]) or [(OF_THE_HOSTS_SIZE, ())]


def _cells(root: ElementTree.Element) -> dict[int, int]:
    """KiB by node of the guest."""
    cells = enumerate(root.iterfind("cpu/numa/cell"))
    return {int(cell.get("id", number)): _kib(cell, "memory") for number, cell in cells}


def _kib(element: ElementTree.Element | None, name: str = "") -> int:
    """The size that an element says, in this attribute or as its text; 0 where there is none."""
    if element is None:
        return 0
    unit, size = element.get("unit", "KiB"), int((element.get(name) if name else element.text) or "0")
    if unit not in _UNITS:
        raise ValueError(f"<{element.tag[:40]}>: unit {unit[:40]!r} is unknown")
    return size << _UNITS[unit] if _UNITS[unit] >= 0 else size >> -_UNITS[unit]


def _numbers(text: str) -> Iterator[int]:
    """Of a set such as `0-3,8`, of nodes as a guest can have."""
    for span in filter(None, text.split(",")):
        first, _, last = span.strip().partition("-")
        if first.isdigit() and (last or first).isdigit() and len(last or first) < 5:
            yield from range(int(first), int(last or first) + 1)
