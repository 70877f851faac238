"""What is missing is found wherever it is, each thing once, and with its fix."""

from __future__ import annotations

from dataclasses import replace

from vmacro.drivers.fake import FakeWorld
from vmacro.model.facts import NO_PAST, Disk
from vmacro.model.moves import Finding
from vmacro.model.nouns import Inventory
from vmacro.services.doctor import examine


def examined(fake: FakeWorld, inventory: Inventory | None = None) -> list[Finding]:
    return examine(inventory or fake.inventory, fake.world, lambda _what: None, lambda _guest: NO_PAST)


def test_a_world_that_is_well() -> None:
    assert [f for f in examined(FakeWorld()) if f.severity == "blocker"] == []


def test_hosts_are_looked_at_though_no_guest_is_known() -> None:
    fake = FakeWorld()
    nobody = replace(fake.inventory, guests=())
    fake.hosts["berlin"].networks.clear()
    fake.hosts["bucharest"].reachable = False
    found = {f.code: f for f in examined(fake, nobody)}
    assert found["network-missing"].subject == "host berlin" and "--tags network" in found["network-missing"].hint
    assert found["host-unreachable"].subject == "host bucharest"


def test_a_host_that_does_not_answer_is_told_once() -> None:
    fake = FakeWorld()
    fake.hosts["berlin"].reachable = False
    (found,) = [f for f in examined(fake) if f.subject == "host berlin"]
    assert (found.code, found.severity) == ("host-unreachable", "blocker")


def test_a_subnet_that_is_not_the_inventorys() -> None:
    fake = FakeWorld()
    sites = tuple(
        replace(s, hosts=tuple(replace(h, subnet="192.0.2.0/24") for h in s.hosts)) for s in fake.inventory.sites
    )
    found = [f for f in examined(fake, replace(fake.inventory, sites=sites)) if f.code == "subnet-differs"]
    assert [f.subject for f in found] == ["host bucharest", "host berlin"] and "192.0.2.0/24" in found[0].message


def test_what_two_sites_find_is_told_once() -> None:
    fake = FakeWorld()
    domains = fake.hosts["bucharest"].domains
    domains["web"] = replace(domains["web"], disks=(Disk("vda", "/dev/vg/d", True, False, "block", "raw"),))
    found = [f for f in examined(fake) if f.code == "disk-kind"]
    assert len(found) == 1 and found[0].subject == "guest web"


def test_certificates_and_blockers_first() -> None:
    fake = FakeWorld()
    fake.hosts["berlin"].facts = replace(fake.hosts["berlin"].facts, certificate_days_left=3.0)
    fake.hosts["bucharest"].networks["front"] = replace(fake.hosts["bucharest"].networks["front"], stp=True)
    codes = [f.code for f in examined(fake)]
    assert codes.count("certificate-expires") == 1 and codes[0] == "bridge-stp"
