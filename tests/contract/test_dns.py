"""Names at their server: in memory, and Debian's Knot with TSIG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests import knot
from tests.contract import certifies
from vmacro.drivers.dns import DnsNames
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import NamesError
from vmacro.model.names import NameFacts, RecordSet
from vmacro.ports import Names

WWW, BOTH, NONE, MANY = "www.example.test", "both.example.test", "none.example.test", "many.example.test"
OLD, NEW, OTHER = "10.50.1.97", "10.50.2.10", "10.9.9.9"
OLD6, NEW6 = "fd50:1::97", "fd50:2::10"
RECORDS = {WWW: (OLD,), BOTH: (OLD, OLD6), MANY: (OLD, OTHER)}


@dataclass(frozen=True)
class Stage:
    """`serial` is the zone's, None where there is none to be seen."""

    names: Names
    stop: Callable[[], None]
    start: Callable[[], None]
    forget_key: Callable[[], None]
    serial: Callable[[], int | None]


@pytest.fixture(params=["fake", "real"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with _in_memory() if request.param == "fake" else _at_knot(tmp_path) as found:
        yield found


@contextmanager
def _in_memory() -> Iterator[Stage]:
    fake = FakeWorld()
    for name, addresses in RECORDS.items():
        fake.zone.put(name, *addresses)

    def is_up(up: bool) -> Callable[[], None]:
        return lambda: setattr(fake.zone, "up", up)

    yield Stage(fake.world.names, is_up(False), is_up(True), lambda: setattr(fake.zone, "key", False), lambda: None)


@contextmanager
def _at_knot(folder: Path) -> Iterator[Stage]:
    if not knot.installed():
        pytest.skip("no Knot: `make test` unpacks it")
    key = knot.key_file(folder / "key")
    lines = [
        f"{name}. 30 {'AAAA' if ':' in address else 'A'} {address}\n"
        for name, addresses in RECORDS.items()
        for address in addresses
    ]
    with knot.running(folder / "knot", "".join(lines)) as server:
        names = DnsNames(server.address, server.port, key)

        def serial() -> int:
            question = dns.message.make_query(knot.ZONE, "SOA")
            return int(dns.query.tcp(question, server.address, 3, server.port).answer[0][0].serial)

        def forget_key() -> None:
            knot.key_file(key, secret=knot.OTHER_SECRET)

        yield Stage(names, server.stop, server.start, forget_key, serial)


@certifies("Names.look")
def test_a_name_is_seen_as_it_is(stage: Stage) -> None:
    assert stage.names.look(WWW) == NameFacts(WWW, RecordSet((OLD,), 30))
    assert stage.names.look(BOTH) == NameFacts(BOTH, RecordSet((OLD,), 30), RecordSet((OLD6,), 30))
    assert stage.names.look(MANY).a.addresses == tuple(sorted((OLD, OTHER)))
    assert stage.names.look(NONE) == NameFacts(NONE)


@certifies("Names.replace", "Names.look")
def test_what_is_still_as_it_was_seen_is_replaced_and_keeps_its_ttl(stage: Stage) -> None:
    for name, wanted in ((WWW, (NEW,)), (BOTH, (NEW, NEW6)), (MANY, (NEW, OTHER))):
        assert stage.names.replace(stage.names.look(name), wanted)
        assert set(stage.names.look(name).addresses) == set(wanted) and stage.names.look(name).ttl_s == 30
    assert stage.names.replace(stage.names.look(BOTH), (NEW,))
    assert stage.names.look(BOTH) == NameFacts(BOTH, RecordSet((NEW,), 30)), "the guest has no IPv6 any more"


@certifies("Names.replace")
@pytest.mark.parametrize(
    "seen",
    [
        NameFacts(WWW, RecordSet((OTHER,), 30)),
        NameFacts(WWW, RecordSet((OLD, OTHER), 30)),
        NameFacts(WWW),
        NameFacts(WWW, RecordSet((OLD,), 30), RecordSet((OLD6,), 30)),
        NameFacts(NONE, RecordSet((OLD,), 30)),
        NameFacts(MANY, RecordSet((OLD,), 30)),
        NameFacts(BOTH, RecordSet((OLD,), 30)),
    ],
    ids=["another", "one more", "none", "IPv6 too", "no such name", "one of two", "IPv6 not seen"],
)
def test_what_somebody_else_has_changed_since_is_left_as_it_is(stage: Stage, seen: NameFacts) -> None:
    before = {name: stage.names.look(name) for name in (*RECORDS, NONE)}
    assert stage.names.replace(seen, (NEW,)) is False
    assert {name: stage.names.look(name) for name in (*RECORDS, NONE)} == before


@certifies("Names.replace")
def test_replacing_a_name_with_itself_changes_nothing_and_tells_whether_one_may(stage: Stage) -> None:
    serial = stage.serial()
    for name in (*RECORDS, NONE):
        seen = stage.names.look(name)
        assert stage.names.replace(seen, seen.addresses) and stage.names.look(name) == seen
    assert stage.serial() == serial
    assert stage.names.replace(stage.names.look(WWW), (NEW,)) and stage.serial() in (None, (serial or 0) + 1)


@certifies("Names.look", "Names.replace")
def test_the_wrong_key_is_told_apart_from_silence(stage: Stage) -> None:
    seen = stage.names.look(WWW)
    stage.stop()
    for ask in (lambda: stage.names.look(WWW), lambda: stage.names.replace(seen, (NEW,))):
        with pytest.raises(NamesError) as silent:
            ask()
        assert silent.value.code == "silent" and "name server" in silent.value.message
    stage.start()
    assert stage.names.look(WWW) == seen
    stage.forget_key()
    for ask in (lambda: stage.names.look(WWW), lambda: stage.names.replace(seen, (NEW,))):
        with pytest.raises(NamesError) as refused:
            ask()
        assert refused.value.code == "key"
        assert knot.SECRET not in str(refused.value) and knot.OTHER_SECRET not in str(refused.value)


@certifies("Names.replace")
def test_that_a_name_may_not_be_changed_is_seen_without_changing_it(tmp_path: Path) -> None:
    if not knot.installed():
        pytest.skip("no Knot: `make test` unpacks it")
    key = knot.key_file(tmp_path / "key")
    with knot.running(tmp_path / "knot", f"closed 30 A {OLD}\n") as server:
        names = DnsNames(server.address, server.port, key)
        seen = names.look("closed.example.test")
        with pytest.raises(NamesError) as refused:
            names.replace(seen, seen.addresses)
        assert refused.value.code in ("refused", "key") and names.look("closed.example.test") == seen


@certifies("Names.look")
def test_an_alias_is_no_name_of_a_guest_and_another_zone_is_refused(tmp_path: Path) -> None:
    if not knot.installed():
        pytest.skip("no Knot: `make test` unpacks it")
    key = knot.key_file(tmp_path / "key")
    with knot.running(tmp_path / "knot", f"www 30 A {OLD}\nalias 30 CNAME www\n") as server:
        names = DnsNames(server.address, server.port, key)
        with pytest.raises(NamesError, match="alias"):
            names.look("alias.example.test")
        for ask in (lambda: names.look("www.example.org"), lambda: names.replace(NameFacts("www.example.org"), ())):
            with pytest.raises(NamesError) as refused:
                ask()
            assert refused.value.code in ("refused", "key")
        assert replace(names.look("WWW.example.test"), name=WWW) == names.look(WWW)
