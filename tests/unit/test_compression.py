"""Which copies are compressed, and what they are expected to take: on made-up hosts and earlier copies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_migrate import Straight
from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.libvirt import xml
from vmacro.errors import AgentError, CopyError, HostError
from vmacro.model.copies import CopyStatistics, Forecast, PastCopy
from vmacro.model.events import Event, Note
from vmacro.model.facts import Past, Survey
from vmacro.model.moves import Ending, Finding
from vmacro.model.nouns import Compression, Policy
from vmacro.planning import capabilities, compression, forecast
from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import measured, migrate
from vmacro.services.survey import survey
from vmacro.wire import fields

MIB = 1 << 20
SENT_MIB, TOOK_MS = 150, 10_000


def copied(**change: Any) -> PastCopy:
    statistics = CopyStatistics(180, TOOK_MS, SENT_MIB * MIB, 3)
    return replace(PastCopy("bucharest", "berlin", Compression.OFF, 256, statistics), **change)


def asked(fake: FakeWorld, compression: Compression = Compression.AUTO, **policy: Any) -> Request:
    guest, there = fake.inventory.guests[0], fake.inventory.sites[1]
    return Request(guest, there, RENUMBER, Policy(compression=compression, **policy), host="berlin")


def seen(fake: FakeWorld, *copies: PastCopy) -> Survey:
    guest, past = fake.inventory.guests[0], Past(copies=copies)
    return survey(fake.inventory, guest, fake.world, False, False, past=past, measure=True)


def lesser(fake: FakeWorld, at: str) -> FakeWorld:
    facts = fake.hosts[at].facts
    lacking = replace(facts.capabilities, compressed_copy=False)
    fake.hosts[at].facts = replace(facts, capabilities=lacking, libvirt_version=(9, 0, 0))
    return fake


BY_POLICY = "(policy bandwidth_mib_s)"


@pytest.mark.parametrize(
    ("policy", "copies", "method", "said"),
    [
        ({}, (), Compression.ZSTD, "auto: nothing says how fast the link is, and it leads to another site"),
        ({"bandwidth_mib_s": 19}, (), Compression.ZSTD, f"auto: the link takes 19 MiB/s {BY_POLICY}"),
        ({"bandwidth_mib_s": 149}, (), Compression.ZSTD, f"auto: the link takes 149 MiB/s {BY_POLICY}"),
        (
            {"bandwidth_mib_s": 150},
            (),
            Compression.OFF,
            f"auto: the link takes 150 MiB/s {BY_POLICY}, as much as a processor compresses",
        ),
        ({}, (copied(),), Compression.ZSTD, "auto: the link takes 15 MiB/s (as earlier copies went)"),
        (
            {"bandwidth_mib_s": 900},
            (copied(),),
            Compression.ZSTD,
            "auto: the link takes 15 MiB/s (as earlier copies went)",
        ),
        ({"bandwidth_mib_s": 900, "compression": Compression.ZSTD}, (), Compression.ZSTD, "policy compression"),
        ({"bandwidth_mib_s": 1, "compression": Compression.OFF}, (), Compression.OFF, "policy compression"),
    ],
)
def test_it_is_as_the_link_is(policy: dict[str, Any], copies: tuple[PastCopy, ...], method: str, said: str) -> None:
    fake = FakeWorld()
    chosen = compression.between(asked(fake, **policy), seen(fake, *copies))
    assert chosen is not None and (chosen.method, chosen.because) == (method, said)


def test_the_fastest_of_the_earlier_copies_over_this_link_counts() -> None:
    fake = FakeWorld()
    fast = copied(statistics=CopyStatistics(180, 1000, 400 * MIB, 3), source="berlin", destination="bucharest")
    chosen = compression.between(asked(fake), seen(fake, copied(), fast))
    assert chosen is not None and (chosen.method, "400 MiB/s" in chosen.because) == (Compression.OFF, True)
    fast_processor = replace(fast, compression=Compression.ZSTD)
    chosen = compression.between(asked(fake), seen(fake, copied(), fast_processor))
    assert chosen is not None and (chosen.method, "15 MiB/s" in chosen.because) == (Compression.ZSTD, True)
    elsewhere = replace(fast, source="berlin", destination="paris")
    chosen = compression.between(asked(fake), seen(fake, copied(), elsewhere))
    assert chosen is not None and chosen.method == Compression.ZSTD


@pytest.mark.parametrize(("at", "side"), [("bucharest", "source"), ("berlin", "destination")])
def test_a_host_that_cannot_is_named_and_asked_for_nothing(at: str, side: str) -> None:
    fake = lesser(FakeWorld(), at)
    for policy in ({}, {"compression": Compression.ZSTD}):
        chosen = compression.between(asked(fake, **policy), seen(fake))
        assert chosen is not None and chosen.method == Compression.OFF
        assert chosen.because.startswith(f"the {side}'s QEMU with libvirt 9.0.0 compresses no copies")
        said = [f.message for f in capabilities.findings(asked(fake, **policy), seen(fake))]
        assert said == (["its QEMU does not heed these of the policy: compression"] if policy else [])


@pytest.mark.parametrize(
    ("built", "method"),
    [(("none", "zlib", "zstd"), Compression.ZSTD), ((), Compression.ZSTD), (("none", "zlib"), Compression.OFF)],
    ids=["with", "nobody knows", "without"],
)
@pytest.mark.parametrize(("at", "side"), [("bucharest", "source"), ("berlin", "destination")])
def test_a_qemu_that_was_built_without_zstd_is_not_asked_for_it(
    at: str, side: str, built: tuple[str, ...], method: Compression
) -> None:
    """Its version, and libvirt's, say that it can; the copy failed then."""
    fake = FakeWorld()
    fake.hosts[at].links = replace(fake.hosts[at].links, compressions=built)
    request = replace(asked(fake, compression=Compression.ZSTD), handoff=SEAMLESS)
    now = measured.look(fake.inventory, request, fake.world, ask_clients=False, measure=False)
    chosen = compression.between(request, now)
    assert chosen is not None and chosen.method == method
    unheeded = [f.message for f in capabilities.findings(request, now)]
    if method == Compression.OFF:
        assert chosen.because == f"the {side}'s QEMU was built without zstd (it has none, zlib)"
        assert unheeded == ["its QEMU does not heed these of the policy: compression"]
    else:
        assert unheeded == []


def expected(fake: FakeWorld, *copies: PastCopy, method: Compression = Compression.OFF, **policy: Any) -> Forecast:
    found = forecast.forecast(asked(fake, **policy), seen(fake, *copies), method)
    assert found is not None
    return found


@pytest.mark.parametrize("at", ["bucharest", "berlin"])
def test_nothing_is_expected_where_one_of_the_hosts_is_not_known(at: str) -> None:
    fake = FakeWorld()
    whole = seen(fake, copied())
    silent = (replace(view, facts=None, domain=None) if view.host == at else view for view in whole.views)
    half = replace(whole, views=tuple(silent))
    assert forecast.forecast(asked(fake), half, Compression.OFF) is None
    assert compression.between(asked(fake), half) is None


def test_the_next_copy_is_expected_to_be_as_the_last_ones_of_its_kind() -> None:
    fake = FakeWorld()
    sizes = [100, 140, 120, 110, 130, 999]
    copies = [copied(statistics=CopyStatistics(s, s * 100, s * MIB, 3)) for s in sizes]
    others = [copied(compression=Compression.ZSTD), copied(memory_mib=512), copied(source="paris")]
    found = expected(fake, *others, *copies, bandwidth_mib_s=19)
    assert (found.bytes_sent, found.seconds, found.pause_ms) == (120 * MIB, 12.0, 120), "of the last five"
    assert found.because == "as its last 5 copies went" and found.dirty_mib_s == 1.0
    assert expected(fake, copied()).because == "as its last copy went"


@pytest.mark.parametrize("dirty_mib_s", [1.0, float(1 << 40)])
@pytest.mark.parametrize(
    ("method", "figures"),
    [
        (Compression.OFF, CopyStatistics(180, TOOK_MS, SENT_MIB * MIB, 3)),
        (Compression.OFF, CopyStatistics(1 << 53, 1 << 53, 1 << 53, 1 << 53)),
        (Compression.OFF, CopyStatistics(0, 0, 0, 0)),
        (Compression.ZSTD, CopyStatistics(1, 1 << 53, 1, 1)),
    ],
    ids=["usual", "most", "none", "slowest"],
)
def test_whatever_hosts_have_said_the_journal_reads_what_is_expected(
    method: Compression, figures: CopyStatistics, dirty_mib_s: float
) -> None:
    """A plan that it could not read back would be a move that nobody can resume or abort."""
    fake = FakeWorld()
    fake.hosts["bucharest"].dirtied["web"] = dirty_mib_s
    found = expected(fake, copied(statistics=figures), method=method)
    assert fields.decode(Forecast, fields.encode(found)) == found


def test_the_first_copy_is_reckoned_with_the_guests_memory_and_what_it_changes() -> None:
    fake = FakeWorld()
    fake.hosts["bucharest"].dirtied["web"] = 0.0
    calm = expected(fake, bandwidth_mib_s=20)
    assert calm.bytes_sent == int(256 * forecast.SENT_AT_FIRST * MIB) and calm.seconds == pytest.approx(7.7)
    assert "at most, if 60% of its 256 MiB are in use" in calm.because and "20 MiB/s" in calm.because
    fake.hosts["bucharest"].dirtied["web"] = 10.0
    assert expected(fake, bandwidth_mib_s=20).bytes_sent == pytest.approx(2 * calm.bytes_sent, rel=1e-6)
    fake.hosts["bucharest"].dirtied["web"] = 500.0
    assert expected(fake, bandwidth_mib_s=20).bytes_sent == pytest.approx(10 * calm.bytes_sent, rel=1e-6), "no more"
    thin = expected(fake, bandwidth_mib_s=20, method=Compression.ZSTD)
    assert thin.bytes_sent < 0.4 * 10 * calm.bytes_sent
    assert forecast.forecast(asked(fake), seen(fake), Compression.OFF) is None, "nothing says how fast the link is"


def outrun(fake: FakeWorld, **policy: Any) -> list[Finding]:
    return [*forecast.findings(asked(fake, **policy), seen(fake))]


def test_a_guest_that_outruns_its_copy_is_told_of_with_the_choices() -> None:
    fake = FakeWorld()
    fake.hosts["bucharest"].dirtied["web"] = 18.0
    assert outrun(fake, bandwidth_mib_s=19) == [], "compressed it is a third"
    (plain,) = outrun(fake, bandwidth_mib_s=19, compression=Compression.OFF)
    assert (plain.code, plain.severity, plain.subject) == ("copy-outrun", "warning", "guest web")
    assert "changes 18 MiB/s of its memory" in plain.message and "slowing the guest down" in plain.message
    assert 'compression = "zstd"' in plain.hint and "auto_converge" not in plain.hint
    (firm,) = outrun(fake, bandwidth_mib_s=5, auto_converge=False)
    assert firm.message.endswith("gets 5 (policy bandwidth_mib_s): it does not end") and "auto_converge" in firm.hint
    assert "zstd" not in firm.hint
    assert outrun(fake) == [], "nothing says how fast the link is"
    fake.hosts["bucharest"].dirtied["web"] = 17.0
    assert outrun(fake, bandwidth_mib_s=19, compression=Compression.OFF) == [], "less than nine tenths"


def test_a_host_that_does_not_measure_stops_nothing() -> None:
    fake = FakeWorld()
    fake.hosts["bucharest"].domains["web"] = replace(fake.hosts["bucharest"].domains["web"], state="paused")
    assert seen(fake).view("bucharest").dirty_mib_s is None


@pytest.mark.parametrize(("wanted", "left_mib"), [(True, 0), (False, 40)])
def test_the_page_cache_goes_before_the_copy_where_policy_says_so(wanted: bool, left_mib: int) -> None:
    fake, notes = dropping(wanted)
    assert fake.guest.cached_mib == left_mib
    assert notes == (["the guest has let go 40 MiB that it kept of files"] if wanted else [])


def test_a_guest_that_keeps_its_page_cache_moves_all_the_same() -> None:
    fake, notes = dropping(True, broken="agent.drop")
    assert fake.guest.cached_mib == 40 and notes == ["the guest keeps its page cache: guest web: does not want to"]
    assert fake.hosts["berlin"].domains["web"].running


def dropping(wanted: bool, broken: str = "") -> tuple[FakeWorld, list[str]]:
    fake, notes = FakeWorld(), list[str]()

    def before(effect: str) -> None:
        if effect == broken:
            raise AgentError("guest web: does not want to")

    fake.before = before
    request = asked(fake, drop_page_cache=wanted)
    seen_now = measured.look(fake.inventory, request, fake.world, ask_clients=False)
    plan = measured.planned("web-1", fake.inventory, request, seen_now)

    def publish(event: Event) -> None:
        if isinstance(event.what, Note) and "guest" in event.text:
            notes.append(event.text)

    outcome = migrate.run_move(plan, replace(fake.world, publish=publish), Straight())
    assert outcome.ending == Ending.MOVED
    return fake, notes


@pytest.mark.parametrize(
    ("balloon", "reports"),
    [
        ("<memballoon model='virtio' freePageReporting='on'/>", True),
        ("<memballoon model='virtio' freePageReporting='off'/>", False),
        ("<memballoon model='virtio'/>", False),
        ("<memballoon model='none'/>", False),
        ("", False),
    ],
)
def test_which_domains_report_free_pages(balloon: str, reports: bool) -> None:
    described = xml.domain(f"<domain type='kvm'><memory>1024</memory><devices>{balloon}</devices></domain>")
    assert described.reports_free_pages == reports


@pytest.mark.parametrize("handoff", [SEAMLESS, RENUMBER])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("method", "wide"), [(Compression.ZSTD, {"web-1": "10.9.0.2"}), (Compression.OFF, {})])
def test_the_sources_way_to_the_destination_is_wide_while_memory_is_compressed(
    method: Compression, wide: dict[str, str], handoff: str, fails: bool
) -> None:
    """It ends with its move, however that ends. No `renumber` had one."""
    fake, seen = FakeWorld(), list[dict[str, str]]()
    another = {"busy-2": "10.9.0.2"}
    fake.hosts["bucharest"].wide |= another

    def before(effect: str) -> None:
        if effect == "copy bucharest":
            seen.append({**fake.hosts["bucharest"].wide})
            if fails:
                raise CopyError("host bucharest: copies nothing")

    fake.before = before
    assert moved(fake, method, handoff) == (Ending.ROLLED_BACK if fails else Ending.MOVED)
    assert seen == [another | wide] and fake.hosts["bucharest"].wide == another and not fake.hosts["berlin"].wide


def test_a_way_that_stays_narrow_stops_no_move() -> None:
    fake = FakeWorld()

    def before(effect: str) -> None:
        if effect == "link.widen bucharest":
            raise HostError("host bucharest: does not know this")

    fake.before = before
    assert moved(fake, Compression.ZSTD, SEAMLESS) == Ending.MOVED and fake.hosts["bucharest"].wide == {}


def moved(fake: FakeWorld, method: Compression, handoff: str) -> Ending:
    request = replace(asked(fake, compression=method), handoff=handoff)
    now = measured.look(fake.inventory, request, fake.world, ask_clients=False)
    plan = measured.planned("web-1", fake.inventory, request, now)
    return migrate.run_move(plan, fake.world, Straight()).ending
