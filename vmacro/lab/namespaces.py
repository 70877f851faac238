"""Network namespaces of a lab: one per node, each linked to the WAN router's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute, netns

from vmacro.errors import LabError
from vmacro.lab import process
from vmacro.lab.topology import WAN, Topology

RUN = Path("/run/netns")
BRIDGE, TAP = "vm", "vm-tap"  # in the namespace of a VM
FORWARDING = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
}


def create_all(topology: Topology) -> None:
    """Idempotent: what is there already, stays."""
    create(topology.network_namespace(WAN))
    for node in topology.nodes:
        create(topology.network_namespace(node))
        _connect(topology, node)
    for node, host in topology.hosts.items():
        with IPRoute(netns=topology.network_namespace(WAN)) as ip:
            ip.route("replace", dst=str(host.subnet), gateway=str(topology.uplink(node).node.ip))
    if topology.dual_stack:
        _make_dual_stack(topology)
    if topology.wan.anti_spoofing:
        # Strict reverse-path filtering (RFC 3704 section 2.2), as a provider's edge does it.
        _sysctl(topology.network_namespace(WAN), {f"net.ipv4.conf.{n}.rp_filter": "1" for n in topology.nodes})
    for node, client in topology.clients.items():
        name = topology.network_namespace(node)
        process.run(["ip", "-n", name, "mptcp", "limits", "set", "add_addr_accepted", str(client.accepts_add_addr)])
        process.run(["ip", "-n", name, "mptcp", "limits", "set", "subflows", "4"])


def create(name: str) -> None:
    """Make a network namespace, with its loopback up, that forwards. Idempotent."""
    if not (RUN / name).exists():
        netns.create(name)
    with IPRoute(netns=name) as ip:
        ip.link("set", index=1, state="up")
    _sysctl(name, FORWARDING)


def remove_all(topology_names: list[str]) -> None:
    """Remove these network namespaces. Idempotent."""
    for name in topology_names:
        if (RUN / name).exists():
            netns.remove(name)


def renew(topology: Topology) -> None:
    """Those of hosts anew, with nothing that was in them; no process may be in there any more."""
    for host in topology.hosts:
        name = topology.network_namespace(host)
        with IPRoute(netns=name) as ip:
            for index in ip.link_lookup(ifname="uplink"):  # at once: its other end has a name that is wanted again
                ip.link("del", index=index)
        netns.remove(name)
    create_all(topology)


def existing(lab: str) -> list[str]:
    """Names of the namespaces that belong to a lab: its own prefix, and then one word."""
    prefix = f"vmacro-{lab}-"
    found = (p.name for p in RUN.glob(f"{prefix}*")) if RUN.is_dir() else iter(())
    return sorted(n for n in found if "-" not in n.removeprefix(prefix))


def processes_inside(names: list[str]) -> list[int]:
    """pids of processes that live in any of these namespaces."""
    inodes = {(RUN / name).stat().st_ino for name in names}
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns/net").stat().st_ino in inodes:
                pids.append(int(entry.name))
        except OSError:
            continue
    return sorted(pids)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread is in another network namespace (setns(2)) while this is open, for a short look."""
    with Path("/proc/thread-self/ns/net").open() as home:
        netns.setns(name)
        try:
            yield
        finally:
            netns.setns(home.fileno())


def _connect(topology: Topology, node: str) -> None:
    """A veth from `uplink` in the node to an interface named after the node in the router. A VM has the address itself:
    for it there is a bridge, with the veth and its tap."""
    uplink, here, router = topology.uplink(node), topology.network_namespace(node), topology.network_namespace(WAN)
    with IPRoute(netns=here) as ip, IPRoute(netns=router) as far:
        if not ip.link_lookup(ifname="uplink"):
            ip.link("add", ifname="uplink", kind="veth", peer={"ifname": node, "net_ns_fd": router})
        index, peer = ip.link_lookup(ifname="uplink")[0], far.link_lookup(ifname=node)[0]
        far.addr("replace", index=peer, address=str(uplink.router.ip), prefixlen=30)
        ip.link("set", index=index, state="up")
        far.link("set", index=peer, state="up")
        if topology.runs_xen(node):
            _bridge(ip, index)
        else:
            ip.addr("replace", index=index, address=str(uplink.node.ip), prefixlen=30)
            ip.route("replace", dst="default", gateway=str(uplink.router.ip))


def _bridge(ip: IPRoute, uplink: int) -> None:
    """Forwards at once: it has no spanning tree."""
    if not ip.link_lookup(ifname=BRIDGE):
        ip.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_forward_delay=0)
        ip.link("add", ifname=TAP, kind="tuntap", mode="tap", vnet_hdr=True)
    bridge, tap = ip.link_lookup(ifname=BRIDGE)[0], ip.link_lookup(ifname=TAP)[0]
    for port in (uplink, tap):
        ip.link("set", index=port, master=bridge, state="up")
    ip.link("set", index=bridge, state="up")


def _make_dual_stack(topology: Topology) -> None:
    """IPv6 on every link, without waiting for duplicate detection."""
    wan = topology.network_namespace(WAN)
    for node in topology.nodes:
        here, (router, own) = topology.network_namespace(node), topology.uplink6(node)
        host = topology.hosts.get(node)
        for name, device, address in ((here, "uplink", own), (wan, node, router)):
            _sysctl(name, {"net.ipv6.conf.all.forwarding": "1"})
            process.run(["ip", "-n", name, "-6", "addr", "replace", str(address), "dev", device, "nodad"])
        process.run(["ip", "-n", here, "-6", "route", "replace", "default", "via", str(router.ip)])
        if host is not None and host.subnet6 is not None:
            process.run(["ip", "-n", wan, "-6", "route", "replace", str(host.subnet6), "via", str(own.ip)])
        if topology.wan.anti_spoofing:
            # IPv6 has no rp_filter: the same by rules.
            _drop_foreign_sources(wan, node, [str(p) for p in topology.prefixes6(node)])


def _drop_foreign_sources(wan: str, node: str, own: list[str]) -> None:
    table = ["ip", "netns", "exec", wan, ip_tables(6), "-w"]
    allowed = [["-A", "FORWARD", "-i", node, "-s", prefix, "-j", "ACCEPT"] for prefix in own]
    for rule in (*allowed, ["-A", "FORWARD", "-i", node, "-j", "DROP"]):
        try:
            process.run([*table, "-C", *rule[1:]])
        except LabError:
            process.run([*table, *rule])


def ip_tables(version: int) -> str:
    """The legacy program where there is one: the other needs NFQUEUE in nf_tables."""
    name = "iptables" if version == 4 else "ip6tables"
    return f"{name}-legacy" if shutil.which(f"{name}-legacy") else name


def _sysctl(name: str, settings: dict[str, str]) -> None:
    with inside(name):
        for key, value in settings.items():
            Path("/proc/sys", *key.split(".")).write_text(value)
