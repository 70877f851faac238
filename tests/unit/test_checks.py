"""Each rule says what it should, and only then."""

from dataclasses import replace

import pytest

from vmacro.drivers.fake import FakeWorld, connection, domain
from vmacro.model.facts import Claim, Disk, Pool, Reservation
from vmacro.model.moves import Finding
from vmacro.model.nouns import Policy, ProbeTarget
from vmacro.planning import checks
from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.planning.request import Request
from vmacro.services.survey import survey


def findings(
    fake: FakeWorld, to: int = 1, handoff: str = RENUMBER, source: str = "", **bounds: object
) -> list[Finding]:
    guest, seamless = fake.inventory.guests[0], handoff == SEAMLESS
    policy = Policy(**bounds)  # type: ignore[arg-type]
    wanted = Request(guest, fake.inventory.sites[to], handoff, policy, source=source)
    return checks.check(wanted, survey(fake.inventory, guest, fake.world, not seamless, seamless))


def codes(found: list[Finding]) -> list[str]:
    return [f.code for f in found]


def alter_network(fake: FakeWorld, **change: object) -> None:
    berlin = fake.hosts["berlin"].networks
    berlin["front"] = replace(berlin["front"], **change)  # type: ignore[arg-type]


def alter_domain(fake: FakeWorld, **change: object) -> None:
    domains = fake.hosts["bucharest"].domains
    domains["web"] = replace(domains["web"], **change)  # type: ignore[arg-type]


def test_a_good_move_has_no_findings() -> None:
    assert findings(FakeWorld()) == []


def test_a_certificate_that_expires_soon_is_told_of() -> None:
    fake = FakeWorld()
    for name, left in (("bucharest", 400.0), ("berlin", 29.94)):
        fake.hosts[name].facts = replace(fake.hosts[name].facts, certificate_days_left=left)
    (found,) = findings(fake)
    assert (found.code, found.subject) == ("certificate-expires", "host berlin") and "29.9 days" in found.message
    assert found.severity == "warning" and "pki renew" in found.hint


def test_the_guest_is_there_already() -> None:
    assert codes(findings(FakeWorld(), to=0)) == ["already-there"]


def test_a_guest_that_somebody_has_moved_since() -> None:
    assert codes(findings(FakeWorld(), source="bucharest")) == []
    (found,) = findings(FakeWorld(), source="oslo")
    assert found.code == "moved-since" and "runs at bucharest: it was moved there from oslo" in found.message


def test_a_guest_that_runs_nowhere() -> None:
    fake = FakeWorld()
    fake.hosts["bucharest"].domains.clear()
    (found,) = findings(fake)
    assert found.code == "guest-not-running" and "bucharest, berlin" in found.message


def test_a_guest_on_two_hosts_is_never_moved() -> None:
    fake = FakeWorld()
    fake.hosts["berlin"].domains["web"] = domain()
    assert "guest-twice" in codes(findings(fake))


def test_an_unreachable_destination_blocks_and_an_unreachable_bystander_warns() -> None:
    fake = FakeWorld()
    fake.hosts["berlin"].reachable = False
    found = findings(fake)
    assert codes(found) == ["destination-unreachable"] and checks.blockers(found)


@pytest.mark.parametrize(("version", "blocked"), [((7, 2, 22), True), ((8, 9, 9), True), ((9, 0, 0), False)])
def test_emulation_with_an_old_qemu_is_refused(version: tuple[int, int, int], blocked: bool) -> None:
    fake = FakeWorld()
    alter_domain(fake, accelerator="qemu")
    for host in fake.hosts.values():
        host.facts = replace(host.facts, hypervisor_version=version)
    assert ("tcg-corrupts" in codes(findings(fake))) is blocked


def test_old_qemu_with_kvm_is_fine() -> None:
    fake = FakeWorld()
    for host in fake.hosts.values():
        host.facts = replace(host.facts, hypervisor_version=(7, 2, 22))
    assert findings(fake) == []


def test_memory_counts_the_reserve() -> None:
    fake = FakeWorld()
    bucharest, berlin = fake.inventory.sites
    kept_back = replace(berlin, hosts=(replace(berlin.hosts[0], memory_reserve_mib=100),))
    fake.inventory = replace(fake.inventory, sites=(bucharest, kept_back))
    for free, expected in ((356, []), (355, ["memory-short"])):
        fake.hosts["berlin"].facts = replace(fake.hosts["berlin"].facts, free_memory_mib=free)
        found = findings(fake)
        assert codes(found) == expected
    (short,) = found
    assert "355 MiB free, 356 MiB needed (256 for the guest, 100 in reserve)" in short.message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"active": False}, "network-missing"),
        ({"stp": True}, "bridge-stp"),
        ({"dhcp_free": None}, "dhcp-missing"),
        ({"dhcp_free": 0}, "dhcp-exhausted"),
        ({"subnet": "10.50.1.0/24"}, "subnet-occupied"),
    ],
)
def test_the_destinations_network(change: dict[str, object], code: str) -> None:
    fake = FakeWorld()
    alter_network(fake, **change)
    assert codes(findings(fake)) == [code]


def test_an_exhausted_pool_that_knows_the_guest_is_fine() -> None:
    fake = FakeWorld()
    alter_network(fake, dhcp_free=0, taken=(("10.50.2.97", "52:54:00:00:00:01"),))
    assert findings(fake) == []


def test_a_missing_network() -> None:
    fake = FakeWorld()
    fake.hosts["berlin"].networks.clear()
    assert codes(findings(fake)) == ["network-missing"]


def test_a_local_disk_goes_along_and_a_shared_one_stays() -> None:
    fake = FakeWorld()
    fake.give_disk()
    own = fake.hosts["bucharest"].domains["web"].disks[0]
    alter_domain(fake, disks=(Disk("vdb", "/root.ext4", False, True), own))
    assert findings(fake) == []


def test_a_disk_that_cannot_go() -> None:
    fake = FakeWorld()
    alter_domain(fake, disks=(Disk("vda", "/dev/vg/web", True, False, "block", "raw"),))
    (found,) = findings(fake)
    assert found.code == "disk-kind" and "/dev/vg/web" in found.message and "block" in found.message


def test_a_disk_in_a_pool_that_both_see() -> None:
    fake = FakeWorld()
    fake.give_disk()
    for host in fake.hosts.values():
        host.pools = (Pool("nfs", "netfs", "/images", 1 << 40, shared=True),)
    assert findings(fake) == []


NFS = Pool("nfs", "netfs", "/images", 1 << 40, shared=True, source="nas-1 /export")


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ((), "no active storage pool at /images"),
        ((replace(NFS, path="/mnt"),), "no active storage pool at /images"),
        ((replace(NFS, source="nas-2 /export"),), "netfs, nas-2 /export) is not bucharest's (netfs, nas-1 /export)"),
        ((Pool("default", "dir", "/images", 1 << 40, shared=False),), "'default' (dir, its own) is not bucharest's"),
    ],
)
def test_a_shared_pool_that_the_destination_does_not_see(there: tuple[Pool, ...], told: str) -> None:
    """Each site may have a server of its own: what has the disk's name there is another disk."""
    fake = FakeWorld()
    fake.give_disk()
    fake.hosts["bucharest"].pools, fake.hosts["berlin"].pools = (NFS,), there
    (found,) = findings(fake)
    assert (found.code, found.subject) == ("pool-missing", "host berlin") and told in found.message


@pytest.mark.parametrize(("there", "found"), [(("lake",), []), (("pond",), ["pool-missing"])])
def test_a_shared_volume_needs_the_pool_of_its_name(there: tuple[str, ...], found: list[str]) -> None:
    fake, lake = FakeWorld(), Pool("lake", "rbd", "", 1 << 40, shared=True, source="mon-1 vms")
    alter_domain(fake, disks=(Disk("vda", "lake", True, False, "volume", "raw"),))
    fake.hosts["bucharest"].pools, fake.hosts["berlin"].pools = (lake,), tuple(replace(lake, name=n) for n in there)
    assert codes(findings(fake)) == found


def test_no_pool_no_room_and_a_volume_in_the_way() -> None:
    elsewhere, outside, full, taken = (FakeWorld() for _ in range(4))
    for fake in (elsewhere, outside, full, taken):
        fake.give_disk()
    outside.hosts["bucharest"].pools = ()
    elsewhere.hosts["berlin"].pools = (Pool("default", "dir", "/other", 1 << 40, shared=False),)
    full.hosts["berlin"].pools = (Pool("default", "dir", "/images", 1 << 20, shared=False),)
    taken.hosts["berlin"].disks.bases["/images/web.qcow2"] = ""
    assert codes(findings(elsewhere)) == ["pool-missing"] and "/other" in findings(elsewhere)[0].message
    assert codes(findings(outside)) == ["pool-missing"] and findings(outside)[0].subject == "host bucharest"
    assert codes(findings(full)) == ["pool-full"] and "1 MiB free" in findings(full)[0].message
    assert codes(findings(taken)) == ["volume-in-the-way"]


def test_the_agent() -> None:
    silent, channelless, homeless = FakeWorld(), FakeWorld(), FakeWorld()
    silent.guest.answers = False
    alter_domain(channelless, has_agent_channel=False)
    homeless.guest.address = ""
    assert codes(findings(silent)) == ["no-agent"]
    assert codes(findings(channelless)) == ["no-channel"]
    assert codes(findings(homeless)) == ["no-lease"]


def test_clients_that_cannot_follow() -> None:
    fake = FakeWorld()
    fake.guest.connections += [connection(0xB2, "10.50.1.97", False), connection(0, "10.50.1.97", False)]
    found = findings(fake)
    assert codes(found) == ["client-refuses-add-addr", "client-plain-tcp"]
    assert "add_addr_accepted is 0" in found[0].message
    assert checks.blockers(found) == found
    assert checks.blockers(findings(fake, allow_connection_loss=True)) == []


def test_clients_of_a_guest_whose_card_is_reserved_are_not_asked_and_not_blamed() -> None:
    fake = FakeWorld()
    front = fake.hosts["bucharest"].networks["front"]
    pinned = Reservation(fake.guest.address, fake.guest.mac, "operators")
    fake.hosts["bucharest"].networks["front"] = replace(front, reserved=(pinned,))
    assert codes(findings(fake)) == [], "who has joined before is known"
    fake.guest.connections += [connection(0xB2, fake.guest.address, False), connection(0, fake.guest.address, False)]
    found = findings(fake)
    assert codes(found) == ["clients-unasked", "client-plain-tcp"] and "reserved for its card" in found[0].message
    assert checks.blockers(findings(fake, allow_connection_loss=True)) == []


def test_why_a_client_cannot_follow_is_the_right_reason() -> None:
    fake = FakeWorld()
    full, six = connection(0xB2, "10.50.1.97", False), connection(0xB3, "fd50:1::97", False)
    further = replace(full.subflows[0], local="10.50.1.80", joined=True)
    fake.guest.connections = [
        replace(full, subflows=(*full.subflows, further)),
        replace(six, subflows=(replace(six.subflows[0], remote="fd09::14"),)),
    ]
    found = findings(fake)
    assert codes(found) == ["client-slots-taken", "client-ipv6-only"]
    assert "its slots are taken" in found[0].message and "did not join the IPv4 address" in found[1].message
    assert checks.blockers(findings(fake, allow_connection_loss=True)) == []


def test_old_addresses_that_take_slots_are_withdrawn_by_carry() -> None:
    fake = FakeWorld()
    full = connection(0xB2, "10.50.1.97", False)
    fake.guest.connections = [replace(full, subflows=(*full.subflows, replace(full.subflows[0], joined=True)))]
    assert "vmacro carry" not in findings(fake)[0].hint
    fake.guest.kept = ["10.50.1.80"]
    assert "`vmacro carry`, which withdraws old addresses" in findings(fake)[0].hint


def test_the_moves_own_measuring_does_not_stand_against_it() -> None:
    """Its visitors come by plain TCP, and go."""
    fake = FakeWorld()
    fake.guest.connections = [connection(0, "10.50.1.97", willing=False), connection(0xB2, "10.50.1.97", False)]
    assert codes(findings(fake)) == ["client-plain-tcp", "client-refuses-add-addr"]
    port = fake.guest.connections[0].subflows[0].local_port
    measured = replace(fake.inventory.guests[0], probe=ProbeTarget("lab", port))
    fake.inventory = replace(fake.inventory, guests=(measured,))
    assert codes(findings(fake)) == []


def test_all_findings_come_at_once() -> None:
    fake = FakeWorld()
    fake.guest.answers = False
    alter_network(fake, stp=True, dhcp_free=0)
    fake.hosts["berlin"].facts = replace(fake.hosts["berlin"].facts, free_memory_mib=1)
    assert set(codes(findings(fake))) == {"no-agent", "bridge-stp", "dhcp-exhausted", "memory-short"}


def test_a_guest_that_somebody_else_moves() -> None:
    fake = FakeWorld()
    fake.guest.claim = Claim("web-9", "them@there", 42.0)
    (found,) = findings(fake)
    assert found.code == "guest-claimed" and checks.blockers([found])
    assert "move web-9 of them@there has had it for 42 s" in found.message and "--take-over" in found.hint
    fake.guest.verbs = ("arrive", "status")
    assert codes(findings(fake)) == ["agent-too-old"]


def test_clients_of_a_guest_that_a_move_has_are_not_asked() -> None:
    fake = FakeWorld()
    fake.guest.connections = [connection(1, fake.guest.address, False)]
    fake.guest.claim = Claim("web-0", "me@here", 9.0)
    unasked, claimed = sorted(findings(fake), key=lambda f: f.code)
    assert (unasked.code, claimed.code) == ("clients-unasked", "guest-claimed")
    assert "move web-0 has it" in unasked.message


@pytest.mark.parametrize(
    ("handoff", "known", "full"),
    [
        (SEAMLESS, 6, False),  # and the present one, which becomes a backup, and the new one
        (SEAMLESS, 7, True),
        (RENUMBER, 7, False),
        (RENUMBER, 8, True),
    ],
)
def test_the_guests_kernel_has_room_for_so_many_addresses(handoff: str, known: int, full: bool) -> None:
    fake = FakeWorld()
    fake.guest.endpoints = tuple(f"10.50.3.{n}" for n in range(known))
    assert codes(findings(fake, handoff=handoff)) == (["endpoints-full"] if full else [])


def test_a_public_address_takes_room_of_its_own() -> None:
    fake = FakeWorld()
    fake.guest.endpoints = (fake.guest.address, *(f"10.50.3.{n}" for n in range(6)))
    assert codes(findings(fake, handoff=SEAMLESS)) == []
    here, there = fake.inventory.sites
    public = replace(there.hosts[0], public=(("10.50.2.10", "203.0.113.10"),))
    fake.inventory = replace(fake.inventory, sites=(here, replace(there, hosts=(public,))))
    assert codes(findings(fake, handoff=SEAMLESS)) == ["endpoints-full"]
