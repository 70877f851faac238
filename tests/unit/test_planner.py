"""What is planned from what was found, field by field."""

from __future__ import annotations

from dataclasses import replace

from vmacro.drivers.fake import FakeWorld
from vmacro.model.facts import Claim, HomedAddress, HostView, Leg, Reservation
from vmacro.model.moves import Plan
from vmacro.planning import doctor, planner
from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import measured

MAC = "52:54:00:00:00:01"


def planned(fake: FakeWorld, handoff: str, take_over: bool = False) -> Plan:
    known = fake.inventory
    wanted = Request(known.guests[0], known.sites[1], handoff, known.policy, "me@here", take_over)
    seen = measured.look(known, wanted, fake.world, ask_clients=True)
    return planner.plan("web-1", known, wanted, seen)


def test_a_plan_to_renumber() -> None:
    fake = FakeWorld()
    here, there = fake.inventory.hosts
    assert planned(fake, RENUMBER) == Plan(
        move_id="web-1",
        handoff=RENUMBER,
        guest=fake.inventory.guests[0],
        source=here,
        destination=there,
        policy=fake.inventory.policy,
        hypervisor="QEMU 10.0.0",
        accelerator="kvm",
        mac=MAC,
        address="10.50.1.97",
        boot_id="boot-1",
        operator="me@here",
        chosen_because="the only host of site berlin",
        memory_mib=256,
        uuid="uuid-1",
        compression_because="policy compression",
    )


def test_a_plan_for_a_seamless_move() -> None:
    fake = FakeWorld()
    here, there = fake.inventory.hosts
    front = fake.hosts["berlin"].networks
    front["front"] = replace(front["front"], bridge="front1")
    found = planned(fake, SEAMLESS)
    assert found.new_legs == (
        Leg(
            "web-1",
            "web",
            MAC,
            "10.50.2.10",
            "wireguard",
            home=there,
            away=here,
            home_bridge="front1",
            away_bridge="front0",
            subnet="10.50.2.0/24",
        ),
    )
    assert found.old_legs == (
        Leg(
            "web-1",
            "web",
            MAC,
            "10.50.1.97",
            "wireguard",
            home=here,
            away=there,
            home_bridge="front0",
            away_bridge="front1",
            subnet="10.50.1.0/24",
        ),
    )
    assert found.addresses == (HomedAddress("10.50.1.97", here),) and found.earlier_legs == ()
    assert (found.new_address, found.new_address6, found.reserve) == ("10.50.2.10", "", True)
    fake.hosts["berlin"].networks["front"] = replace(front["front"], reserved=(Reservation("10.50.2.10", MAC),))
    assert not planned(fake, SEAMLESS).reserve, "it is there already"


def test_a_claim_is_taken_over_only_if_asked_to() -> None:
    fake = FakeWorld()
    fake.guest.claim = Claim("web-9", "them@there", 42.0)
    assert planned(fake, SEAMLESS).takes_over == ""
    assert planned(fake, SEAMLESS, take_over=True).takes_over == "web-9"


def test_a_moves_name_is_short_and_says_whose_and_when() -> None:
    assert planner.move_id("web", "20261123-024501", "3f9a") == "web-20261123-024501-3f9a"
    assert planner.move_id("w" * 50, "then", "3f9a") == "w" * 40 + "-then-3f9a"


def test_what_a_host_lacks_comes_with_its_fix() -> None:
    fake = FakeWorld()
    site = fake.inventory.sites[0]
    bare = replace(site, hosts=(replace(site.hosts[0], subnet="192.0.2.0/24"),))
    known = replace(fake.inventory, sites=(bare, fake.inventory.sites[1]))
    dead = HostView("berlin", "berlin", trouble="no answer")
    (silent,) = doctor.examine(known, [dead])
    assert (silent.message, silent.hint) == ("no answer", "a bare host: vmacro provision hosts")
    (silent,) = doctor.examine(known, [replace(dead, trouble_hint="is it up?")])
    assert silent.hint == "is it up?; a bare host: vmacro provision hosts"
    network = fake.hosts["bucharest"].networks["front"]
    differs = next(f for f in doctor.examine(known, [HostView("bucharest", "bucharest", network=network)]))
    assert differs.message == "network 'front' has subnet 10.50.1.0/24, the inventory says 192.0.2.0/24"
    assert (differs.code, differs.hint) == ("subnet-differs", "correct the one that is wrong")
