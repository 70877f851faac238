"""Where guests' disks may lie on this host: in the folders of its own libvirt's active pools of files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from contextlib import closing

import libvirt

OF_FILES = ("dir", "fs", "netfs")  # the others' volumes are devices, or no files of this host's at all


def folders(uri: str) -> tuple[str, ...]:
    """By virConnectListAllStoragePools, on a connection of its own, since it is asked seldom. Raises libvirtError."""
    with closing(libvirt.open(uri)) as connection:
        pools = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
        described = [ElementTree.fromstring(pool.XMLDesc()) for pool in pools]
    found = (d.findtext("target/path", "") for d in described if d.get("type") in OF_FILES)
    return tuple(path for path in found if path.startswith("/"))
