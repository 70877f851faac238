"""Whatever moves, failures, aborts, carriages and cleanups come after each other: no leg of a move that this journal
does not know, and no file that vmacro has not made, is ever changed or removed. The operator's DHCP entries are in
test_whose_reservations.py, and so is how this life goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.faults import Faults
from tests.unit.test_whose_reservations import FAULTS, GUESTS, HOSTS, SITES, WHO, Life
from vmacro.drivers.fake.state import LegKey
from vmacro.model.facts import FileFacts, FoundLegEnd
from vmacro.wire.host_verbs import PLAIN

# Where the guests' own disks are, or come to; beside them; elsewhere.
PATHS = (
    "/images/web.qcow2",
    "/images/shop.qcow2",
    "/images/web.qcow2.vmacro-0a1b",
    "/images/golden.qcow2",
    "/srv/a.iso",
)
THEIRS = "theirs-20261127-120000-0000"


@dataclass
class Neighbourhood(Life):
    """Guests have disks of their own, and others have legs and files at the same hosts."""

    legs: dict[tuple[str, LegKey], FoundLegEnd] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in SITES})

    def __post_init__(self) -> None:
        super().__post_init__()
        for guest in GUESTS:
            self.fake.give_disk(guest)

    def is_untouched(self) -> None:
        super().is_untouched()
        for (name, key), end in self.legs.items():
            found = self.fake.hosts[name].legs.get(key)
            # Of a guest's legs all are turned where it pauses, whoever has made them.
            assert found is not None and replace(found, points_to=end.points_to) == end, (name, key, found)
            assert end.domain in GUESTS or found == end, (name, found)
        for name, paths in self.files.items():
            bases = self.fake.hosts[name].disks.bases
            assert {path: bases.get(path) for path in paths} == dict.fromkeys(paths, ""), name

    def tunnel(self, host: str, domain: str, side: str, address: str) -> None:
        """Of another orchestrator, whose move of that domain is under way."""
        end = FoundLegEnd(
            side, "wireguard", THEIRS, domain, address, "52:54:00:77:77:77", "front0", "10.9.0.9", "guest"
        )
        self.fake.hosts[host].legs.setdefault((THEIRS, address), end)
        self.legs.setdefault((host, (THEIRS, address)), end)

    def put(self, host: str, path: str) -> None:
        """A file of the operator's, where there is none yet."""
        there = self.fake.hosts[host]
        if path not in there.disks.bases and path not in there.disks.overlays:
            there.disks.bases[path] = ""
            there.files[path] = FileFacts(path, PLAIN, 7)
            self.files[host].add(path)

    def put_meanwhile(self, guest: str, to: str, number: int, host: str, path: str) -> None:
        """While a guest moves."""
        self.migrate(guest, to, Faults(number, "before", lambda _call: self.put(host, path)))


DOMAINS = st.sampled_from([*GUESTS, "lodger"])
LEG_ADDRESSES = st.sampled_from(["10.50.1.98", "10.50.2.98", "10.50.1.60", "10.50.2.60"])
STEPS = st.one_of(
    st.tuples(st.just("migrate"), WHO, HOSTS, FAULTS),
    st.tuples(st.just("put"), HOSTS, st.sampled_from(PATHS)),
    st.tuples(st.just("put_meanwhile"), WHO, HOSTS, st.integers(0, 120), HOSTS, st.sampled_from(PATHS)),
    st.tuples(st.just("tunnel"), HOSTS, DOMAINS, st.sampled_from(["home", "away"]), LEG_ADDRESSES),
    st.tuples(st.just("resume"), WHO, st.booleans(), FAULTS),
    st.tuples(st.just("carry")),
    st.tuples(st.just("cleanup")),
    st.tuples(st.just("hang_up"), WHO),
)
AWAY, HOME = (("migrate", "web", site, Faults()) for site in ("berlin", "bucharest"))


@example([("put", "berlin", PATHS[0]), AWAY, ("cleanup",)])
@example([("put_meanwhile", "web", "berlin", 40, "berlin", PATHS[0]), ("resume", "web", True, Faults()), ("cleanup",)])
@example([("tunnel", "bucharest", "lodger", "home", "10.50.1.60"), AWAY, HOME, ("carry",), ("cleanup",)])
@example([("tunnel", "berlin", "web", "away", "10.50.1.60"), AWAY, ("hang_up", "web"), HOME, ("cleanup",)])
@example([("migrate", "shop", "berlin", Faults()), ("tunnel", "bucharest", "web", "home", "10.50.1.98")])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=10))
def test_legs_and_files_of_others_are_never_touched_and_of_ours_no_leg_is_left(steps: list[tuple[object, ...]]) -> None:
    life = Neighbourhood()
    for verb, *how in steps:
        how = [replace(x, calls=[]) if isinstance(x, Faults) else x for x in how]
        getattr(life, str(verb))(*how)
        life.is_untouched()
    life.come_to_rest()
    life.is_untouched()
    assert {key[0] for host in life.fake.hosts.values() for key in host.legs} <= {THEIRS}


def test_the_property_can_fail() -> None:
    """It misses a leg, a file, and a file that has become a guest's."""
    spoiling: tuple[Callable[[Neighbourhood], object], ...] = (
        lambda life: life.fake.hosts["berlin"].legs.clear(),
        lambda life: life.fake.hosts["berlin"].disks.bases.pop(PATHS[3]),
        lambda life: life.fake.hosts["berlin"].disks.bases.update({PATHS[3]: "0a1b"}),
    )
    for spoil in spoiling:
        life = Neighbourhood()
        life.tunnel("berlin", "lodger", "home", "10.50.2.60")
        life.put("berlin", PATHS[3])
        life.migrate("web", "berlin", Faults())
        assert life.fake.running_at("web") == ["berlin"]
        life.is_untouched()
        spoil(life)
        try:
            life.is_untouched()
        except AssertionError:
            continue
        raise AssertionError("what was taken was not missed")
