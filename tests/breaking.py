"""Real faults, struck into a real move at a given moment, and what became of guest, hosts and connections.

tests/lab/test_faults.py holds each to what docs/reliability.md promises; benchmarks/soak.py strikes them at random.
"""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import libvirt

from tests.support import Vmacro, address_of, clients, eventually, on_host, traces_of_moves, verdicts
from vmacro import inventory
from vmacro.drivers.libvirt.connection import Connections
from vmacro.lab import namespaces
from vmacro.lab.lab import Lab
from vmacro.services.archive import Archive

PATIENCE_S = 400.0
KINDS = ("chatter", "tcp-chatter", "idle")
# Bounds that a test can wait for; the product's are longer.
# Its copies are not compressed: they would be over before anything breaks.
IMPATIENT = '[policy]\nphase_timeout_s = 25\narrival_timeout_s = 10\ncompression = "off"\n'


class Attempt:
    """A vmacro command under way, its events read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, moment: str) -> bool:
        """Whether it came, before the process ended."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            line = self._lines.get(timeout=PATIENCE_S)
            if line is None:
                return False
            event = json.loads(line)
            self.events.append(event)
            if _is(moment, event):
                return True
        raise AssertionError(f"waited in vain for {moment}")

    def end(self) -> int:
        self.until("never")
        self.process.wait(PATIENCE_S)
        return self.process.returncode

    @property
    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()


def _is(moment: str, event: dict[str, Any]) -> bool:
    kind, data = event.get("kind"), event.get("data", {})
    if moment == "copying":
        return kind == "copy.progress" and data["bytes_sent"] > 8 << 20
    if moment == "switched":
        return kind == "domain" and (data["side"], data["event"]) == ("destination", "resumed")
    return kind == "phase.begin" and data["phase"] == moment


@dataclass
class Scene:
    """`home` and `away`: where the guest is at first, and where it shall go."""

    lab: Lab
    vmacro: Vmacro
    home: str
    away: str
    attempt: Attempt | None = None

    def kill(self) -> None:
        assert self.attempt is not None
        self.attempt.process.kill()

    def migrate(self, *words: str, **kwargs: Any) -> Attempt:
        return Attempt(self.vmacro.start("migrate", "web", "--to", self.away, "--json", *words, **kwargs))


@dataclass(frozen=True)
class Fault:
    """`strikes` at `moment` and heals as its context ends. `exits`: what the broken attempt may end with, -9 for one
    that was killed."""

    name: str
    moment: str
    strikes: Callable[[Scene], AbstractContextManager[None]]
    exits: tuple[int, ...] = (0,)
    starts: Callable[[Scene], Attempt] = field(default=lambda scene: scene.migrate())

    @property
    def title(self) -> str:
        return f"{self.name}, {self.moment}"


@dataclass(frozen=True)
class Row:
    """What became of it: the broken attempt's exit code and where the guest was `at` then, the exit codes of
    `resume`, where it `runs_at` in the end. `lost` names the connections that did not live, `left` what was found
    at the hosts."""

    fault: str
    moment: str
    code: int
    at: str
    then: tuple[int, ...]
    runs_at: str
    lost: tuple[str, ...]
    left: tuple[str, ...]
    seconds: float
    said: str = ""


def ordeal(lab: Lab, vmacro: Vmacro, fault: Fault, kinds: tuple[str, ...] = KINDS) -> Row:
    """One move with one fault, resumed until nothing remains, with connections open all the while."""
    began, before = time.monotonic(), traces_of_moves(lab)
    with clients(lab, "client", address_of(lab, "web"), *kinds) as process:
        row = broken_move(lab, vmacro, fault)
        lost = tuple(f"{kind}: {why}" for kind, why in verdicts(process).items() if why)
    vmacro("carry")
    left = leftovers(lab, vmacro, before)
    return replace(row, runs_at="+".join(places(lab)), lost=lost, left=left, seconds=time.monotonic() - began)


def broken_move(lab: Lab, vmacro: Vmacro, fault: Fault) -> Row:
    """One move with one fault, resumed until nothing remains. `lost` and `left` are not looked at."""
    began, (home,) = time.monotonic(), places(lab)
    scene = Scene(lab, vmacro, home, next(s for s in lab.topology.sites if s != home))
    scene.attempt = fault.starts(scene)
    came = scene.attempt.until(fault.moment)
    assert came, f"{fault.title}: the attempt ended too early: {scene.attempt.errors}"
    with fault.strikes(scene):
        code = scene.attempt.end()
    said = scene.attempt.errors + "".join(e["reason"] for e in scene.attempt.events if "reason" in e)
    sides = {scene.home: "source", scene.away: "destination"}
    at, resumed = " and ".join(sides[p] for p in places(lab)) or "nowhere", tuple(_resumed(vmacro))
    said += "".join(f"; resumed: {text}" for _, text in resumed if text)
    runs_at, then = "+".join(places(lab)), tuple(code for code, _ in resumed)
    return Row(fault.name, fault.moment, code, at, then, runs_at, (), (), time.monotonic() - began, said)


def leftovers(lab: Lab, vmacro: Vmacro, before: dict[str, set[str]]) -> tuple[str, ...]:
    """What is at the hosts now and was not before, or the other way round; and what vmacro itself finds."""
    after = traces_of_moves(lab)
    left = [f"{h}: {line}" for h in after for line in sorted(after[h] ^ before[h])]
    return (*left, *(str(row) for row in json.loads(vmacro("cleanup", "--dry-run", "--json").stdout)))


def _resumed(vmacro: Vmacro) -> Iterator[tuple[int, str]]:
    """Exit codes of `vmacro resume` and what it said, until there is nothing to resume."""
    for _ in range(4):
        with closing(Archive(inventory.load(vmacro.inventory).database_url)) as archive:
            unfinished = [r.plan.move_id for r in archive.unfinished("web")]
        if not unfinished:
            return
        done = vmacro("resume", unfinished[0], "--json")
        yield done.returncode, done.stderr + "".join(json.loads(x).get("reason", "") for x in done.stdout.splitlines())
    raise AssertionError(f"still unfinished: {done.stdout}{done.stderr}")


def places(lab: Lab) -> list[str]:
    """Where `web` runs, by the hosts' own virsh."""
    return [
        s for s in lab.topology.sites if "web" in on_host(lab, s, "virsh", "list", "--name", "--state-running").split()
    ]


def domains(lab: Lab) -> dict[str, str]:
    """All that the hosts know of `web`."""
    return {s: on_host(lab, s, "virsh", "list", "--all").strip() for s in lab.topology.sites}


@contextmanager
def killed(scene: Scene) -> Iterator[None]:
    scene.kill()
    yield


@contextmanager
def interrupted_twice(scene: Scene) -> Iterator[None]:
    assert scene.attempt is not None
    scene.attempt.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    scene.attempt.process.send_signal(signal.SIGINT)
    yield


def libvirtd_killed(at: str) -> Callable[[Scene], AbstractContextManager[None]]:
    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        host = getattr(scene, at)
        on_host(scene.lab, host, "systemctl", "kill", "--signal=KILL", "libvirtd.service")
        yield
        on_host(scene.lab, host, "systemctl", "start", "libvirtd.service")

    return strike


@contextmanager
def destination_qemu_killed(scene: Scene) -> Iterator[None]:
    on_host(scene.lab, scene.away, "sh", "-c", "kill -KILL $(cat /run/libvirt/qemu/web.pid)")
    yield


@contextmanager
def destination_without_memory(scene: Scene) -> Iterator[None]:
    """What its QEMU asks for is refused: ENOMEM."""
    limit = "for p in $(cat /run/libvirtd.pid); do prlimit --pid $p --as={}:unlimited; done"
    on_host(scene.lab, scene.away, "sh", "-c", limit.format(600 << 20))
    yield
    on_host(scene.lab, scene.away, "sh", "-c", limit.format("unlimited"))


@contextmanager
def ssh_cut(scene: Scene) -> Iterator[None]:
    """Sessions, not the server: the next one may come."""
    for host in (scene.home, scene.away):
        on_host(scene.lab, host, "sh", "-c", "kill -KILL $(pidof -x vmacro-host sshd-session) || true")
    yield


def wan_cut(seconds: float | None) -> Callable[[Scene], AbstractContextManager[None]]:
    """Between the sites, and from the operator to where the guest goes; None: until the attempt has ended."""

    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        with _dropped(scene):
            if seconds is None:
                yield
                return
            time.sleep(seconds)
        yield

    return strike


@contextmanager
def _dropped(scene: Scene) -> Iterator[None]:
    away, others = _address(scene, scene.away), (_address(scene, scene.home), _address(scene, "operator"))
    pairs = [pair for other in others for pair in ((away, other), (other, away))]
    firewall = ["ip", "netns", "exec", scene.lab.namespace("wan"), "iptables-legacy"]
    for one, other in pairs:
        subprocess.run([*firewall, "-I", "FORWARD", "-s", one, "-d", other, "-j", "DROP"], check=True)
    try:
        yield
    finally:
        for one, other in pairs:
            subprocess.run([*firewall, "-D", "FORWARD", "-s", one, "-d", other, "-j", "DROP"], check=True)


def _address(scene: Scene, node: str) -> str:
    return str(scene.lab.topology.uplink(node).node.ip)


@contextmanager
def dhcp_dead(scene: Scene) -> Iterator[None]:
    pid = "/run/libvirt/network/front.pid"
    on_host(scene.lab, scene.away, "sh", "-c", f"kill -STOP $(cat {pid})")
    try:
        yield
    finally:
        on_host(scene.lab, scene.away, "sh", "-c", f"kill -CONT $(cat {pid})")


def agent_signalled(number: str, heal: str = "") -> Callable[[Scene], AbstractContextManager[None]]:
    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        in_guest(scene, f"systemctl kill --signal={number} vmacro-agent")
        yield
        if heal:
            in_guest(scene, f"systemctl kill --signal={heal} vmacro-agent")
        eventually(lambda: agent_answers(scene.lab), "the agent to be back", every_s=1, within_s=180)

    return strike


def guest_told(key: str) -> Callable[[Scene], AbstractContextManager[None]]:
    """By whoever is root in it (sysrq): `b` reboots it at once, `o` powers it off. One that is off is started where it
    was."""

    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        in_guest(scene, f"{{ sleep 0.2; echo {key} > /proc/sysrq-trigger; }} & true")
        yield
        if not places(scene.lab):
            on_host(scene.lab, scene.home, "virsh", "start", "web")
        eventually(lambda: agent_answers(scene.lab), "the guest to be up", every_s=1, within_s=180)

    return strike


def agent_answers(lab: Lab) -> bool:
    agent = lab.guest("web").agent
    return agent is not None and agent.address != ""


def in_guest(scene: Scene, command: str) -> None:
    """By the console, where root is logged in."""
    (host,) = places(scene.lab)
    known = {h.name: h for h in inventory.load(scene.lab.inventory_file).inventory.hosts}
    connections = Connections(scene.lab.folder / "operator")
    try:
        with namespaces.inside(scene.lab.namespace("operator")):
            connection = connections.get(known[host])
        stream = connection.newStream()
        connection.lookupByName("web").openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        stream.send(f"\n{command}; echo over$((6*7))\n".encode())
        said = b""
        while b"over42" not in said:
            said += stream.recv(4096)
        stream.abort()
    finally:
        connections.close()


CUT = (-9, 0)  # it may have ended just before
FAULTS = [
    *(Fault("orchestrator killed", phase, killed, CUT) for phase in ("survey", "prepare", "copy", "copying")),
    *(
        Fault("orchestrator killed", phase, killed, CUT)
        for phase in ("switched", "arrive", "settle", "verify", "clean")
    ),
    Fault("Ctrl-C twice", "copying", interrupted_twice, (4,)),
    Fault("source's libvirtd killed", "copying", libvirtd_killed("home"), (0, 4, 5, 6)),
    Fault("source's libvirtd killed", "switched", libvirtd_killed("home"), (0, 5, 6)),
    Fault("destination's libvirtd killed", "copying", libvirtd_killed("away"), (0, 4, 5, 6)),
    Fault("destination's libvirtd killed", "switched", libvirtd_killed("away"), (0, 4, 5, 6)),
    Fault("destination's QEMU killed", "copying", destination_qemu_killed, (4,)),
    Fault("destination out of memory", "prepare", destination_without_memory, (4,)),
    *(Fault("WAN cut for 5 s", phase, wan_cut(5), (0, 5)) for phase in ("prepare", "copying", "arrive", "settle")),
    *(Fault("WAN cut", phase, wan_cut(None), (4, 6)) for phase in ("survey", "prepare", "copying")),
    *(Fault("WAN cut", phase, wan_cut(None), (0, 5)) for phase in ("arrive", "settle", "verify", "clean")),
    Fault("SSH sessions cut", "copying", ssh_cut, (0,)),
    Fault("DHCP dead at the destination", "copying", dhcp_dead, (5,)),
    Fault("agent killed", "prepare", agent_signalled("KILL"), (0, 4)),
    Fault("agent killed", "copying", agent_signalled("KILL"), (0, 5)),
    Fault("agent killed", "settle", agent_signalled("KILL"), (0, 5)),
    Fault("agent's channel silent", "copying", agent_signalled("STOP", "CONT"), (5,)),
]
# In a copy that is compressed: QEMU's own cancel does not end that one.
COMPRESSED = [
    Fault("WAN cut, compressed", "copying", wan_cut(None), (4, 6)),
    Fault("WAN cut for 5 s, compressed", "copying", wan_cut(5), (0, 5)),
]
# What the guest does itself, its connections end with.
ENDS = [
    Fault("guest powered off", "copying", guest_told("o"), (4,)),
    Fault("guest rebooted", "copying", guest_told("b"), (5,)),
]
# Each kind where it tells most: these `make test` breaks, the others `make test-all`.
_USUAL = {
    "orchestrator killed": ("copying", "switched", "settle"),
    "source's libvirtd killed": ("switched",),
    "WAN cut for 5 s": ("copying",),
    "WAN cut": ("copying", "settle"),
}


def compressing(inventory: str) -> str:
    """So slowly that its copies are not over before anything breaks."""
    impatient = inventory.replace("[policy]\n", IMPATIENT.replace('"off"', '"zstd"'))
    return re.sub(r"bandwidth_mib_s = \d+", "bandwidth_mib_s = 4", impatient)


def telling(fault: Fault) -> bool:
    """Whether its moment is one that tells most; of most kinds that is while the copy is under way, or the only one."""
    alone = [f.name for f in FAULTS].count(fault.name) == 1
    return alone or fault.moment in _USUAL.get(fault.name, ("copying",))
