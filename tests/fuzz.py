"""Coverage-guided fuzzing of everything that reads what another party sent: python tests/fuzz.py TARGET [atheris flags]

Each target is where the words come in: a channel, a session, XML of libvirt, a recording, rows of databases, files. An
exception that is not promised there ends it with the input. `-runs=N` bounds it; without, it runs on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["guest_agent", "vmacro"]):
    from guest_agent import channel as agents_channel
    from tests import fuzz_files, fuzz_fleet, fuzz_xen
    from tests.hostile import is_harmless
    from tests.unit.test_agent_driver import ARRIVAL, CLAIM, CONNECTIONS, COUNTS, STATUS
    from vmacro.drivers.agent import ChannelAgent
    from vmacro.drivers.host_side import Session
    from vmacro.drivers.libvirt import definition, devices, migration
    from vmacro.drivers.libvirt import filters as libvirt_filters
    from vmacro.drivers.libvirt import xml as libvirt_xml
    from vmacro.errors import AgentError, HostError
    from vmacro.host.dispatch import Dispatcher, handler
    from vmacro.host.domains import LibvirtDomains
    from vmacro.host.errors import RefusedError
    from vmacro.host.legs import from_alias
    from vmacro.host.network import KernelNetwork
    from vmacro.host.server import REFUSALS, Server
    from vmacro.host.switchover import Switchover
    from vmacro.model.definitions import Device
    from vmacro.rtt import wire
    from vmacro.wire import agent_verbs, fields, host_verbs, messages, xen_verbs
    from vmacro.wire.taken_verbs import TAKEN, Taking


class _Nothing:
    """A kernel that refuses everything."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        def refuse(*_args: object, **_kwargs: object) -> object:
            raise OSError(name)

        return refuse


def _refuse(_args: object) -> Any:
    raise RefusedError("disk", "this machine's files, and its neighbours, are left alone")


def _host_without_a_kernel() -> Dispatcher:
    switchover = Switchover(KernelNetwork(_Nothing()), LibvirtDomains("test:///none"))
    disks = [handler(verb, _refuse) for verb in host_verbs.VERBS.values()]
    return Dispatcher([*disks, *Server(_Nothing(), switchover, _refuse, tuple).handlers()], REFUSALS)


_HOST = _host_without_a_kernel()


async def _echo(request: messages.Request) -> messages.Reply:
    if request.verb not in agent_verbs.VERBS:
        raise messages.ProtocolError("bad-verb", request.verb)
    return messages.Reply(request.id, fields.encode(agent_verbs.VERBS[request.verb].decode_args(request)))


def agent(data: bytes) -> None:
    """One line, as the guest's agent answers it."""
    reply = asyncio.run(agents_channel.answer(data, _echo))
    assert len(reply) <= messages.MAX_REPLY_BYTES and reply.endswith(b"\n")


def reply(data: bytes) -> None:
    """What a guest or a host says, as the orchestrator reads it: an answer to any verb."""
    try:
        read = messages.decode_reply(data)
    except messages.ProtocolError:
        return
    for verb in agent_verbs.VERBS.values():
        try:
            verb.decode_result(read)
        except messages.ProtocolError:
            continue


def host(data: bytes) -> None:
    """One line, as the host side answers it, with no kernel behind it."""
    answered = messages.decode_reply(_HOST.answer(data))
    assert answered.error_code != "internal"
    assert not answered.ok or answered.result == {"turns": []}, "nothing can be done here"


def host_reply(data: bytes) -> None:
    """A host side's answer, to any of its verbs, as the orchestrator reads it."""
    try:
        answered = messages.decode_reply(data)
    except messages.ProtocolError:
        return
    for verb in (*host_verbs.VERBS.values(), *xen_verbs.VERBS.values()):
        try:
            verb.decode_result(answered)
        except messages.ProtocolError:
            continue


def alias(data: bytes) -> None:
    """What the kernel says is written on a link, which anybody with root there may have written."""
    from_alias(data.decode(errors="replace"))


class _Channel:
    """Implements ports.AgentStream: `ID` in what it says is the request's."""

    def __init__(self, data: bytes) -> None:
        self._chunks = data.split(b"\xff\xff")
        self._id = b""

    def send(self, data: bytes, deadline_s: float) -> None:
        self._id = json.loads(data)["id"].encode()

    def recv(self, deadline_s: float) -> bytes:
        if not self._chunks:
            raise TimeoutError
        return self._chunks.pop(0).replace(b"ID", self._id)


_QUESTIONS: tuple[Callable[[ChannelAgent], object], ...] = (
    lambda agent: agent.status(),
    lambda agent: agent.claim("web-1", "me@here", 60),
    lambda agent: agent.release("web-1"),
    lambda agent: agent.connections(),
    lambda agent: agent.count(agent_verbs.CountArgs(("10.0.0.1",))),
    lambda agent: agent.arrive("10.0.0.1"),
    lambda agent: agent.retire("10.0.0.1"),
)


def channel(data: bytes) -> None:
    """What comes on a guest's channel, in any pieces, while its agent is asked."""
    agent = ChannelAgent("web", _Channel(data[1:]))
    try:
        _QUESTIONS[data[0] % len(_QUESTIONS) if data else 0](agent)
    except AgentError as error:
        assert is_harmless(str(error)) and len(str(error)) < 2000


class _Program:
    """Implements host_side.Program."""

    alive = True

    def __init__(self, data: bytes) -> None:
        self._stream = _Channel(data)

    def send(self, data: bytes, timeout_s: float) -> int:
        self._stream.send(data, 0)
        return len(data)

    def receive(self, timeout_s: float) -> bytes:
        return self._stream.recv(0)

    def complaint(self) -> str:
        return ""

    def close(self) -> None:
        self.alive = False


def session(data: bytes) -> None:
    """What comes of a host side's session, in any pieces, while it is asked."""
    verbs: list[Any] = [
        host_verbs.FACTS,
        host_verbs.TURNED,
        host_verbs.LEAVING,
        host_verbs.DISK_LOOK,
        host_verbs.DISK_FETCHED,
        host_verbs.REACH,
        host_verbs.DISK_FILES,
        TAKEN,
    ]
    args: list[Any] = [host_verbs.Facts("front0"), host_verbs.Domain("web"), host_verbs.Domain("web")]
    args += [host_verbs.Disk("ab12cd34", "/images/web", "raw")] * 2
    args += [host_verbs.Reach("web-1", ("10.1.0.7",)), host_verbs.Paths(("/isos/a.iso",)), Taking((), (7,))]
    chosen = data[0] % len(verbs) if data else 0
    try:
        Session("berlin", _Program(data[1:])).ask(verbs[chosen], args[chosen])
    except HostError as error:
        assert is_harmless(str(error)) and len(str(error)) < 2000


def xml(data: bytes) -> None:
    """What a host's libvirt describes."""
    text = data[1:].decode(errors="replace")
    reads: list[Callable[[], object]] = [
        lambda: libvirt_xml.domain(text),
        lambda: libvirt_xml.network(text, True, [("10.0.0.9", "52:54:00:00:00:01")]),
        lambda: libvirt_xml.pool(text),
        lambda: libvirt_filters.of(text, text, lambda _name: text),
        lambda: libvirt_xml.machine_types(text),
        lambda: libvirt_xml.migrates_live(text),
        lambda: libvirt_xml.host_processor(text),
        lambda: definition.definition(text, text),
        lambda: devices.missing([Device("graphics", "type", "spice")], text),
    ]
    with suppress(ValueError):
        reads[data[0] % len(reads) if data else 0]()


def job(data: bytes) -> None:
    """What a host's libvirt tells of a migration."""
    with suppress(ValueError, RecursionError):
        stats = json.loads(data)
        if isinstance(stats, dict):
            migration.progress(stats)
            migration.statistics(stats)


def probe(data: bytes) -> None:
    """Records of round trips."""
    try:
        wire.decode(bytearray(data))
    except wire.WireError:
        return


_HERE = (agent, reply, host, host_reply, alias, probe, channel, session, xml, job)
TARGETS: dict[str, Callable[[bytes], None]] = {target.__name__: target for target in _HERE} | fuzz_files.TARGETS
TARGETS |= fuzz_fleet.TARGETS | fuzz_xen.TARGETS
_LEG = "home vxlan web-1 web 10.1.0.7 52:54:00:00:00:01 front0 10.9.0.6"
_END = host_verbs.FoundLegEnd(*f"{_LEG} guest".split(" "))
_FACTS = host_verbs.LinkFacts("0.1.0", ("vxlan",), "52:54:00:aa:aa:aa", 1500, 1500, True, "", (_END,))
_OF_MACS = host_verbs.LinkFacts(
    "0.1.0", ("vxlan",), "", 1500, 1500, True, mac_users=(host_verbs.MacUser("web", "vnet0", True),), devices=("b",)
)
_OF_AGENTS = (STATUS, CLAIM, messages.Nothing(), CONNECTIONS, COUNTS, ARRIVAL, agent_verbs.Retired(True, 0))
_OF_HOSTS = (
    _FACTS,
    _OF_MACS,
    host_verbs.Turned((host_verbs.Turn("guest", 1, 2, 3, "x"),)),
    host_verbs.Departure("stayed"),
    host_verbs.BaseFacts(True, True, True, 9),
    host_verbs.Fetching(True, 9, "x"),
    host_verbs.HeardOf((host_verbs.Heard("10.1.0.7", ("52:54:00:00:00:01",), 64, 1500),)),
)
_XML = (
    "<domain type='kvm'><memory unit='KiB'>4</memory><os><type machine='q35'/></os><devices><disk type='file'><source "
    "file='/a'/><target dev='vda'/></disk><interface type='network'><mac address='52:54:00:00:00:01'/><source "
    "network='n' bridge='b'/><target dev='vnet0'/><model type='virtio'/></interface></devices></domain>",
    "<network><name>n</name><bridge name='b' stp='off' delay='0'/><ip address='10.0.0.1' prefix='24'><dhcp><range "
    "start='10.0.0.2' end='10.0.0.9'/><host mac='52:54:00:00:00:01' ip='10.0.0.3'/></dhcp></ip></network>",
    "<pool type='dir'><name>p</name><available>7</available><target><path>/a</path></target></pool>",
    "<domain><devices><interface type='network'><mac address='52:54:00:00:00:01'/><filterref filter='f'><parameter "
    "name='IP' value='10.0.0.1'/></filterref></interface></devices></domain>",
    "<capabilities><guest><arch><machine canonical='q35'>pc</machine></arch></guest></capabilities>",
)


def _answer(message: object) -> bytes:
    return messages.encode_reply(messages.Reply("ID", fields.encode(message)))


# What is right, to begin with: from nothing nobody guesses JSON.
SEEDS = {
    "agent": [
        agent_verbs.CLAIM.request("a", agent_verbs.ClaimArgs("web-1", 60, "me@here")),
        agent_verbs.CONSENT.request("a", agent_verbs.ConsentArgs()),
        agent_verbs.PREPARE.request("a", agent_verbs.PrepareArgs("10.0.0.1", "fd00::1")),
        agent_verbs.RETIRE.request("a", agent_verbs.RetireArgs("10.0.0.1")),
    ],
    "host": [messages.encode_request(messages.Request("a", verb, {"domain": "web"})) for verb in host_verbs.VERBS],
    "host_reply": [
        messages.encode_reply(messages.Reply("a", fields.encode(said)))
        for said in (
            _FACTS,
            xen_verbs.XenFacts(("pv", "shadow")),
            xen_verbs.Saving(7, False, True),
            xen_verbs.Aborted("ended"),
        )
    ],
    "reply": [
        messages.encode_reply(messages.Reply("a", {"connections": [], "total": 0})),
        messages.encode_reply(messages.Reply("a", {"retired": True, "stuck": 0})),
        messages.encode_reply(messages.Reply("a", {}, "claimed", "by another")),
    ],
    "alias": [f"vmacro1 {_LEG}".encode()],
    "probe": [wire.encode(7) * 3],
    "channel": [bytes([n]) + _answer(example) for n, example in enumerate(_OF_AGENTS)],
    "session": [bytes([n]) + _answer(example) for n, example in enumerate(_OF_HOSTS)],
    "xml": [bytes([n]) + text.encode() for n, text in enumerate(_XML)],
    "job": [b'{"memory_total":1,"downtime":2,"memory_dirty_rate":3,"type":1}'],
    **fuzz_files.SEEDS,
    **fuzz_fleet.SEEDS,
    **fuzz_xen.SEEDS,
}


def fuzz(target: str, flags: list[str]) -> None:
    """Ends the process, as libFuzzer does."""
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for number, seed in enumerate(SEEDS[target]):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], *flags, str(corpus)], TARGETS[target])
    atheris.Fuzz()


def in_a_child(target: str, flags: list[str], folder: str) -> int:
    """Its exit code. What it writes of itself is `log` in the folder, below which all else is, too."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        tempfile.tempdir = folder
        log = os.open("log", os.O_WRONLY | os.O_CREAT, 0o600)
        for stream in (1, 2):  # the parent's output is its answers
            os.dup2(log, stream)
        fuzz(target, flags)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    """A target, its flags and a folder a line, answered by exit codes: instrumenting all modules takes seconds."""
    for line in sys.stdin:
        print(in_a_child(*json.loads(line)), flush=True)


if __name__ == "__main__":
    logging.disable()
    if sys.argv[1:] == ["--serve"]:
        serve()
    elif len(sys.argv) > 1 and sys.argv[1] in TARGETS:
        with tempfile.TemporaryDirectory(prefix="vmacro-fuzz-") as folder:
            tempfile.tempdir = folder
            sys.exit(in_a_child(sys.argv[1], sys.argv[2:], folder))
    else:
        sys.exit(f"fuzz.py: which target? {', '.join(TARGETS)}")
