"""Whose a DHCP reservation is: by its name, which is made from a move and an address."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmacro.model import marks
from vmacro.model.facts import Reservation
from vmacro.wire import fields

ADDRESSES = st.ip_addresses(v=4).map(str)
# As move ids may be (wire.fields.Word).
MOVES = st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True)
LABEL = re.compile(r"[a-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]")  # RFC 1123, section 2.1


@given(MOVES, ADDRESSES)
def test_a_mark_is_a_host_name_that_a_network_may_have(move: str, address: str) -> None:
    made = marks.placeholder(move, address)
    assert LABEL.fullmatch(made.name) and marks.is_marked(made)
    assert fields.decode(Reservation, fields.encode(made)) == made


@given(st.lists(st.tuples(MOVES, ADDRESSES), min_size=2, max_size=6, unique=True))
def test_no_two_marks_are_the_same(pairs: list[tuple[str, str]]) -> None:
    assert len({marks.mark(move, address) for move, address in pairs}) == len(pairs)


def test_a_mark_tells_its_move_as_far_as_a_host_name_can() -> None:
    usual = marks.reservation("web-20261123-024501-3f9a", "10.50.1.97", "52:54:00:00:00:01")
    assert usual.name == "vmacro-web-20261123-024501-3f9a-0a320161"
    assert marks.move_in(usual) == "web-20261123-024501-3f9a"
    odd = marks.mark("my_web.2-20261123-024501-3f9a", "10.50.1.97")
    assert re.fullmatch(r"vmacro-my-web-2-20261123-024501-3f9a-[0-9a-f]{8}-0a320161", odd)
    assert odd != marks.mark("my-web-2-20261123-024501-3f9a", "10.50.1.97")
    assert len(marks.mark("w" * 60, "10.50.1.97")) == 63


OTHERS = (
    *("", "web", "vmacro", "vmacro-web", "vmacro--0a320161", "vmacro-web-1-0a320162", "vmacro-web-1-0A320161"),
    *("xvmacro-web-1-0a320161", "vmacro-web-1-0a320161.lan", "vmacro-web_1-0a320161", "vmacro-web-1-0a320161\n"),
)
NO_MACS = (":::::", "52:54:00:ab:0c", "52:54:00:ab:0c:0d:0e", "52:54:00:ab:0c:100", "5 :4:0:a:b:c")


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_no_marks(name: str) -> None:
    """An operator's own, and one of ours whose address somebody has changed."""
    found = Reservation("10.50.1.97", "52:54:00:00:00:01", name)
    assert not marks.is_marked(found) and marks.move_in(found) == ""


@pytest.mark.parametrize("written", ["52:54:00:AB:0C:0D", "52:54:0:aB:c:d", "52:54:00:ab:0c:0d"])
def test_a_mac_is_the_same_however_it_is_written(written: str) -> None:
    found = fields.decode(Reservation, {"address": "10.50.1.97", "mac": written})
    assert found.mac == "52:54:00:ab:0c:0d"


@pytest.mark.parametrize("written", NO_MACS)
def test_what_is_no_mac_is_refused(written: str) -> None:
    with pytest.raises(fields.FieldError, match="six bytes"):
        fields.decode(Reservation, {"address": "10.50.1.97", "mac": written})


def test_an_entry_need_not_have_a_mac() -> None:
    assert fields.decode(Reservation, {"address": "10.50.1.97", "mac": ""}).mac == ""
