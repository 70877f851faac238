"""Every field of every answer that a move gets from agents, host sides and libvirt, with anything in it, in each phase.

The parties are those of the world in memory, behind their real drivers (spoken.py); what they say is replaced once, or
from some moment on. Afterwards the guest runs once, whatever they said; the ending is one of a move's; it is shown
without raising, and nothing in it rules a terminal. Once the party is honest again, `resume` ends it, and nothing is
left.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.hostile import HOSTILE, RAW, WORDS, is_harmless, places, put
from tests.unit import spoken
from tests.unit.faults import Faults
from tests.unit.spoken import Said
from tests.unit.test_enumeration import WITH_DISK, Stage, hosts_are_sound, sound, stage
from tests.unit.town import Town
from vmacro import wiring
from vmacro.cli import move as move_command
from vmacro.cli import render
from vmacro.cli.app import app
from vmacro.cli.check import show_findings
from vmacro.cli.stream import stream
from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.fake.clock import FakeClock
from vmacro.errors import VmacroError
from vmacro.model.events import Event, PhaseBegan
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.planning import checks, planner
from vmacro.planning.handoffs import HANDOFFS, SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import World
from vmacro.services import journal_json, measured, report
from vmacro.services.moves import Report

BROKEN_LINES = (b"\n", b"\xff\xfe\x00\n", b"[" * 100_000 + b"\n", b"x" * ((1 << 20) + 9) + b"\n", b'{"v":2}\n', b"")
BROKEN_XML = (
    "",
    "<domain",
    "<a>" * 200_000,
    "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><domain><name>&b;</name></domain>",
    "<domain/>",
    "<domain xmlns='x'/>",
    "\ud800",
    "<network><ip address='10.0.0.1' prefix='33'/></network>",
    "<network><ip family='ipv6' address='::' prefix='x'/></network>",
)
IN_XML = ("line\nvmacro: moved", "web \u202eb1", *WORDS, "-1", "9" * 400, "1e400", "nan")
# What libvirt's binding gives: its types are C's, its values are the host's.
NUMBERS = (0, 1, (1 << 63) - 1, (1 << 64) - 1)
OF_LIBVIRT: dict[str, tuple[Any, ...]] = {
    "virDomainGetJobStats": (*NUMBERS, -1, 1e300, float("nan"), True, *RAW, *WORDS),
    "virNetworkGetDHCPLeases": (None, -1, *RAW, *WORDS, "fd00::1", "10.50.1.97\n"),
}


@dataclass(frozen=True)
class Lie:
    """Instead of the `number`-th thing that is said: `odd`, at a place in it."""

    phase: str
    party: str
    verb: str
    number: int
    place: str
    odd: Any
    what: Any


def lies(said: list[tuple[str, Said]], every: bool) -> Iterator[Lie]:
    """Of each party's answers to each question in each phase the first; `every` hostile value in each place, or one."""
    turn = itertools.count()
    known = set()
    for number, (phase, about) in enumerate(said):
        key = phase, about.party, about.verb
        if key in known:
            continue
        known.add(key)
        for place, odds in _odds(about):
            picked = list(odds)
            for odd, what in picked if every else [picked[next(turn) % len(picked)]]:
                yield Lie(phase, about.party, about.verb, number, place, odd, what)


def _odds(said: Said) -> Iterator[tuple[str, Iterator[tuple[Any, Any]]]]:
    """Places, each with what may be put there and what is said then."""
    what = said.what
    if isinstance(what, str) and what.startswith("<"):
        yield "all of it", ((odd, odd) for odd in BROKEN_XML)
        for index, element in enumerate(ElementTree.fromstring(what).iter()):
            for name in (None, *element.attrib):
                yield f"{element.tag}[{index}] {name or 'text'}", _in_xml(what, index, name)
    elif isinstance(what, str):
        yield "all of it", ((odd, odd) for odd in (*RAW, *WORDS))
    elif said.party == "libvirt":
        for path in places(what):
            if not isinstance(_at(what, path), (dict, list)):
                odds = OF_LIBVIRT.get(said.verb, NUMBERS)
                yield _named(path), ((odd, put(what, path, odd)) for odd in odds)
    else:
        yield "the line", ((odd, odd) for odd in BROKEN_LINES)
        for path in places(what):
            yield _named(path), ((odd, put(what, path, odd)) for odd in HOSTILE)


def _at(what: Any, path: tuple[Any, ...]) -> Any:
    return functools.reduce(operator.getitem, path, what)


def _named(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path)) or "all of it"


def _in_xml(text: str, index: int, attribute: str | None) -> Iterator[tuple[str, str]]:
    for odd in IN_XML:
        root = ElementTree.fromstring(text)
        element = next(itertools.islice(root.iter(), index, None))
        if attribute is None:
            element.text = odd
        else:
            element.set(attribute, odd)
        yield odd, ElementTree.tostring(root, encoding="unicode")


class Liar:
    """Says what was to be said, but for one lie, or for the same one to each such question `for_ever` after it."""

    def __init__(self, fake: FakeWorld, lie: Lie | None = None, for_ever: bool = False) -> None:
        self._fake, self._lie, self._for_ever = fake, lie, for_ever
        self.said: list[tuple[str, Said]] = []
        self.honest = False

    def __call__(self, said: Said) -> Any:
        began = [event.what.phase.value for event in self._fake.events if isinstance(event.what, PhaseBegan)]
        self.said.append((began[-1] if began else "before", said))
        lie, number = self._lie, len(self.said) - 1
        if lie is None or self.honest or number < lie.number:
            return said.what
        if number > lie.number and not (self._for_ever and (said.party, said.verb) == (lie.party, lie.verb)):
            return said.what
        return _as_libvirt_could(lie.what, said)


def _as_libvirt_could(what: Any, said: Said) -> Any:
    """Its binding gives no other types than libvirt's own, and raises what Python does for bytes that are no UTF-8."""
    if said.party == "libvirt" and isinstance(what, str) and "\ud800" in what:
        what.encode()
    return what


def attempt(found: Stage, liar: Liar) -> Outcome:
    """As `vmacro migrate` would, and afterwards `resume`."""
    return found.book.attempt(found.plan, spoken.world(found.fake, liar), Faults())


def shown(found: Stage, outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> str:
    """All that a person, and a program, are shown of it."""
    figures = report.summary(found.plan, outcome, None)
    move_command.show_ending(Report(found.plan, outcome, figures, Path("report"), tuple(found.fake.events)))
    render.as_json(figures)
    with stream(json_lines=False) as show, stream(json_lines=True) as tell:
        for event in found.fake.events:
            show(event)
            tell(event)
            render.out.print(render.literal(render.event_line(event)))
    render.table(render.meanwhile(found.fake.events))
    return capsys.readouterr().out


def heard(handoff: str) -> list[tuple[str, Said]]:
    """All that is said in a move where everybody is honest."""
    found = stage(handoff)
    listener = Liar(found.fake)
    assert attempt(found, listener).ending == Ending.MOVED
    return listener.said


def some_lies(handoff: str, for_ever: bool) -> Iterator[Lie]:
    """One value in each place, in every other place `for_ever`; with a disk, in all that nobody is asked without."""
    every = lies(heard(handoff), False)
    if handoff != WITH_DISK:
        return itertools.islice(every, int(for_ever), None, 2)
    known = {(phase, said.party, said.verb) for phase, said in heard(SEAMLESS)}
    return (lie for lie in every if (lie.phase, lie.party, lie.verb) not in known)


EVERY = pytest.param(True, id="every value", marks=pytest.mark.slow("every hostile value in each place, not one"))


@pytest.mark.parametrize("every", [pytest.param(False, id="one value"), EVERY])
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("handoff", [*HANDOFFS, WITH_DISK])
def test_no_answer_takes_a_move_anywhere_else(
    handoff: str, for_ever: bool, every: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tried, refused = 0, 0
    for lie in lies(heard(handoff), True) if every else some_lies(handoff, for_ever):
        found = stage(handoff)
        liar = Liar(found.fake, lie, for_ever)
        outcome = attempt(found, liar)
        where = f"{lie.party} to {lie.verb!r} in {lie.phase}, {lie.place}: {str(lie.odd)[:60]!r}: {outcome}"
        assert len(found.fake.running_at()) == 1, where
        assert outcome.exit_code in (0, 4, 5, 6) and is_harmless(outcome.reason + outcome.hint), where
        assert is_harmless(shown(found, outcome, capsys)), where
        assert journal_json.outcome_from(_plain(outcome), "it").ending == outcome.ending, where
        liar.honest = True
        for _ in range(4):
            if not outcome.remains:
                break
            outcome = attempt(found, liar)
        assert not outcome.remains, where
        (hosts_are_sound if lie.party == "agent" else sound)(found, where)  # a guest may lie about itself
        tried, refused = tried + 1, refused + (outcome.ending != Ending.MOVED)
    assert tried > (100 if every or handoff == SEAMLESS else 15) and refused > 3, (tried, refused)


@pytest.mark.parametrize("every", [pytest.param(False, id="one value"), EVERY])
@pytest.mark.parametrize("handoff", [*HANDOFFS, WITH_DISK])
def test_no_answer_to_the_checks_does_more_than_be_found(
    handoff: str, every: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Findings, an error, or a plan that the journal can keep."""
    honest = stage(handoff)
    heard = Liar(honest.fake)
    _looked(honest, heard)
    for lie in lies(heard.said, every):
        found = stage(handoff)
        where = f"{lie.party} to {lie.verb!r}, {lie.place}: {str(lie.odd)[:60]!r}"
        try:
            findings, plan = _looked(found, Liar(found.fake, lie))
        except VmacroError as error:
            assert is_harmless(str(error)), where
            continue
        show_findings(findings, "nothing")
        render.as_json([asdict(finding) for finding in findings])
        assert is_harmless(capsys.readouterr().out), where
        assert all(finding.message.strip() for finding in findings), where
        if plan is not None:
            assert journal_json.plan_from(_plain(plan), "it")[0] == plan, where


def _looked(found: Stage, liar: Liar) -> tuple[list[Any], Plan | None]:
    fake, plan = found.fake, found.plan
    wanted = Request(plan.guest, fake.inventory.sites[1], plan.handoff, plan.policy, "me@here")
    seen = measured.look(fake.inventory, wanted, spoken.world(fake, liar), ask_clients=True)
    findings = checks.check(wanted, seen)
    blocked = checks.blockers(findings)
    return findings, None if blocked else planner.plan("web-1", fake.inventory, wanted, seen)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(journal_json.encoded(value)))


COMMANDS = {
    "check": ("check", "g1", "--to", "berlin"),
    "check --json": ("check", "g1", "--to", "berlin", "--json"),
    "check renumber": ("check", "g1", "--to", "berlin", "--handoff", "renumber"),
    "connections": ("connections", "g1"),
    "connections --json": ("connections", "g1", "--json"),
    "sites": ("sites",),
    "sites --json": ("sites", "--json"),
    "doctor": ("doctor",),
    "doctor --json": ("doctor", "--json"),
    "cleanup": ("cleanup", "--dry-run"),
    "migrate": ("migrate", "g1", "--to", "berlin"),
    "migrate --json": ("migrate", "g1", "--to", "berlin", "--json"),
}


EACH = pytest.param(1, id="every place", marks=pytest.mark.slow("every place, not one in nine"))


@pytest.mark.parametrize("step", [pytest.param(9, id="some places"), EACH])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_answer_breaks_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, step: int) -> None:
    """Its exit code is one of its own, and nothing in what it shows rules a terminal."""
    monkeypatch.chdir(tmp_path)
    heard = _Town(tmp_path)
    assert heard.run(monkeypatch, *COMMANDS[command]).exit_code in (0, 3)
    if command.startswith("migrate") and step > 1:
        step *= 5  # which opens a journal each time
    for lie in itertools.islice(lies(heard.liar.said, every=False), 0, None, step):
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        done = _Town(tmp_path, lie).run(monkeypatch, *COMMANDS[command])
        where = f"{lie.party} to {lie.verb!r}, {lie.place}: {str(lie.odd)[:60]!r}: {done.output[-500:]}"
        assert done.exception is None or isinstance(done.exception, (SystemExit, VmacroError)), where
        assert done.exit_code in (0, 1, 3, 4, 5, 6) and is_harmless(done.output), where
        if isinstance(done.exception, VmacroError):
            assert is_harmless(str(done.exception)), where


class _Town(Town):
    """One guest, and all that the command asks about it, through the real drivers."""

    def __init__(self, folder: Path, lie: Lie | None = None) -> None:
        super().__init__(folder, 1)
        self.liar = Liar(self.fake, lie)

    @contextmanager
    def world(self, publish: Callable[[Event], None], cancelled: Callable[[], bool]) -> Iterator[World]:
        plain = spoken.world(self.fake, self.liar)
        yield replace(plain, publish=publish, cancelled=cancelled, clock=FakeClock())

    def run(self, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
        monkeypatch.setattr(wiring, "drivers", self.drivers)
        return CliRunner().invoke(app, [*words, "--inventory", str(self.file)])
