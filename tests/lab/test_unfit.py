"""Hosts, networks, reservations and guests that are in the way of a move, for real: `check` names each by its code, and
`migrate` touches nothing. What domains themselves have is in test_obstacles.py and test_definitions.py."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from tests.breaking import Scene, in_guest
from tests.lab.domains import FILE, hosts_as_they_are, told
from tests.lab.test_obstacles import STRANGER, blocking, findings, refused
from tests.support import (
    Vmacro,
    Way,
    address_of,
    clients,
    on_host,
    other_site,
    reserved,
    site_of,
    traces_of_moves,
    virsh,
    without_probers,
)
from vmacro.lab import namespaces
from vmacro.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow("two minutes; each finding is a unit test, too")]
# Nobody has this address of the lab's transit network.
SILENT = """
[sites.nowhere]

[hosts.nowhere]
site = "nowhere"
ssh = "root@10.19.250.9"
uri = "qemu+tls://10.19.250.9/system"
address = "10.19.250.9"
"""
CARD = "<interface type='network'><mac address='{}'/><source network='front'/></interface>"
RP_FILTERS = {name: f"/proc/sys/net/ipv4/conf/{name}/rp_filter" for name in ("all", "eth0")}
PUBLIC = "20.30.40.50"
# Networks that the destination does not offer to guests, whatever the inventory says.
ODD = """<network><name>odd</name><bridge name='odd0' stp='on' delay='4'/><mac address='52:54:00:99:99:99'/>
<forward mode='nat'/><ip address='{}' prefix='24'/></network>"""
ODD_CODES = ("bridge-stp", "dhcp-missing", "network-differs", "network-filters", "subnet-differs")
FULL = """<network><name>full</name><bridge name='full0' stp='off' delay='0'/><forward mode='open'/>
<ip address='10.60.7.1' prefix='24'><dhcp><host mac='52:54:00:dd:ff:01' ip='10.60.7.5'/></dhcp></ip></network>"""


def saying(host: str, **lines: str) -> Callable[[str], str]:
    """A change of the inventory: what it says of a host; '' for nothing."""

    def change(text: str) -> str:
        before, section, rest = text.partition(f"[hosts.{host}]\n")
        for key, value in lines.items():
            kept = re.sub(rf"^{key} = .*\n", "", rest.partition("\n[")[0], count=1, flags=re.M)
            rest = (f"{key} = {value}\n" if value else "") + kept + "".join(rest.partition("\n[")[1:])
        return before + section + rest

    return change


def stopped(lab: Lab, vmacro: Vmacro, way: Way, *codes: str, warned: tuple[str, ...] = ()) -> None:
    """By these blockers, at once, and nothing is touched."""
    before = hosts_as_they_are(lab), traces_of_moves(lab)
    found = findings(vmacro, way, 3)
    assert blocking(found) == set(codes), found
    assert {f["code"] for f in found if f["severity"] == "warning"} >= set(warned), found
    refused(vmacro, way, found)
    assert (hosts_as_they_are(lab), traces_of_moves(lab)) == before


def test_a_destination_that_is_out_of_order(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """All of its troubles at once; another host does not answer at all."""
    reserve = saying(way.there, memory_reserve_mib="1000000")
    far = vmacro.altered("far.toml", lambda t: reserve(t) + SILENT)
    with ExitStack() as broken:
        for breaking in (unguarded, without_programs, without_forwarding, without_a_name, with_a_narrow_path):
            broken.enter_context(breaking(lab, way))
        broken.enter_context(twin_of_the_card(lab, way))
        codes = ("no-filter", "no-tunnel", "no-forwarding", "tunnel-mtu", "memory-short", "mac-shared")
        stopped(lab, far, way, *codes, warned=("own-name", "guests-unguarded", "host-unreachable"))


@contextmanager
def done_there(lab: Lab, way: Way, make: str, undo: str) -> Iterator[None]:
    on_host(lab, way.there, "sh", "-ec", make)
    try:
        yield
    finally:
        on_host(lab, way.there, "sh", "-ec", undo)


def without_programs(lab: Lab, way: Way) -> AbstractContextManager[None]:
    """What cannot be executed is not there."""
    programs = "/usr/sbin/nft /usr/bin/wireguard-go"
    return done_there(lab, way, f"for p in {programs}; do mount --bind /dev/null $p; done", f"umount {programs}")


def without_forwarding(lab: Lab, way: Way) -> AbstractContextManager[None]:
    return done_there(lab, way, "sysctl -q net.ipv4.ip_forward=0", "sysctl -q net.ipv4.ip_forward=1")


def without_a_name(lab: Lab, way: Way) -> AbstractContextManager[None]:
    return done_there(lab, way, "echo > /run/hosts; mount --bind /run/hosts /etc/hosts", "umount /etc/hosts")


def unguarded(lab: Lab, way: Way) -> AbstractContextManager[None]:
    return done_there(lab, way, "systemctl stop vmacro-guard", "systemctl start vmacro-guard")


def with_a_narrow_path(lab: Lab, way: Way) -> AbstractContextManager[None]:
    """From there to the guest's host."""
    to = f"{lab.host(way.here).address}/32"
    way_out = f"ip route add {to} $(ip route show default | grep -o 'via.*uplink') mtu 1300"
    return done_there(lab, way, way_out, f"ip route del {to}")


@contextmanager
def twin_of_the_card(lab: Lab, way: Way) -> Iterator[None]:
    """A domain that is about to run, paused, with the MAC of `web`."""
    card = CARD.format(lab.topology.mac("web"))
    twin = STRANGER.format("twin", "5ca1ab1e-0000-4000-8000-000000000002")
    twin = twin.replace("</os>", f"</os><devices>{card}</devices>")
    told(lab, way.there, twin, "create", FILE, "--paused")
    try:
        yield
    finally:
        virsh(lab, way.there, "destroy", "twin")


@pytest.mark.parametrize(
    ("network", "says", "codes", "warned"),
    [
        ("odd", "source's", (*ODD_CODES, "subnet-occupied"), ("gateway-mac", "guests-unguarded")),
        ("odd", "10.60.9.1", ODD_CODES, ()),
        ("full", "", ("dhcp-exhausted", "network-differs", "subnet-differs"), ()),
        ("none", "", ("network-missing", "no-host-side"), ()),
    ],
)
def test_a_network_that_takes_no_guest(
    lab: Lab, vmacro: Vmacro, way: Way, network: str, says: str, codes: tuple[str, ...], warned: tuple[str, ...]
) -> None:
    there = vmacro.altered("odd.toml", saying(way.there, network=f'"{network}"'))
    own = lab.topology.sites[way.here].subnet
    with other_network(lab, way, network, str(own[1]) if says == "source's" else says):
        stopped(lab, there, way, *codes, warned=warned)


@contextmanager
def other_network(lab: Lab, way: Way, name: str, address: str) -> Iterator[None]:
    """Beside the one for guests, which goes on."""
    texts = {"odd": ODD.format(address), "full": FULL}
    if name not in texts:
        yield
        return
    told(lab, way.there, texts[name], "net-create", FILE)
    try:
        yield
    finally:
        virsh(lab, way.there, "net-destroy", name)


def test_a_path_that_loses_large_packets_without_a_word(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    chain = "chain large { type filter hook prerouting priority -300; ip saddr %s ip length > 1400 drop; };"
    make = "echo 'table inet narrow { %s }' | nft -f -" % (chain % lab.host(way.here).address)
    with done_there(lab, way, make, "nft delete table inet narrow"):
        stopped(lab, vmacro, way, "path-mtu")


def test_a_guest_whose_kernel_is_in_the_way(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Root in it has set all this."""
    scene = Scene(lab, vmacro, way.here, way.there)
    more = " ".join(f"10.78.0.{n}" for n in range(1, 9))
    taken = f"for a in {more}; do ip address add $a/32 dev lo; ip mptcp endpoint add $a signal; done"
    strict = "; ".join(f"{name}=$(cat {file}); echo 1 > {file}" for name, file in RP_FILTERS.items())
    in_guest(scene, f"{strict}; ip address add 10.78.1.1/32 dev eth0; {taken}")
    try:
        stopped(lab, vmacro, way, "guest-rp-filter", "endpoints-full", warned=("addresses-stay",))
    finally:
        freed = f"for a in {more}; do ip address del $a/32 dev lo; done; ip mptcp endpoint flush"
        before = "; ".join(f"echo ${name} > {file}" for name, file in RP_FILTERS.items())
        in_guest(scene, f"{before}; ip address del 10.78.1.1/32 dev eth0; {freed}")


def test_reservations_that_are_in_the_way(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """An operator has promised the guest's address to somebody else's card."""
    with reserved(lab, way.here, "52:54:00:dd:ff:02", address_of(lab, "web")):
        stopped(lab, vmacro, way, "reservation-collides", "address-unknown")


def test_renumber_without_those_who_cannot_follow(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Clients of plain TCP, of datagrams, and one that refuses addresses; and who knows the old address alone. The
    destination's host side, which would know of files, cannot be asked."""
    old, unasked = address_of(lab, "web"), saying(way.there, ssh="")
    lingers = vmacro.altered("l.toml", lambda t: unasked(t.replace("linger_s = 0", "linger_s = 60")))
    before = hosts_as_they_are(lab)
    with clients(lab, "client", old, "tcp-idle", "datagrams"), clients(lab, "deaf", old, "idle"):
        found = findings(lingers, way, 3, "--handoff", "renumber")
        assert blocking(found) >= {"client-plain-tcp", "client-refuses-add-addr"}, found
        assert {"datagrams-end", "linger-missing", "file-unknown"} <= {
            f["code"] for f in found if f["severity"] == "warning"
        }, found
        done = lingers("migrate", "web", "--to", way.there, "--handoff", "renumber")
        assert done.returncode == 3 and "drops packets with sources" in done.stderr, "no client is asked in vain"
        assert hosts_as_they_are(lab) == before
        with reserved(lab, way.here, lab.topology.mac("web"), old):  # DHCP has no second one for that card then
            found = findings(lingers, way, 3, "--handoff", "renumber")
            assert "clients-unasked" in blocking(found), found


def test_a_guest_without_an_agent(lab: Lab, vmacro: Vmacro) -> None:
    done = vmacro("check", "mute", "--to", other_site(site_of(lab, "mute")), "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    assert {f["code"] for f in json.loads(done.stdout)["findings"] if f["severity"] == "blocker"} == {"no-agent"}


def test_a_destination_whose_host_side_cannot_be_asked(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    stopped(lab, vmacro.altered("mute.toml", saying(way.there, ssh="")), way, "no-host-side")


def test_what_an_inventory_asks_for_in_vain(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Tunnels in the clear, and pages given up by a guest whose domain does not let them go."""
    plain = [saying(host, plain_tunnel="true") for host in (way.here, way.there)]
    short = saying(way.there, memory_reserve_mib="1000000")

    def change(text: str) -> str:
        return short(plain[0](plain[1](text))).replace("[policy]\n", "[policy]\ndrop_page_cache = true\n")

    warned = ("tunnel-plain", "free-pages-sent")
    stopped(lab, vmacro.altered("asks.toml", change), way, "memory-short", warned=warned)


def test_a_guest_that_changes_more_than_its_copy_may_take(lab: Lab, vmacro: Vmacro) -> None:
    slow = vmacro.altered("slow.toml", lambda t: re.sub(r"^bandwidth_mib_s = .*", "bandwidth_mib_s = 2", t, flags=re.M))
    done = slow("check", "busy", "--to", other_site(site_of(lab, "busy")), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "copy-outrun" in {f["code"] for f in json.loads(done.stdout)["findings"]}, done.stdout


def test_a_host_that_libvirt_takes_for_the_other(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """As with machines that were cloned."""
    facts = virsh(lab, way.here, "capabilities")
    (uuid,) = re.findall(r"<host>\s*<uuid>([^<]+)</uuid>", facts)
    file, again = "/etc/libvirt/libvirtd.conf", "systemctl restart libvirtd"
    make = f"echo 'host_uuid = \"{uuid}\"' >> {file}; {again}"
    with done_there(lab, way, make, f"sed -i '/^host_uuid =/d' {file}; {again}"):
        stopped(lab, vmacro, way, "host-twin")


def test_an_address_that_somebody_else_uses(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """A machine on the guests' bridge has taken all of the range without asking DHCP."""
    (bridge,) = re.findall("<bridge name='([^']+)'", virsh(lab, way.there, "net-dumpxml", "front"))
    some = " ".join(f"{address}/24" for address in [*lab.topology.sites[way.there].subnet.hosts()][1:100])
    make = f"""ip netns add squatter; ip link add squatter0 type veth peer name eth0 netns squatter
    ip link set squatter0 master {bridge} up; ip -n squatter link set eth0 up
    for a in {some}; do ip -n squatter address add $a dev eth0; done"""
    with done_there(lab, way, make, "ip link del squatter0; ip netns del squatter"):
        stopped(lab, vmacro, way, "address-used")


def test_legs_that_another_orchestrator_has_opened(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """Its journal is not ours, so that we do not know what they are for."""
    quiet = without_probers(vmacro)
    (quiet.folder / "other").mkdir()
    own = f'state_dir = "{quiet.folder / "other"}"'
    other = quiet.altered("other.toml", lambda t: t.replace(f'state_dir = "{lab.folder}"', own))
    with clients(lab, "client", address_of(lab, "web"), "tcp-idle"):
        done = quiet("migrate", "web", "--to", way.there)
        assert done.returncode == 0, done.stdout + done.stderr
        found = findings(other, Way(way.there, way.here), 0)
        assert "leg-unknown" in {f["code"] for f in found if f["severity"] == "warning"}, found
    ended = quiet("carry")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_client_from_the_internet_cannot_join_an_address_of_the_inside(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    short = vmacro.altered("short.toml", saying(way.there, memory_reserve_mib="1000000"))
    with from_the_internet(lab):
        with namespaces.inside(lab.namespace("client")):
            connected = socket.create_connection((address_of(lab, "web"), 80), 30, (PUBLIC, 0))
        # It ends at once (a reset): from an address that is gone no end would be heard.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with connected:
            stopped(lab, short, way, "memory-short", warned=("address-private",))


@contextmanager
def from_the_internet(lab: Lab) -> Iterator[None]:
    """A client has a further address, of the Internet, and the WAN leads there."""
    client, wan = lab.namespace("client"), lab.namespace("wan")
    own = ["ip", "-n", client, "address"]
    by = ["ip", "-n", wan, "route"]
    subprocess.run([*own, "add", f"{PUBLIC}/32", "dev", "lo"], check=True)
    subprocess.run([*by, "add", f"{PUBLIC}/32", "via", str(lab.topology.uplink("client").node.ip)], check=True)
    try:
        yield
    finally:
        subprocess.run([*by, "del", f"{PUBLIC}/32"], check=True)
        subprocess.run([*own, "del", f"{PUBLIC}/32", "dev", "lo"], check=True)


def test_a_client_whose_slots_are_taken(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """It has followed a move, and its old address is still another's; so it takes no further one."""
    quiet, old = without_probers(vmacro), address_of(lab, "web")
    free = quiet.altered("free.toml", lambda t: re.sub("^subnet = .*", r"\g<0>\nguard = false", t, flags=re.M))
    with clients(lab, "shy", old, "idle"), clients(lab, "client", old, "tcp-idle"):
        done = quiet("migrate", "web", "--to", way.there)
        assert done.returncode == 0, done.stdout + done.stderr
        back = Way(way.there, way.here)
        found = findings(free, back, 3, "--handoff", "renumber")
        assert "client-slots-taken" in blocking(found), found
        refused(free, back, found, "--handoff", "renumber")
        assert site_of(lab, "web") == way.there
    ended = quiet("carry")
    assert ended.returncode == 0, ended.stdout + ended.stderr
