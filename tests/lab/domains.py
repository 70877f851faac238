"""What lab tests do to the definition of the guest `web`, by the hosts' own virsh; and both hosts as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import on_host, site_of, virsh
from vmacro.lab.lab import Lab

FILE = "/run/told.xml"


def hosts_as_they_are(lab: Lab) -> dict[str, str]:
    """All domains, live and stored, what their hosts start by themselves, the guests' network; which networks, filters,
    pools and files in pools there are; legs."""
    dump = "for d in $(virsh list --all --name); do virsh dumpxml $d; virsh dumpxml --inactive $d; done"
    folder = r"$(virsh pool-dumpxml $p | sed -n 's|.*<path>\(.*\)</path>.*|\1|p')"
    pools = f"for p in $(virsh pool-list --name); do ls -A {folder}; done"
    kept = f"virsh net-list --all; virsh nwfilter-list; virsh pool-list --all; {pools}"
    legs = "ip -o -brief link show | grep -o 'vmac-[^ @]*'"
    look = f"virsh list --all; {dump}; ls -A /etc/libvirt/qemu/autostart; virsh net-dumpxml front; {kept}; {legs}; true"
    return {host: on_host(lab, host, "sh", "-c", f"{look} 2>&1") for host in lab.topology.sites}


def told(lab: Lab, host: str, text: str, *words: str) -> None:
    """A word of virsh that reads FILE, with `text` in it."""
    on_host(lab, host, "sh", "-c", f'printf %s "$1" > {FILE}', "sh", text)
    virsh(lab, host, *words)


@contextmanager
def defined_as_before(lab: Lab, host: str) -> Iterator[str]:
    """Yields how `web` is defined; afterwards it is so again, wherever it is then."""
    before = virsh(lab, host, "dumpxml", "--inactive", "web")
    try:
        yield before
    finally:
        told(lab, site_of(lab, "web"), before, "define", FILE)


@contextmanager
def at_the_next_start(lab: Lab, host: str, *devices: str) -> Iterator[None]:
    """`web` gets further devices when it is started anew."""
    with defined_as_before(lab, host):
        for device in devices:
            told(lab, host, device, "attach-device", "web", FILE, "--config")
        yield
