"""An operator's own DHCP reservations of a guest's card, on real libvirt, through whole moves. Any sequence of them is
tried in memory (unit/test_whose_reservations.py), each call on libvirt's own code (unit/test_dhcp_entries.py)."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.support import (
    Vmacro,
    Way,
    address_of,
    clients,
    reserved,
    site_of,
    traces_of_moves,
    verdicts,
    virsh,
    without_probers,
)
from vmacro.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow("two moves; in memory: test_whose_reservations")]


def entries(lab: Lab, host: str, address: str) -> list[str]:
    """Of an address, as its host's libvirt has them."""
    rows = virsh(lab, host, "net-dumpxml", "front").splitlines()
    return [row.strip() for row in rows if "<host " in row and f"ip='{address}'" in row]


def test_what_an_operator_has_pinned_stays_as_it_was_written(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    """At home before the move, in capital letters, and at the other site after it; a plain TCP client has the home
    address carried meanwhile, so that its reservation counts."""
    quiet, home, mac = without_probers(vmacro), address_of(lab, "web"), lab.topology.mac("web")
    before = traces_of_moves(lab)
    with ExitStack() as pins:
        pins.enter_context(reserved(lab, way.here, mac.upper(), home))
        (at_home,) = entries(lab, way.here, home)
        with clients(lab, "client", home, "chatter", "tcp-chatter") as process:
            done = quiet("migrate", "web", "--to", way.there)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
            assert entries(lab, way.here, home) == [at_home], "and nothing of ours is beside it"
            new = address_of(lab, "web")
            pins.enter_context(reserved(lab, way.there, mac, new))
            (away,) = entries(lab, way.there, new)
            cleaned = quiet("cleanup")
            assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
            assert entries(lab, way.here, home) == [at_home] and entries(lab, way.there, new) == [away]
            assert verdicts(process) == {"chatter": "", "tcp-chatter": ""}
        carried = quiet("carry")
        assert carried.returncode == 0, carried.stdout + carried.stderr
        assert entries(lab, way.here, home) == [at_home] and entries(lab, way.there, new) == [away]
        back = quiet("migrate", "web", "--to", way.here)
        assert back.returncode == 0, back.stdout[-3000:] + back.stderr
        assert site_of(lab, "web") == way.here and address_of(lab, "web") == home
        assert entries(lab, way.here, home) == [at_home] and entries(lab, way.there, new) == [away]
    assert quiet("carry").returncode == 0
    assert traces_of_moves(lab) == before
