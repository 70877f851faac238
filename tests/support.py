"""The vmacro command as a user has it, and looks at the lab that do not depend on our drivers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmacro.lab import topology
from vmacro.lab.lab import Lab

TOPOLOGY = Path(__file__).with_name("lab") / "two-sites.toml"
PATIENCE_S = 600.0
UP: list[Lab] = []  # of this worker


@dataclass(frozen=True)
class Vmacro:
    """The command line, in a folder of its own."""

    folder: Path
    inventory: Path
    prefix: tuple[str, ...] = ()  # where it runs
    default: bool = False  # the inventory is the one that it takes by itself there

    def start(self, *words: str, prefix: tuple[str, ...] = (), **kwargs: Any) -> subprocess.Popen[str]:
        command = [*self.prefix, *prefix, sys.executable, "-m", "vmacro.cli.app", *words]
        named = {} if self.default else {"VMACRO_INVENTORY": str(self.inventory)}
        environment = {**os.environ, **named, **kwargs.pop("env", {})}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **kwargs,
        )

    def __call__(self, *words: str, prefix: tuple[str, ...] = (), **kwargs: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, prefix=prefix, **kwargs)
        out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def altered(self, name: str, change: Callable[[str], str]) -> Vmacro:
        """The same with another inventory, which must differ."""
        text = self.inventory.read_text()
        assert change(text) != text
        (self.folder / name).write_text(change(text))
        return Vmacro(self.folder, self.folder / name, self.prefix)


@dataclass(frozen=True)
class Way:
    """Of a guest between the two sites: where it runs, and where it can go."""

    here: str
    there: str


@contextmanager
def lab_of_topology(file: Path) -> Iterator[Lab]:
    """A lab that is up; afterwards it is down, and nothing is left of it."""
    found = Lab(topology.load(file))
    found.down()  # what a killed run may have left
    found.up(file, lambda text: print(text, flush=True))
    _forget_flows_soon(found)
    UP.append(found)
    try:
        yield found
    finally:
        UP.remove(found)
    assert found.down() == []


def _forget_flows_soon(lab: Lab) -> None:
    """Datagrams keep an address for as long as a kernel remembers them: two minutes, unless it is told otherwise."""
    times = [f"net.netfilter.nf_conntrack_{kind}=3" for kind in ("udp_timeout", "udp_timeout_stream", "icmp_timeout")]
    for host in lab.topology.hosts:
        on_host(lab, host, "sysctl", "-q", *times)


def guests_seen(lab: Lab) -> str:
    """What a lab's hosts say of its guests, and the ends of the guests' consoles: for whoever reads of a failure."""
    look = "uptime; timeout 20 virsh list --all; cd /var/log/libvirt/qemu; tail -v -n 25 *-console.log"
    said = []
    for host in lab.topology.hosts:
        try:
            said.append(f"--- {host}\n{on_host(lab, host, 'sh', '-c', look + ' 2>&1; true')}")
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            said.append(f"--- {host}: cannot be asked: {error!r}")
    return "\n".join(said)


def without_probers(vmacro: Vmacro) -> Vmacro:
    """Moves that nobody measures need no time before and after for it."""
    return vmacro.altered("quiet.toml", lambda t: "".join(x for x in t.splitlines(True) if not x.startswith("probe =")))


def uncompressed(vmacro: Vmacro) -> Vmacro:
    """Its copies last for as long as it takes to do something meanwhile."""
    return vmacro.altered("uncompressed.toml", lambda t: t.replace("[policy]\n", '[policy]\ncompression = "off"\n'))


def site_of(lab: Lab, guest: str) -> str:
    """Where it is active, by the hosts' own virsh: at once, while drivers take a second to connect; '' if nowhere."""
    hosts = lab.topology.hosts
    return next((hosts[host].site for host in hosts if guest in virsh(lab, host, "list", "--name").split()), "")


def other_site(site: str) -> str:
    return {"bucharest": "berlin", "berlin": "bucharest"}[site]


def virsh(lab: Lab, host: str, *words: str) -> str:
    """On the host itself, by its own shell: an opinion independent of our driver."""
    return on_host(lab, host, "virsh", *words)


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The last line of --json output."""
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def probing(lab: Lab, client: str, address: str, folder: Path) -> Iterator[Path]:
    """An MPTCP connection from a client, held open; yields its recording."""
    record = folder / f"{client}.ndjson"
    command = [sys.executable, "-m", "vmacro.rtt.probe", address, "--record", str(record)]
    process = subprocess.Popen(["ip", "netns", "exec", lab.namespace(client), *command])
    try:
        eventually(lambda: record.exists() and '"rtt"' in record.read_text(), "the first round trip")
        yield record
    finally:
        process.terminate()
        process.wait(30)


def eventually(condition: Callable[[], bool], what: str, every_s: float = 0.05, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(every_s)


def on_host(lab: Lab, host: str, *command: str) -> str:
    """A command in the host, not by our host side: an opinion independent of it."""
    inside = lab.host(host).inside(command)
    return subprocess.run(inside, capture_output=True, text=True, check=True).stdout


def into(lab: Lab, node: str, address: str, *options: str) -> list[str]:
    """A command, to which one for a guest of the image `guest` is added: by SSH from a node, without a password."""
    said = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", *options)
    inside = ["ip", "netns", "exec", lab.namespace(node), "ssh"]
    return [*inside, *(word for option in said for word in ("-o", option)), f"root@{address}"]


# What of a host shows that a move was there: tunnels, routes, rules, neighbours, reservations.
_TRACES = """set -e
ip -o -brief link show | grep vmac- || true
nft list table inet vmacro-legs 2>&1 || true
nft --terse list table inet vmacro-answers 2>&1 || true
systemctl list-units --plain --no-legend --all 'vmac-*' || true
ip -4 rule
ip -6 rule
ip -4 route show table all proto 118
ip -6 route show table all proto 118
ip -4 route show table all proto 119
ip -6 route show table all proto 119
ip neigh show nud permanent
ip neigh show proxy
virsh net-dumpxml front | grep '<host' || true
"""


def traces_of_moves(lab: Lab) -> dict[str, set[str]]:
    """Everything that a move may leave at the hosts."""
    return {host: set(on_host(lab, host, "sh", "-c", _TRACES).splitlines()) for host in lab.topology.sites}


@contextmanager
def reserved(lab: Lab, host: str, mac: str, address: str) -> Iterator[None]:
    """By its operator, on the lab's network."""
    entry = f"<host mac='{mac}' ip='{address}'/>"
    virsh(lab, host, "net-update", "front", "add", "ip-dhcp-host", entry, "--live")
    try:
        yield
    finally:
        virsh(lab, host, "net-update", "front", "delete", "ip-dhcp-host", entry, "--live")


@contextmanager
def clients(lab: Lab, node: str, address: str, *kinds: str) -> Iterator[subprocess.Popen[str]]:
    """Connected and answered. Ends them all the same if the test fails."""
    command = ["ip", "netns", "exec", lab.namespace(node), sys.executable, "-m", "tests.clients", address, *kinds]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def verdicts(process: subprocess.Popen[str]) -> dict[str, str]:
    """What went wrong, by kind of client."""
    out, _ = process.communicate("\n", timeout=300)
    found: dict[str, str] = json.loads(out)
    return found


def address_of(lab: Lab, guest: str) -> str:
    agent = lab.guest(guest).agent
    assert agent is not None
    return agent.address
