"""A guest whose card is held to the one address that libvirt has learnt (`clean-traffic` without an address): refused
where that can be known, and where it cannot, nobody is told that the guest has moved while its new address is dead:
by what the destination's libvirt says then, and by packets."""

from __future__ import annotations

import json
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.domains import FILE, defined_as_before, hosts_as_they_are, told
from tests.lab.test_obstacles import blocking, findings, refused
from tests.support import (
    Vmacro,
    Way,
    address_of,
    clients,
    on_host,
    site_of,
    summary,
    traces_of_moves,
    verdicts,
    virsh,
    without_probers,
)
from vmacro.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow("three moves, each with its resume; by packets: contract/test_reach")]
# The house's own, by one name and UUID at both hosts: one holds nobody to anything.
HOUSE = "house"
FILTER = f"<filter name='{HOUSE}'><uuid>5ca1ab1e-0000-4000-8000-000000000003</uuid>{{}}</filter>"
LOOSE, STRICT = FILTER.format(""), FILTER.format("<filterref filter='clean-traffic'/>")


def card_with(lab: Lab, host: str, name: str) -> str:
    """The card of the running `web` with this filter, without an address; '' for none."""
    card = ElementTree.fromstring(virsh(lab, host, "dumpxml", "web")).find("devices/interface")
    assert card is not None
    for old in card.findall("filterref"):
        card.remove(old)
    if name:
        ElementTree.SubElement(card, "filterref", filter=name)
    return ElementTree.tostring(card, encoding="unicode")


def filtered(lab: Lab, host: str, name: str) -> None:
    told(lab, host, card_with(lab, host, name), "update-device", "web", FILE, "--live")


@contextmanager
def held(lab: Lab, host: str, name: str) -> Iterator[None]:
    with defined_as_before(lab, host):
        filtered(lab, host, name)
        try:
            yield
        finally:
            filtered(lab, site_of(lab, "web"), "")


@contextmanager
def house_filters(lab: Lab, way: Way, there: str) -> Iterator[None]:
    for host, text in ((way.here, LOOSE), (way.there, there)):
        told(lab, host, text, "nwfilter-define", FILE)
    try:
        yield
    finally:
        for host in (way.here, way.there):
            virsh(lab, host, "nwfilter-undefine", HOUSE)


def test_a_card_that_is_held_to_what_it_was_first_seen_with_is_refused(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    with held(lab, way.here, "clean-traffic"), clients(lab, "client", address_of(lab, "web"), "chatter") as process:
        before = hosts_as_they_are(lab)
        found = findings(vmacro, way, 3)
        assert blocking(found) == {"anti-spoofing"}, found
        assert "holds it to one address, which libvirt learns" in json.dumps(found)
        refused(vmacro, way, found)
        assert hosts_as_they_are(lab) == before
        assert verdicts(process) == {"chatter": ""}


def test_a_filter_that_is_another_there_is_refused(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    with house_filters(lab, way, STRICT), held(lab, way.here, HOUSE):
        before = hosts_as_they_are(lab)
        found = findings(vmacro, way, 3)
        assert blocking(found) == {"anti-spoofing"} and f"as {way.there} has it" in json.dumps(found), found
        refused(vmacro, way, found)
        assert hosts_as_they_are(lab) == before


def by_a_filter(_lab: Lab, _way: Way, _old: str) -> str:
    """It learns: it lets all pass at first, and may close after both hosts have asked."""
    return f"echo {shlex.quote(STRICT)} > {FILE}; virsh nwfilter-define {FILE} >&2"


def by_rules(lab: Lab, way: Way, old: str) -> str:
    """Of the host's own, of which its libvirt knows nothing."""
    card = virsh(lab, way.here, "domiflist", "web").split()[-1]
    drops = (f"arp saddr ip != {{ 0.0.0.0, {old} }} drop", f"ip saddr != {{ 0.0.0.0, {old} }} drop")
    rules = " ; ".join(f"ether saddr {card} {drop}" for drop in drops)
    chain = f"chain c {{ type filter hook prerouting priority -400 ; {rules} ; }}"
    return f"echo {shlex.quote(f'table bridge {HOUSE} {{ {chain} ; }}')} | nft -f - >&2"


def without_rules(lab: Lab, host: str) -> None:
    on_host(lab, host, "nft", "delete", "table", "bridge", HOUSE)


def without_filter(lab: Lab, host: str) -> None:
    filtered(lab, host, "")


@pytest.mark.parametrize(
    ("when", "closed", "reason", "opened"),
    [
        pytest.param("before", by_a_filter, "to one address, which libvirt learns", without_filter, id="by a filter"),
        pytest.param("before", by_rules, "is not reached", without_rules, id="by rules"),
        pytest.param("after", by_rules, "is not reached", without_rules, id="by rules, once it was reached"),
    ],
)
def test_what_nobody_could_know(
    lab: Lab,
    vmacro: Vmacro,
    way: Way,
    when: str,
    closed: Callable[[Lab, Way, str], str],
    reason: str,
    opened: Callable[[Lab, str], None],
) -> None:
    """Once it was checked, before the copy or after it, somebody has the destination let nothing pass from the new
    address, at once or as soon as libvirt has learnt another. It keeps the old one, by which its clients live, until
    that is mended."""
    quiet, old, before = without_probers(vmacro), address_of(lab, "web"), traces_of_moves(lab)
    hook = hook_at(lab, quiet, way.there, closed(lab, way, old))
    hooked = quiet.altered("hooked.toml", lambda t: f'{t}\n[hooks]\n{when} = ["{hook}"]\n')
    loose, client = house_filters(lab, way, LOOSE), clients(lab, "client", old, "chatter", "tcp-chatter")
    with loose, held(lab, way.here, HOUSE), client as process:
        done = hooked("migrate", "web", "--to", way.there, "--json")
        assert done.returncode == 5, done.stdout[-3000:] + done.stderr
        assert reason in summary(done)["reason"], summary(done)["reason"]
        assert site_of(lab, "web") == way.there
        carried = {row["address"] for row in json.loads(quiet("carried", "--json").stdout)}
        assert carried == {old}, "nothing is withdrawn"
        opened(lab, way.there)
        resumed = quiet("resume", summary(done)["move_id"], "--json")
        assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr
        assert verdicts(process) == {"chatter": "", "tcp-chatter": ""}
    assert quiet("carry").returncode == 0
    assert traces_of_moves(lab) == before


def hook_at(lab: Lab, vmacro: Vmacro, host: str, script: str) -> Path:
    """A hook that runs a script at a host."""
    leader, path = lab.host(host).leader, vmacro.folder / "hook"
    assert leader is not None
    path.write_text(f"#!/bin/sh\nexec nsenter -t {leader.pid} -a sh -c {shlex.quote(script)}\n")
    path.chmod(0o755)
    return path
