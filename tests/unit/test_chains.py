"""What lies below a guest's disks stays out of the definitions that go along with it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmacro.drivers.libvirt import chains

DISK = "<disk type='file' device='disk'><driver name='qemu'/><source file='/images/{0}'/>{1}<target dev='{0}'/></disk>"
BELOW = """<backingStore type='file'><format type='qcow2'/><source file='/images/base'/>
<backingStore type='file'><source file='/images/golden'/>{}</backingStore></backingStore>"""
DOMAIN = """<?xml version='1.0' encoding='utf-8'?><domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>Büro &amp; Lager</name><!-- <backingStore/> --><devices>{}</devices>
<metadata><backingStore/><disk><backingStore/><target dev='vda'/></disk></metadata>
<qemu:commandline><qemu:arg value='&lt;backingStore/&gt;'/></qemu:commandline></domain>"""
KINDS = {"none": "", "ended": "<backingStore/>", "spaced": "<backingStore  />", "two": BELOW.format(""),
         "all": BELOW.format("<backingStore/>")}  # fmt: skip


def domain(**disks: str) -> str:
    return DOMAIN.format("\n".join(DISK.format(target, KINDS[kind]) for target, kind in disks.items()))


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_disk_that_goes_along_nothing_is_said_of_what_is_below(kind: str) -> None:
    assert chains.without(domain(vda=kind, vdb="all"), ["vda"]) == domain(vda="none", vdb="all")


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=5), st.sets(st.sampled_from(["vda", "vdc", "vde"])))
def test_all_else_is_as_it_was_to_the_letter(kinds: list[str], going: set[str]) -> None:
    disks = {f"vd{letter}": kind for letter, kind in zip("abcde", kinds, strict=False)}
    expected = {target: "none" if target in going else kind for target, kind in disks.items()}
    found = chains.without(domain(**disks), going)
    assert found == domain(**expected)
    ElementTree.fromstring(found.encode())


@pytest.mark.parametrize("text", ["", "<domain>", "<!DOCTYPE d [<!ENTITY e 'e'>]><domain>&e;</domain>"])
def test_what_is_no_definition_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        chains.without(text, ["vda"])
