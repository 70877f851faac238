"""Xen's driver, on a libvirt that can and cannot what its libxl driver can and cannot (libxl_driver.c, 9.0 to 11.3),
and on a host side that says what Xen would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import libvirt
import pytest

from vmacro.drivers.fake import XEN as CAPABLE
from vmacro.drivers.fake import host
from vmacro.drivers.libvirt import xen
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.xen import XenHypervisor
from vmacro.drivers.transports import Transports
from vmacro.drivers.xen_channel import XenChannels
from vmacro.errors import AgentError, CopyError, HostError, UnreachableError
from vmacro.model.facts import ARRIVING, LEAVING, CopyProgress
from vmacro.model.nouns import Host, Policy
from vmacro.wire import messages
from vmacro.wire.messages import Reply
from vmacro.wire.xen_verbs import ENDED, SUSPENDED, Saving, XenFacts

CAPABILITIES = """<capabilities><host><uuid>8d1a</uuid><cpu><arch>x86_64</arch></cpu>
<migration_features><live/></migration_features></host><guest><os_type>xen</os_type><arch name='x86_64'>
<machine>xenpv</machine></arch></guest><guest><os_type>xenpvh</os_type><arch name='x86_64'><machine>xenpvh</machine>
</arch></guest></capabilities>"""
DOMAIN = """<domain type='xen' id='7'><name>web</name><uuid>u</uuid><memory unit='KiB'>131072</memory><os>
<type arch='x86_64' machine='{machine}'>linux</type></os><devices><interface type='bridge'><mac
address='52:54:00:00:00:01'/><source bridge='front0'/><target dev='vif7.0'/></interface></devices></domain>"""
PEER = replace(host("d1"), peer_uri="xen+tls://d1/system")
PATIENT = Policy(copy_timeout_s=60)


def unsupported(*_args: object) -> Any:
    error = libvirt.libvirtError("this function is not supported by the connection driver")
    error.err = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_FROM_LIBXL, "not supported", 2, "", "", "", 0, 0)
    raise error


class Libxl:
    """A connection, and its one domain `web`. `migrates` is how long its migration takes."""

    def __init__(self, machine: str = "xenpvh", migrates: Callable[[Libxl], None] = lambda _self: None) -> None:
        self.machine, self.migrates = machine, migrates
        self.asked: list[tuple[str, dict[str, Any], int]] = []
        self.state_now = libvirt.VIR_DOMAIN_RUNNING
        self.busy = False
        self.ended = threading.Event()

    def getType(self) -> str:  # noqa: N802 libvirt's names
        return "Xen"

    def getCapabilities(self) -> str:  # noqa: N802
        return CAPABILITIES

    def getHostname(self) -> str:  # noqa: N802
        return "xen1"

    def getVersion(self) -> int:  # noqa: N802
        return 4_017_000

    def getLibVersion(self) -> int:  # noqa: N802
        return 9_000_000

    def getFreeMemory(self) -> int:  # noqa: N802
        return 300 << 20

    def lookupByName(self, _name: str) -> Libxl:  # noqa: N802
        return self

    def lookupByUUID(self, _uuid: bytes) -> Libxl:  # noqa: N802
        return self

    def UUID(self) -> bytes:  # noqa: N802
        return b"u"

    def UUIDString(self) -> str:  # noqa: N802
        return "u"

    def name(self) -> str:
        return "web"

    def state(self) -> tuple[int, int]:
        return self.state_now, 0

    def isPersistent(self) -> bool:  # noqa: N802
        return True

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        return DOMAIN.format(machine=self.machine)

    def hasManagedSaveImage(self) -> bool:  # noqa: N802
        return False

    def autostart(self) -> bool:
        return False

    def jobStats(self) -> dict[str, Any]:  # noqa: N802
        """It says that there is a job, and for how long, and no more (libxlDomainGetJobStats)."""
        kind = libvirt.VIR_DOMAIN_JOB_UNBOUNDED if self.busy else libvirt.VIR_DOMAIN_JOB_NONE
        return {"type": kind, "time_elapsed": 5}

    def migrateToURI3(self, uri: str, parameters: dict[str, Any], flags: int) -> None:  # noqa: N802
        self.asked.append((uri, parameters, flags))
        self.migrates(self)

    def close(self) -> None:
        pass

    abortJob = snapshotNum = listAllCheckpoints = migrateSetMaxDowntime = getMemoryStats = unsupported  # noqa: N815
    nwfilterLookupByName = unsupported  # noqa: N815


class Side:
    """Implements XenSide."""

    def __init__(self, libxl: Libxl, *words: str) -> None:
        self.libxl, self.words = libxl, words
        self.suspended = False
        self.aborted: list[str] = []
        self.silent = False
        self.paced: list[tuple[str, int, int]] = []

    def pace(self, address: str, port: int, bytes_s: int) -> int:
        """The connection is there at the second look."""
        self.paced.append((address, port, bytes_s))
        return len(self.paced) - 1

    def xen(self) -> XenFacts:
        if self.silent:
            raise UnreachableError("host b1: no SSH")
        return XenFacts(self.words)

    def saving(self, _domain: str) -> Saving:
        if self.silent:
            raise UnreachableError("host b1: no SSH")
        return Saving(7, self.suspended, False)

    def abort_saving(self, domain: str) -> str:
        self.aborted.append(domain)
        self.libxl.ended.set()
        return SUSPENDED if self.suspended else ENDED


def driven(libxl: Libxl, side: Side | None, there: Side | None = None) -> XenHypervisor:
    class Known:
        def get(self, _host: Host) -> Libxl:
            return libxl

        another = get

        def certificate_days_left(self, _host: Host) -> None:
            return None

    def sides(asked: Host) -> Side:
        found = there if asked.name == PEER.name else side
        assert found is not None
        return found

    return XenHypervisor(host("b1"), cast(Connections, Known()), sides if side is not None else None)


def copied(hypervisor: XenHypervisor, policy: Policy = PATIENT, cancelled: Callable[[], bool] = lambda: False) -> None:
    hypervisor.copy("web", PEER, policy, lambda _progress: None, cancelled)


def test_facts_are_libvirts_and_what_only_the_host_side_knows() -> None:
    libxl = Libxl()
    found = driven(libxl, Side(libxl, "pv", "hap", "shadow")).facts()
    assert (found.hypervisor, found.hypervisor_version, found.free_memory_mib) == ("Xen", (4, 17, 0), 300)
    assert found.shadow_paging is True and found.capabilities == CAPABLE and found.machine_types == ("xenpv", "xenpvh")
    assert driven(libxl, Side(libxl, "pv", "hap")).facts().shadow_paging is False


@pytest.mark.parametrize("silent", [True, False])
def test_without_a_host_side_less_is_known_and_nothing_can_be_aborted(silent: bool) -> None:
    libxl = Libxl()
    side = Side(libxl) if silent else None
    if side is not None:
        side.silent = True
    found = driven(libxl, side).facts()
    assert found.shadow_paging is None and not found.capabilities.abort
    seen = driven(libxl, side).domain("web")
    assert seen is not None and seen.running


def test_what_libvirts_driver_does_not_have_a_domain_has_none_of() -> None:
    libxl = Libxl()
    found = driven(libxl, Side(libxl)).definition("web")
    assert found is not None and (found.snapshots, found.checkpoints) == (0, 0)
    seen = driven(libxl, Side(libxl)).domain("web")
    assert seen is not None and seen.has_agent_channel and seen.machine == "xenpvh"
    assert seen.cards[0].tap == "vif7.0"


def test_a_guest_that_xen_has_suspended_does_not_run_whatever_libvirt_says() -> None:
    libxl = Libxl()
    side = Side(libxl)
    side.suspended = True
    seen = driven(libxl, side).domain("web")
    assert seen is not None and (seen.state, seen.reason) == ("paused", "for a migration")


@pytest.mark.parametrize(
    ("busy", "state", "job"),
    [
        (False, libvirt.VIR_DOMAIN_RUNNING, ""),
        (True, libvirt.VIR_DOMAIN_RUNNING, LEAVING),
        (True, libvirt.VIR_DOMAIN_BLOCKED, LEAVING),
        (True, libvirt.VIR_DOMAIN_PAUSED, ARRIVING),
        (True, libvirt.VIR_DOMAIN_SHUTOFF, ARRIVING),
    ],
)
def test_a_job_without_a_name_is_a_migration(busy: bool, state: int, job: str) -> None:
    libxl = Libxl()
    libxl.busy, libxl.state_now = busy, state
    seen = driven(libxl, Side(libxl)).domain("web")
    assert seen is not None and seen.job == job


def test_a_copy_goes_through_libvirts_own_connection_which_encrypts_it() -> None:
    libxl = Libxl()
    copied(driven(libxl, Side(libxl)), Policy(bandwidth_mib_s=5))
    ((uri, parameters, flags),) = libxl.asked
    wanted = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_TUNNELLED
    wanted |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    assert (uri, parameters, flags) == (PEER.peer_uri, {}, wanted)


def test_a_pv_guest_without_shadow_paging_is_not_tried() -> None:
    libxl = Libxl("xenpv")
    with pytest.raises(CopyError, match="it is a PV guest, and this Xen has no shadow paging"):
        copied(driven(libxl, Side(libxl, "pv", "hap")))
    assert libxl.asked == []


@pytest.mark.parametrize(
    ("words", "allowed", "live"), [(("shadow",), False, True), (("shadow",), True, True), ((), True, False)]
)
def test_it_stands_still_only_where_it_must_and_may(words: tuple[str, ...], allowed: bool, live: bool) -> None:
    libxl = Libxl("xenpv")
    copied(driven(libxl, Side(libxl, *words)), Policy(allow_standstill=allowed))
    assert bool(libxl.asked[0][2] & libvirt.VIR_MIGRATE_LIVE) == live


def arrives_once_asked(libxl: Libxl) -> None:
    assert libxl.ended.wait(10)


@pytest.mark.parametrize(("mib_s", "times"), [(5, 2), (0, 0)])
def test_its_bandwidth_is_the_host_sides_to_hold_it_to(mib_s: int, times: int) -> None:
    libxl = Libxl(migrates=lambda _libxl: time.sleep(1.2))
    side = Side(libxl)
    copied(driven(libxl, side), Policy(bandwidth_mib_s=mib_s))
    assert side.paced == [(PEER.address, 16514, mib_s << 20)] * times
    assert libxl.asked[0][1] == {}


@pytest.mark.parametrize("silent", [True, False])
def test_a_cap_that_nobody_holds_it_to_is_told_once(silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel gives no copy of libvirt's sockets, or its connection leads elsewhere than is known."""
    monkeypatch.setattr(xen, "UNPACED_S", 0.3)
    libxl = Libxl(migrates=lambda _libxl: time.sleep(1.2))

    class Unable(Side):
        def pace(self, address: str, port: int, bytes_s: int) -> int:
            if silent:
                raise UnreachableError("host b1: no SSH")
            return 0

    told: list[CopyProgress] = []
    driven(libxl, Unable(libxl)).copy("web", PEER, Policy(bandwidth_mib_s=5), told.append, lambda: False)
    (found,) = told
    assert "policy bandwidth_mib_s is not heeded" in found.warning
    assert ("no SSH" if silent else "port 16514") in found.warning


def test_a_connection_that_begins_later_is_slowed_down_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first may be another move's."""
    monkeypatch.setattr(xen, "PACED_EVERY_S", 0.2)
    libxl = Libxl(migrates=lambda _libxl: time.sleep(1.6))
    side = Side(libxl)
    copied(driven(libxl, side), Policy(bandwidth_mib_s=5))
    assert len(side.paced) > 3


def fails_once_ended(libxl: Libxl) -> None:
    assert libxl.ended.wait(10)
    raise libvirt.libvirtError("Failed to send migration data to destination host")


@pytest.mark.parametrize(
    ("policy", "cancelled", "why"),
    [(Policy(copy_timeout_s=0.01), False, "it took over"), (PATIENT, True, "interrupted")],
)
def test_a_copy_is_ended_by_the_host_side(policy: Policy, cancelled: bool, why: str) -> None:
    libxl = Libxl(migrates=fails_once_ended)
    here, there = Side(Libxl()), Side(libxl)  # libvirt waits for the latter
    began_s = time.monotonic()
    with pytest.raises(CopyError, match=why):
        copied(driven(libxl, here, there), policy, lambda: cancelled and time.monotonic() - began_s > 0.2)
    assert set(here.aborted) == set(there.aborted) == {"web"}


def test_a_guest_that_is_suspended_already_arrives() -> None:
    """To end what receives it then would leave it suspended at the source."""
    libxl = Libxl(migrates=arrives_once_asked)
    here, there = Side(libxl), Side(Libxl())
    here.suspended = True
    copied(driven(libxl, here, there), Policy(copy_timeout_s=0.01))
    assert set(here.aborted) == {"web"} and not there.aborted


class Way:
    """Implements host_side.Program: a host side that answers `first`, and is an echo afterwards."""

    alive = True

    def __init__(self, first: Callable[[str], bytes]) -> None:
        self._first, self._said, self.got = first, b"", b""
        self.closed = False

    def send(self, data: bytes, timeout_s: float) -> int:
        if not self.got:
            self._said = self._first(messages.decode_request(data[:-1]).id)
        else:
            self._said += data
        self.got += data
        return len(data)

    def receive(self, timeout_s: float) -> bytes:
        if not self._said and self.closed:
            return b""
        if not self._said:
            raise TimeoutError
        said, self._said = self._said[:7], self._said[7:]
        return said

    def complaint(self) -> str:
        return ""

    def close(self) -> None:
        self.closed = True


class Shell:
    """Implements host_side.Shell."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.started: list[tuple[str, str, str]] = []

    def start(self, subject: str, user: str, address: str, program: str, slow_s: float = 0.0) -> Way:
        self.started.append((user, address, program))
        return self.way


HERE = replace(host("b1"), ssh="root@192.0.2.1")


def granted(request_id: str) -> bytes:
    return messages.encode_reply(Reply(request_id, {}))


def test_the_way_to_an_agent_is_a_session_of_its_own() -> None:
    shell = Shell(Way(granted))
    with XenChannels(shell, polite=True).open(HERE, "web") as stream:
        stream.send(b"hello", time.monotonic() + 1)
        assert stream.recv(time.monotonic() + 1) == b"hello"
        with pytest.raises(TimeoutError):
            stream.recv(time.monotonic() + 1)
        with pytest.raises(TimeoutError):
            stream.recv(time.monotonic() - 1)
    assert shell.way.closed and shell.started == [("root", "192.0.2.1", "vmacro-host")]
    asked = messages.decode_request(shell.way.got.split(b"\n")[0])
    assert (asked.verb, asked.args) == ("agent", {"domain": "web", "polite": True})


def test_a_way_that_ends_says_so() -> None:
    shell = Shell(Way(granted))
    with XenChannels(shell).open(HERE, "web") as stream:
        shell.way.closed = True
        with pytest.raises(AgentError, match="guest web: the way to its agent has ended"):
            stream.recv(time.monotonic() + 1)


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (
            lambda i: messages.encode_reply(Reply(i, {}, "in-use", "somebody else talks to it")),
            "somebody else talks to it",
        ),
        (lambda i: messages.encode_reply(Reply(i, {}, "unknown-verb", "no verb 'agent' here")), "no verb 'agent' here"),
        (lambda i: b"hello\n", "said something odd"),
        (lambda i: b"x" * 5000 + b"\n", "said something odd"),
        (lambda i: messages.encode_reply(Reply("another", {})), "cannot be reached"),
    ],
)
def test_a_host_side_that_does_not_lead_there_is_told(first: Callable[[str], bytes], told: str) -> None:
    shell = Shell(Way(first))
    with pytest.raises(AgentError, match=told), XenChannels(shell).open(HERE, "web"):
        pass
    assert shell.way.closed


def test_a_host_without_ssh_is_told() -> None:
    channels = XenChannels(Shell(Way(granted)))
    with pytest.raises(HostError, match="no SSH to its host side"), channels.open(replace(HERE, ssh=""), "web"):
        pass


def test_guests_of_xen_are_reached_by_the_host_side_and_others_by_libvirt() -> None:
    class Kinds:
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def get(self, _host: Host) -> Kinds:
            return self

        def getType(self) -> str:  # noqa: N802
            return self.kind

        newStream = unsupported  # noqa: N815

    shell = Shell(Way(granted))
    with Transports(cast(Connections, Kinds("Xen")), shell).open(HERE, "web") as stream:
        stream.send(b"x", time.monotonic() + 1)
    of_qemu = Transports(cast(Connections, Kinds("QEMU")), shell)
    with pytest.raises(AgentError, match="its agent's channel cannot be opened"), of_qemu.open(HERE, "web"):
        pass
    assert len(shell.started) == 1
