"""What a host of Xen reads of xl, of processes and of xenstore. `xl`'s words are recorded: Debian 12, Xen 4.17."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from tests.unit.xenbus import HOME, FakeXenstore
from vmacro.host import dom0, xen, xen_domains
from vmacro.host.errors import RefusedError
from vmacro.host.xen import facts, look
from vmacro.host.xen_domains import XenDomains
from vmacro.wire.host_verbs import TUNNEL
from vmacro.wire.messages import Request
from vmacro.wire.xen_verbs import XEN_ABORT, Saving, XenFacts
from vmacro.wire.xenbus import Xenbus
from vmacro.wire.xenstore import Xenstore

INFO = """host                   : xen1
release                : 6.1.0-56-amd64
virt_caps              : pv hvm hvm_directio pv_directio hap shadow vmtrace
xen_caps               : xen-3.0-x86_64 hvm-3.0-x86_32
"""
LIST = """Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0   384     1     r-----      12.3
web                                          7   128     1     {state}       4.5
"""


@pytest.fixture
def xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `xl list` says, in a file; this machine is a host of Xen."""
    said, script, caps = tmp_path / "list", tmp_path / "xl", tmp_path / "capabilities"
    script.write_text(f"#!/bin/sh\n[ $1 = list ] && exec cat {said}\necho 'no such word' >&2; exit 1\n")
    script.chmod(0o755)
    said.write_text(LIST.format(state="-b----"))
    caps.write_text("control_d\n")
    monkeypatch.setattr(xen, "XL", str(script))
    monkeypatch.setattr(dom0, "CAPABILITIES", caps)
    return said


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that /proc calls by the words with which libxl starts its helper for domain 7 (recorded with 4.17.5:
    two descriptors come before the domain's number)."""
    with subprocess.Popen(["sleep", "60"]) as process:
        for pid, words in (
            (process.pid, "--save-domain 48 36 7 1 136 0"),
            (1, "--save-domain 7 7 4 1 136 0"),
            (2, "--restore-domain 43 -1 5 1 0 2 0 768 0"),
        ):
            folder = tmp_path / "proc" / str(pid)
            folder.mkdir(parents=True)
            (folder / "cmdline").write_bytes(f"/usr/lib/xen-4.17/bin/{xen.HELPER} {words}".replace(" ", "\0").encode())
        (tmp_path / "proc/version").touch()
        monkeypatch.setattr(xen, "PROC", tmp_path / "proc")
        yield process
        process.kill()


ARGS: dict[str, dict[str, Any]] = {"xen": {}, "xen-pace": {"address": "192.0.2.1", "port": 16514, "bytes_s": 9}}


def ask(verb: str) -> object:
    (found,) = [h for h in xen.handlers() if h.verb == verb]
    return found.answer(Request("a", verb, ARGS.get(verb, {"domain": "web"})))


def test_what_this_xen_can_is_what_xl_says() -> None:
    assert facts(INFO) == XenFacts(("pv", "hvm", "hvm_directio", "pv_directio", "hap", "shadow", "vmtrace"))
    assert "shadow" not in facts(INFO.replace(" shadow", "")).virtualisation
    with pytest.raises(RefusedError, match="says nothing of virt_caps"):
        facts("host: xen1\n")


@pytest.mark.parametrize(
    ("state", "suspended"),
    [("-b----", False), ("r-----", False), ("---s--", True), ("---ss-", True), ("---sc-", False)],
)
def test_whether_a_domain_is_suspended_is_what_xl_says(xl: Path, state: str, suspended: bool) -> None:
    xl.write_text(LIST.format(state=state))
    assert look("web") == Saving(7, suspended, False)


def test_a_domain_that_is_not_here_has_no_number(xl: Path) -> None:
    assert look("we") == look("Name") == Saving(-1, False, False)


def test_what_xl_refuses_is_told(xl: Path) -> None:
    with pytest.raises(RefusedError, match="xl info: no such word"):
        ask("xen")


def test_what_sends_a_domains_memory_is_found_and_ended_and_nothing_else(
    xl: Path, helper: subprocess.Popen[bytes]
) -> None:
    assert look("web").saving
    assert ask("xen-abort") == {"outcome": "ended"}
    assert helper.wait(5) == -signal.SIGTERM


def test_at_the_destination_what_receives_it_is_ended(
    xl: Path, helper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    words = f"/usr/lib/xen-4.17/bin/{xen.HELPER} --restore-domain 43 -1 7 1 0 2 0 768 0"
    (tmp_path / "proc" / str(helper.pid) / "cmdline").write_bytes(words.replace(" ", "\0").encode())
    xl.write_text(LIST.format(state="--p---"))
    assert look("web").saving and ask("xen-abort") == {"outcome": "ended"}
    assert helper.wait(5) == -signal.SIGTERM


def test_whoever_has_the_helpers_number_since_is_left_alone(
    xl: Path, helper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended as it was found, and another process began."""
    opened = os.pidfd_open

    def open_late(pid: int) -> int:
        (tmp_path / "proc" / str(pid) / "cmdline").write_bytes(b"/usr/bin/qemu-system-x86_64\0")
        return opened(pid)

    monkeypatch.setattr(os, "pidfd_open", open_late)
    assert ask("xen-abort") == {"outcome": "nothing"}
    with pytest.raises(subprocess.TimeoutExpired):
        helper.wait(0.3)


def test_a_guest_that_is_suspended_already_is_left_alone(xl: Path, helper: subprocess.Popen[bytes]) -> None:
    xl.write_text(LIST.format(state="---s--"))
    assert ask("xen-abort") == {"outcome": "suspended"}
    assert helper.poll() is None


def test_an_abort_is_over_before_who_has_asked_for_it_gives_up(
    xl: Path, helper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many helpers there are, and though none of them ends."""
    assert XEN_ABORT.deadline_s - 2 > xen.XL_TIMEOUT_S + xen.ENDS_WITHIN_S
    monkeypatch.setattr(xen, "ENDS_WITHIN_S", 0.3)
    words = (tmp_path / "proc" / str(helper.pid) / "cmdline").read_bytes()
    deaf = [subprocess.Popen(["sh", "-c", "trap '' TERM; echo; exec sleep 60"], stdout=subprocess.PIPE) for _ in "abc"]
    for process in deaf:
        assert process.stdout is not None and process.stdout.read(1)
        (tmp_path / "proc" / str(process.pid)).mkdir()
        (tmp_path / "proc" / str(process.pid) / "cmdline").write_bytes(words)
    began_s = time.monotonic()
    assert ask("xen-abort") == {"outcome": "ended"}
    assert time.monotonic() - began_s < 0.8
    for process in deaf:
        process.kill()
        process.communicate()


def test_nothing_is_ended_where_nothing_is_sent(xl: Path) -> None:
    assert ask("xen-abort") == {"outcome": "nothing"}


@pytest.mark.parametrize("verb", [h.verb for h in xen.handlers()])
def test_a_host_of_another_kind_says_so(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dom0, "CAPABILITIES", tmp_path / "none")
    with pytest.raises(RefusedError, match="this is no host of Xen"):
        ask(verb)


class Loop:
    """libvirt's event loop, as far as it is used here. There is but one in a process, and a thread of other tests' runs
    it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._handles: dict[int, tuple[int, Callable[..., None]]] = {}
        self._timers: dict[int, Callable[..., None]] = {}

    def add_handle(self, fd: int, _events: int, act: Callable[..., None], _opaque: None) -> int:
        number = next(self._numbers)
        self._handles[number] = (fd, act)
        return number

    def remove_handle(self, number: int) -> None:
        self._handles.pop(number, None)

    def add_timeout(self, _ms: int, act: Callable[..., None], _opaque: None) -> int:
        number = next(self._numbers)
        self._timers[number] = act
        return number

    def remove_timeout(self, number: int) -> None:
        self._timers.pop(number, None)

    @property
    def as_libvirt(self) -> SimpleNamespace:
        return SimpleNamespace(
            VIR_EVENT_HANDLE_READABLE=libvirt.VIR_EVENT_HANDLE_READABLE,
            virEventAddHandle=self.add_handle,
            virEventRemoveHandle=self.remove_handle,
            virEventAddTimeout=self.add_timeout,
            virEventRemoveTimeout=self.remove_timeout,
        )

    def clear(self) -> None:
        """Of what an earlier test has left."""
        self._handles.clear()
        self._timers.clear()

    def once(self) -> None:
        """What is ready, or comes within 20 ms."""
        poll, timers = select.poll(), dict(self._timers)
        for fd, _ in self._handles.values():
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(0 if timers else 20)}
        for number, (fd, act) in list(self._handles.items()):
            if fd in ready:
                act(number, fd, libvirt.VIR_EVENT_HANDLE_READABLE, None)
        for number, act in timers.items():
            act(number, None)


LOOP = Loop()


class Told(XenDomains):
    """A host on which domain 7, `web`, runs; `happenings` has what was told."""

    def __init__(self) -> None:
        super().__init__("test:///default")
        self.happenings: list[tuple[str, str, bool]] = []
        self.happened = lambda *what: self.happenings.append(what)

    def number(self, domain: str) -> int:
        return 7 if domain == "web" else -1

    def becomes(self, *happenings: tuple[str, str, bool]) -> None:
        """In an event loop, as the host side runs libvirt's."""
        deadline_s = time.monotonic() + 5
        while self.happenings != list(happenings):
            assert time.monotonic() < deadline_s, self.happenings
            LOOP.once()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeXenstore]:
    LOOP.clear()
    monkeypatch.setattr(xen_domains, "libvirt", LOOP.as_libvirt)
    found = FakeXenstore()
    monkeypatch.setattr(xen_domains, "opened", lambda: Xenbus(found.descriptor()))
    yield found
    found.close()


SHUTDOWN = f"{HOME}/control/shutdown"
ASKED, LEFT = ("web", TUNNEL, False), ("web", TUNNEL, True)


def test_a_pause_is_told_as_the_guest_is_asked_to_suspend_itself_and_once_it_has(fake: FakeXenstore) -> None:
    host = Told()
    host.expect("web")
    host.becomes()
    fake.write(SHUTDOWN, b"suspend")
    host.becomes(ASKED)
    fake.write(SHUTDOWN, b"")  # the guest acknowledges
    fake.write("@releaseDomain", b"")
    host.becomes(ASKED, LEFT)
    fake.write("@releaseDomain", b"")
    fake.write(SHUTDOWN, b"suspend")  # it was resumed here, and is asked again
    host.becomes(ASKED, LEFT, ASKED)


@pytest.mark.parametrize("word", [b"", b"reboot", b"poweroff", b"suspended"])
def test_nothing_else_is_a_pause(fake: FakeXenstore, word: bytes) -> None:
    host = Told()
    host.expect("web")
    fake.write(SHUTDOWN, word)
    fake.write("@releaseDomain", b"")
    for _ in range(10):
        LOOP.once()
    assert host.happenings == []


def test_one_that_is_not_here_is_not_watched_and_one_that_is_once(fake: FakeXenstore) -> None:
    host = Told()
    host.expect("db")
    assert fake.watched("") == []
    host.expect("web")
    host.expect("web")
    assert sorted(fake.watched("")) == sorted([SHUTDOWN, "@releaseDomain"])


def test_another_ones_end_cuts_off_nobody_that_was_asked_in_vain(
    fake: FakeXenstore, xl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libxl gives up a guest that does not suspend itself; its move is rolled back, and it goes on here."""
    host = Told()
    host.expect("web")
    fake.write(SHUTDOWN, b"suspend")
    host.becomes(ASKED)
    monkeypatch.setattr(xen_domains, "SUSPENDS_WITHIN_S", 0.0)
    fake.write(SHUTDOWN, b"")
    fake.write("@releaseDomain", b"")  # a neighbour's reboot
    for _ in range(10):
        LOOP.once()
    host.becomes(ASKED)
    xl.write_text(LIST.format(state="---s--"))
    fake.write("@releaseDomain", b"")
    host.becomes(ASKED, LEFT)


def test_one_that_was_asked_in_vain_is_seen_when_it_is_asked_again(fake: FakeXenstore) -> None:
    host = Told()
    host.expect("web")
    fake.write(SHUTDOWN, b"suspend")
    host.becomes(ASKED)
    fake.write(SHUTDOWN, b"")
    host.expect("web")
    fake.write(SHUTDOWN, b"suspend")
    host.becomes(ASKED, ASKED)


def test_a_pause_that_was_read_too_late_is_in_doubt_until_it_is_armed_again(fake: FakeXenstore) -> None:
    """The guest has cleared the node before this thread came to it."""
    host = Told()
    host.expect("web")
    for _ in range(10):
        LOOP.once()
    assert host.sees_pauses("web"), "a watch fires once as it is set"
    fake.write(SHUTDOWN, b"suspend")
    fake.write(SHUTDOWN, b"")
    deadline_s = time.monotonic() + 5
    while host.sees_pauses("web"):
        assert time.monotonic() < deadline_s
        LOOP.once()
    assert host.happenings == []
    host.expect("web")
    assert host.sees_pauses("web")


def test_one_that_left_unseen_is_cut_off_all_the_same(fake: FakeXenstore, xl: Path) -> None:
    """Else what libvirt resumes here would have two of it in the network."""
    host = Told()
    host.expect("web")
    for _ in range(10):
        LOOP.once()
    fake.write(SHUTDOWN, b"suspend")
    fake.write(SHUTDOWN, b"")
    fake.write("@releaseDomain", b"")  # another one's end: xl calls ours running
    for _ in range(10):
        LOOP.once()
    assert host.happenings == [] and not host.sees_pauses("web")
    xl.write_text(LIST.format(state="---s--"))
    fake.write("@releaseDomain", b"")
    host.becomes(LEFT)
    fake.write("@releaseDomain", b"")
    for _ in range(10):
        LOOP.once()
    host.becomes(LEFT)


def test_a_guest_that_writes_without_end_keeps_nobody_elses_turn_waiting(
    fake: FakeXenstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread does everything. libxl lets a guest write its own control/shutdown (libxl__domain_make)."""
    reads = 0

    class Flooded(Xenstore):
        def read(self, path: str) -> bytes:
            nonlocal reads
            reads += 1
            assert reads < 1000, "it never comes back"
            fake.write(SHUTDOWN, b"")
            return super().read(path)

    monkeypatch.setattr(xen_domains, "Xenstore", Flooded)
    host = Told()
    host.expect("web")
    fake.write(SHUTDOWN, b"")
    deadline_s = time.monotonic() + 5
    while reads < 50:
        assert time.monotonic() < deadline_s
        before = reads
        LOOP.once()
        assert reads - before < 20, "others have their turn"


def test_a_connection_that_breaks_is_made_again_by_who_arms_again(fake: FakeXenstore) -> None:
    host = Told()
    host.expect("web")
    fake.break_off()
    deadline_s = time.monotonic() + 5
    while host._bus is not None:
        assert time.monotonic() < deadline_s
        LOOP.once()
    assert not host.sees_pauses("web")
    host.expect("web")
    assert host.sees_pauses("web")
    fake.write(SHUTDOWN, b"suspend")
    host.becomes(ASKED)
