"""What a host decides as a guest pauses and resumes: its legs, its fence, and what it says of that. No root needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import libvirt
import pytest
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import switchover
from vmacro.host.errors import RefusedError
from vmacro.host.legs import LegEnd
from vmacro.host.switchover import Switchover, Tap
from vmacro.wire.host_verbs import FENCED, GUEST, MOST_TURNS, STAYED, TUNNEL, UNKNOWN, MacUser, Turn

LEG = LegEnd("home", "vxlan", "web-1", "web", "10.1.0.7", "52:54:00:00:00:01", "front0", "10.9.0.6")
LEG6 = replace(LEG, address="fd50::7")
OTHER = replace(LEG, move="db-1", domain="db", address="10.1.0.8", mac="52:54:00:00:00:02")
OTHER_MAC = "52:54:00:00:01:01"
DEVICES = {"web": [Tap("tap1", OTHER_MAC), Tap("tap2", LEG.mac)], "db": [Tap("tap3", OTHER.mac)]}


@dataclass
class Kernel:
    """Implements Network. `points` is where each address's packets go; everything starts at the guest."""

    legs: list[LegEnd]
    points: dict[str, str] = field(default_factory=dict)
    fences: set[str] = field(default_factory=set)
    overheard: list[Ear] = field(default_factory=list)
    error: Exception | None = None
    holds: list[Held] = field(default_factory=list)

    def hold(self, bridge: str, mac: str) -> Held:
        self.holds.append(Held(bridge, mac))
        return self.holds[-1]

    def ends(self, domain: str) -> list[LegEnd]:
        return [leg for leg in self.legs if leg.domain == domain]

    def point(self, end: LegEnd, to: str) -> None:
        if self.error is not None:
            raise self.error
        self.points[end.address] = to

    def overhear(self, tap: str) -> Ear:
        self.overheard.append(Ear(self, tap))
        return self.overheard[-1]

    def put_up_fence(self, tap: str) -> None:
        self.fences.add(tap)

    def take_down_fence(self, tap: str) -> None:
        self.fences.discard(tap)

    def fence_stands(self, tap: str) -> bool:
        return tap in self.fences


@dataclass
class Ear:
    """Implements Overheard."""

    kernel: Kernel
    tap: str
    open: bool = True

    def send_on(self, legs: list[LegEnd]) -> int:
        assert self.open and all(self.kernel.points[leg.address] == TUNNEL for leg in legs), "the turn comes first"
        return len(legs)

    def close(self) -> None:
        self.open = False


@dataclass
class Held:
    """Implements Holding: three packets."""

    bridge: str
    mac: str
    device: str = ""
    open: bool = True

    def release(self, device: str, told: Callable[[int], None]) -> None:
        assert self.open
        self.device, self.open = device, False
        told(3)

    def close(self) -> None:
        self.open = False


@dataclass
class Libvirt:
    """Implements Domains."""

    devices: dict[str, list[Tap]]
    listening: bool = False
    cards: dict[str, str] = field(default_factory=dict)
    late: bool = False
    expected: list[str] = field(default_factory=list)
    blind: set[str] = field(default_factory=set)

    def expect(self, domain: str) -> None:
        self.expected.append(domain)

    def sees_pauses(self, domain: str) -> bool:
        return domain not in self.blind

    def listen(self) -> bool:
        heard, self.listening = self.listening, True
        return heard

    def taps(self, domain: str) -> list[Tap]:
        return self.devices.get(domain, [])

    def with_card(self, mac: str) -> list[MacUser]:
        return [MacUser(name, "", True) for name, of in self.cards.items() if of == mac]


@dataclass
class Host:
    """One on which `web` and `db` run, with legs of both; `web` has a card on another network first."""

    kernel: Kernel = field(default_factory=lambda: Kernel([LEG, LEG6, OTHER]))
    libvirt: Libvirt = field(default_factory=lambda: Libvirt(dict(DEVICES)))

    def __post_init__(self) -> None:
        self.switchover = Switchover(self.kernel, self.libvirt)

    def leave(self, domain: str = "web") -> None:
        self.switchover.happened(domain, TUNNEL, left=True)

    def resume(self, domain: str = "web") -> None:
        self.switchover.happened(domain, GUEST, left=False)

    def troubles(self, domain: str = "web") -> list[str]:
        return [turn.trouble for turn in self.switchover.turned(domain).turns]


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_guest_that_leaves_is_turned_rescued_and_fenced(host: Host) -> None:
    host.switchover.arm("web")
    assert [ear.tap for ear in host.kernel.overheard] == ["tap2"], "its legs' card, not the first"
    host.leave()
    assert host.kernel.points == {"10.1.0.7": TUNNEL, "fd50::7": TUNNEL}, "its legs, and nobody else's"
    assert host.kernel.fences == {"tap1", "tap2"}
    assert not host.kernel.overheard[0].open
    (turn,) = host.switchover.turned("web").turns
    assert (turn.to, turn.rescued, turn.trouble) == (TUNNEL, 2, "") and turn.wall_ns > 0
    assert host.switchover.departure("web") == FENCED


def test_a_pause_that_is_no_departure_turns_and_does_not_fence(host: Host) -> None:
    host.switchover.arm("web")
    host.switchover.happened("web", TUNNEL, left=False)
    assert host.kernel.points["10.1.0.7"] == TUNNEL and not host.kernel.fences
    assert host.switchover.departure("web") == UNKNOWN, "it paused: whether it left, nobody here can say"
    host.resume()
    assert host.kernel.points["10.1.0.7"] == GUEST
    assert host.troubles() == ["", ""]
    assert host.switchover.departure("web") == UNKNOWN, "that it runs here does not say that it never left"


def test_a_resumed_event_does_not_undo_a_fence(host: Host) -> None:
    host.switchover.arm("web")
    host.leave()
    host.resume()
    assert host.kernel.points["10.1.0.7"] == TUNNEL and host.kernel.fences == {"tap1", "tap2"}
    assert host.troubles() == ["", "libvirt resumed the guest here; it stays fenced until both hosts were asked"]
    assert host.switchover.departure("web") == FENCED


def test_who_has_asked_both_hosts_takes_the_fence_down(host: Host) -> None:
    host.switchover.arm("web")
    host.leave()
    host.switchover.turn("web", GUEST)
    assert host.kernel.points["10.1.0.7"] == GUEST and not host.kernel.fences
    host.resume()
    assert host.troubles()[-1] == "", "events count again"


def test_a_turn_into_the_tunnel_by_request_leaves_the_fence(host: Host) -> None:
    host.switchover.arm("web")
    host.leave()
    host.switchover.turn("web", TUNNEL)
    assert host.kernel.fences == {"tap1", "tap2"}


def test_a_fence_of_some_taps_is_none(host: Host) -> None:
    host.kernel.fences.add("tap1")
    assert host.switchover.departure("web") == UNKNOWN


def test_a_domain_that_is_not_armed_is_left_alone(host: Host) -> None:
    host.switchover.arm("db")
    host.leave("web")
    assert not host.kernel.points and not host.kernel.fences
    assert host.troubles("web") == host.troubles("db") == []
    assert host.switchover.departure("web") == UNKNOWN and host.switchover.departure("db") == STAYED


def test_a_destination_has_nothing_to_overhear_or_to_fence(host: Host) -> None:
    host.libvirt.devices = {}
    host.switchover.arm("web")
    host.resume()
    assert not host.kernel.overheard
    assert host.kernel.points == {"10.1.0.7": GUEST, "fd50::7": GUEST}
    assert host.switchover.departure("web") == STAYED, "it did not pause here"


def test_a_libvirt_that_was_away_leaves_nothing_known(host: Host) -> None:
    host.switchover.arm("web")
    assert host.switchover.departure("web") == STAYED
    host.libvirt.listening = False
    assert host.switchover.departure("web") == UNKNOWN
    host.leave()
    assert not host.kernel.points, "and it has to be armed again"


def test_whoever_asks_for_cards_notices_it_too(host: Host) -> None:
    host.libvirt.cards = {"web": "52:54:00:00:00:01", "db": "52:54:00:00:00:02"}
    host.switchover.arm("web")
    assert [user.domain for user in host.switchover.with_card("52:54:00:00:00:02")] == ["db"]
    assert host.switchover.departure("web") == STAYED
    host.libvirt.listening = False
    host.switchover.with_card("52:54:00:00:00:02")
    assert host.switchover.departure("web") == UNKNOWN


def test_legs_are_those_of_when_it_was_armed_and_arming_again_takes_the_present_ones(host: Host) -> None:
    host.kernel.legs = [LEG]
    host.switchover.arm("web")
    host.kernel.legs = [LEG, LEG6]
    host.switchover.arm("web")
    assert len(host.kernel.overheard) == 1, "the tap is the same: it is overheard already"
    host.leave()
    assert set(host.kernel.points) == {"10.1.0.7", "fd50::7"}


def test_another_tap_is_overheard_instead(host: Host) -> None:
    host.switchover.arm("web")
    host.libvirt.devices["web"] = [Tap("tap9", LEG.mac)]
    host.switchover.arm("web")
    assert [(ear.tap, ear.open) for ear in host.kernel.overheard] == [("tap2", False), ("tap9", True)]


def test_a_domain_without_a_card_of_its_legs_is_not_overheard_and_yet_fenced(host: Host) -> None:
    host.switchover.arm("web")
    host.libvirt.devices["web"] = [Tap("tap1", OTHER_MAC)]
    host.switchover.arm("web")
    assert [ear.open for ear in host.kernel.overheard] == [False]
    host.leave()
    assert host.kernel.fences == {"tap1"} and host.switchover.departure("web") == FENCED


def test_after_it_was_armed_again_an_earlier_pause_counts_no_more(host: Host) -> None:
    host.switchover.arm("web")
    host.switchover.happened("web", TUNNEL, left=False)
    host.switchover.arm("web")
    assert host.switchover.departure("web") == STAYED
    assert len(host.kernel.overheard) == 2, "the first was used up"


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (NetlinkError(1, "not permitted"), "NetlinkError: "),
        (OSError(19, "no such\ndevice"), r"OSError: [Errno 19] no such\ndevice"),
        (RefusedError("no-interface", "no interface 'vmac-1'"), "RefusedError: no interface 'vmac-1'"),
    ],
)
def test_what_the_kernel_refuses_at_an_event_is_told(host: Host, error: Exception, trouble: str) -> None:
    host.switchover.arm("web")
    host.kernel.error = error
    host.leave()
    (turn,) = host.switchover.turned("web").turns
    assert turn.to == TUNNEL and turn.trouble.startswith(trouble)
    assert host.switchover.departure("web") == FENCED, "whatever became of its legs"


def test_a_bug_at_an_event_is_no_trouble_of_the_kernels(host: Host) -> None:
    host.switchover.arm("web")
    host.kernel.error = KeyError("a bug")
    with pytest.raises(KeyError):
        host.leave()


def test_turns_are_told_by_domain_and_once(host: Host) -> None:
    host.switchover.arm("web")
    host.switchover.arm("db")
    host.leave("web")
    host.leave("db")
    host.leave("db")
    assert len(host.switchover.turned("web").turns) == 1
    assert len(host.switchover.turned("web").turns) == 0
    assert len(host.switchover.turned("db").turns) == 2


def test_the_oldest_turns_are_dropped_and_that_is_said(host: Host) -> None:
    host.switchover.arm("web")
    for _ in range(MOST_TURNS - 1):
        host.resume()
    assert len(host.switchover.turned("web").turns) == MOST_TURNS - 1
    for _ in range(MOST_TURNS + 9):
        host.resume()
    told = host.switchover.turned("web").turns
    assert len(told) == MOST_TURNS
    assert told[0].trouble == "10 earlier turns were dropped: nobody asked"
    assert not any(turn.trouble for turn in told[1:])


@dataclass
class Clock:
    """Both of this machine's, in step; `wall_ns` is what it was at `now_ns` 0."""

    wall_ns: int = 1_795_800_000_000_000_000
    now_ns: int = 0

    def passes(self, ns: int) -> None:
        self.now_ns += ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    both = SimpleNamespace(time_ns=lambda: made.wall_ns + made.now_ns, monotonic_ns=lambda: made.now_ns)
    monkeypatch.setattr(switchover, "time", both)
    return made


def test_a_turn_is_told_by_when_all_ends_were_turned_and_how_long_that_took(
    host: Host, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, send_on = host.kernel.point, Ear.send_on

    def slowly(end: LegEnd, to: str) -> None:
        clock.passes(1_500_000)
        point(end, to)

    def late(ear: Ear, legs: list[LegEnd]) -> int:
        clock.passes(9_000_000)
        return send_on(ear, legs)

    monkeypatch.setattr(host.kernel, "point", slowly)
    monkeypatch.setattr(Ear, "send_on", late)
    host.switchover.arm("web")
    host.leave()
    host.resume()
    turned, stays = host.switchover.turned("web").turns
    assert turned == Turn(TUNNEL, clock.wall_ns + 3_000_000, 3000, 2, ""), "two ends; the rescue is no part of it"
    assert (stays.to, stays.wall_ns, stays.took_us, stays.rescued) == (GUEST, clock.wall_ns + 12_000_000, 0, 0)


def test_a_turn_that_fails_has_no_moment(host: Host, clock: Clock) -> None:
    host.switchover.arm("web")
    host.kernel.error = OSError(19, "gone")
    host.leave()
    gone = "OSError: [Errno 19] gone"
    assert host.switchover.turned("web").turns == (Turn(TUNNEL, 0, 0, 0, f"{gone}; {gone}"),)


def test_an_end_that_cannot_be_turned_keeps_no_other_from_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    point = host.kernel.point
    monkeypatch.setattr(host.kernel, "point", lambda end, to: fails() if end == LEG else point(end, to))
    host.switchover.arm("web")
    host.leave()
    assert host.kernel.points == {"fd50::7": TUNNEL}
    (turn,) = host.switchover.turned("web").turns
    assert (turn.rescued, turn.trouble) == (1, "OSError: [Errno 19] no such device"), "of the end that was turned"
    assert not host.kernel.overheard[0].open


def test_a_card_that_cannot_be_fenced_keeps_no_other_from_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    put_up = host.kernel.put_up_fence
    monkeypatch.setattr(host.kernel, "put_up_fence", lambda tap: fails() if tap == "tap1" else put_up(tap))
    host.switchover.arm("web")
    host.leave()
    assert host.kernel.fences == {"tap2"} and host.troubles() == ["OSError: [Errno 19] no such device"]
    host.resume()
    assert host.kernel.points["10.1.0.7"] == TUNNEL, "nothing comes back by itself"


def test_what_was_dropped_is_told_by_the_oldest_that_is_left(host: Host, clock: Clock) -> None:
    host.switchover.arm("web")
    for number in range(MOST_TURNS):
        clock.now_ns = number
        host.switchover.happened("web", TUNNEL if number % 2 else GUEST, left=False)
    note, first, *_ = host.switchover.turned("web").turns
    assert note == Turn(TUNNEL, clock.wall_ns + 1, 0, 0, "1 earlier turns were dropped: nobody asked")
    assert (first.to, first.wall_ns) == (TUNNEL, clock.wall_ns + 1)


def test_who_cannot_be_overheard_is_not_armed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor as it was before: its legs may be others by now."""
    host.switchover.arm("web")
    host.libvirt.devices["web"] = [Tap("tap9", LEG.mac)]
    monkeypatch.setattr(host.kernel, "overhear", fails)
    with pytest.raises(OSError, match="no such device"):
        host.switchover.arm("web")
    host.leave()
    assert not host.kernel.points and host.troubles() == []


def fails(*_: object) -> int:
    raise OSError(19, "no such device")


def test_a_rescue_that_fails_is_told_and_overhears_no_more(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.switchover.arm("web")
    monkeypatch.setattr(Ear, "send_on", fails)
    host.leave()
    assert host.troubles() == ["OSError: [Errno 19] no such device"]
    assert not host.kernel.overheard[0].open
    host.switchover.arm("web")
    assert [ear.open for ear in host.kernel.overheard] == [False, True]


def test_a_guest_that_leaves_is_fenced_though_its_late_packets_are_lost(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that libvirt resumes here must reach nobody, whatever else has failed."""
    host.switchover.arm("web")
    monkeypatch.setattr(Ear, "send_on", fails)
    host.leave()
    assert host.kernel.fences == {"tap1", "tap2"} and host.switchover.departure("web") == FENCED


# On Xen, where a guest that arrives has no queue yet


@pytest.fixture
def destination() -> Host:
    host = Host()
    host.libvirt.late = True
    del host.libvirt.devices["web"]
    return host


def test_what_comes_for_a_guest_before_its_card_is_up_is_held_and_then_given_to_it(
    destination: Host, clock: Clock
) -> None:
    destination.switchover.arm("web")
    (held,) = destination.kernel.holds
    assert (held.bridge, held.mac, held.open) == (LEG.bridge, LEG.mac, True)
    destination.libvirt.devices["web"] = DEVICES["web"]
    destination.resume()
    assert held.device == "tap2", "the card that its legs are of"
    told = {turn.rescued: turn for turn in destination.switchover.turned("web").turns}
    assert told == {count: Turn(GUEST, clock.wall_ns, 0, count) for count in (0, 3)}


def test_it_is_released_too_where_the_orchestrator_turns(destination: Host) -> None:
    destination.switchover.arm("web")
    destination.libvirt.devices["web"] = DEVICES["web"]
    destination.switchover.turn("web", GUEST)
    assert destination.kernel.holds[0].device == "tap2"


def test_nothing_is_held_for_whom_is_here_or_has_a_queue_or_no_legs(host: Host, destination: Host) -> None:
    host.switchover.arm("web")
    destination.libvirt.devices["web"] = DEVICES["web"]
    destination.switchover.arm("web")
    destination.switchover.arm("nobody")
    assert not host.kernel.holds and not destination.kernel.holds


def test_to_arm_again_holds_once(destination: Host) -> None:
    destination.switchover.arm("web")
    destination.switchover.arm("web")
    assert [held.open for held in destination.kernel.holds] == [False, True]


def test_a_guest_without_that_card_is_given_nothing(destination: Host) -> None:
    destination.switchover.arm("web")
    destination.resume()
    assert [(held.device, held.open) for held in destination.kernel.holds] == [("", False)]


def test_whoever_is_armed_is_expected_to_pause(host: Host) -> None:
    host.switchover.arm("web")
    assert host.libvirt.expected == ["web"]


def test_nobody_says_that_a_guest_has_stayed_whose_pause_would_not_have_been_seen(host: Host) -> None:
    """While the destination cannot be asked, `stayed` lets it go on here: it might run twice."""
    host.switchover.arm("web")
    assert host.switchover.departure("web") == STAYED
    host.libvirt.blind.add("web")
    assert host.switchover.departure("web") == UNKNOWN


def test_a_guest_whose_cards_libvirt_does_not_name_has_turned_all_the_same(
    destination: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination.switchover.arm("web")

    def fails(_domain: str) -> list[Tap]:
        raise libvirt.libvirtError("connection reset")

    monkeypatch.setattr(destination.libvirt, "taps", fails)
    destination.resume()
    (turn,) = destination.switchover.turned("web").turns
    assert turn.to == GUEST and "connection reset" in turn.trouble
    assert not destination.kernel.holds[0].open
