"""The guest of the world in memory, and its agent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vmacro.errors import AgentError
from vmacro.model.facts import AgentFacts, Arrival, Claim, Connection, Subflow

if TYPE_CHECKING:
    from vmacro.drivers.fake import FakeWorld


@dataclass
class FakeGuest:
    """What is in the guest, wherever it runs."""

    boot_id: str
    address: str
    connections: list[Connection]
    address6: str = ""
    prepared6: str = ""
    verbs: tuple[str, ...] = ("arrive", "claim", "connections", "prepare", "retire", "status")
    rp_filter: int = 2
    kept: list[str] = field(default_factory=list)
    last: Arrival | None = None
    answers: bool = True
    claim: Claim | None = None


class FakeAgent:
    """Implements ports.Agent."""

    def __init__(self, world: FakeWorld, place: str) -> None:
        self._world, self._place = world, place

    def status(self) -> AgentFacts:
        guest = self._guest("status")
        mac, held = "52:54:00:00:00:01", tuple(sorted(guest.kept))
        return AgentFacts(
            "0.1.0",
            guest.boot_id,
            "6.12",
            "web",
            60.0,
            mac,
            guest.address,
            "10.50.1.1",
            guest.address6,
            held,
            guest.verbs,
            guest.rp_filter,
            guest.claim,
        )

    def claim(self, move_id: str, by: str, seconds: float) -> None:
        guest = self._guest("claim")
        if guest.claim is not None and guest.claim.move != move_id:
            raise AgentError(f"guest web: move {guest.claim.move} has it", code="claimed")
        guest.claim = Claim(move_id, by, 0.0)

    def release(self, move_id: str) -> None:
        guest = self._guest("release")
        if guest.claim is not None and guest.claim.move == move_id:
            guest.claim = None

    def connections(self) -> tuple[Connection, ...]:
        return tuple(self._guest("connections").connections)

    def consent(self, timeout_ms: int) -> tuple[Connection, ...]:
        return tuple(self._guest("consent").connections)

    def prepare(self, address: str, address6: str = "") -> None:
        guest = self._guest("prepare")
        guest.prepared6 = address6
        for coming in (a for a in (address, address6) if a and a not in guest.kept):
            guest.kept.append(coming)
            guest.connections = [_joined(c, coming) if c.willing else c for c in guest.connections]

    def arrive(self, left: str) -> Arrival:
        guest = self._guest("arrive")
        if guest.last is not None and (guest.last.old, guest.last.new) == (left, guest.address):
            return guest.last
        new = self._leased()
        old6 = guest.address6 if guest.prepared6 else ""
        gateway = new.rpartition(".")[0] + ".1"
        guest.last = Arrival("channel", guest.address, new, gateway, 2, 300, 400, old6, guest.prepared6)
        if guest.prepared6:
            guest.kept = [a for a in [*guest.kept, old6] if a != guest.prepared6]
            guest.address6, guest.prepared6 = guest.prepared6, ""
        if new != guest.address:
            guest.kept = [a for a in [*guest.kept, guest.address] if a != new]
            guest.address = new
            guest.connections = [_joined(c, new) if c.willing and not c.reaches(new) else c for c in guest.connections]
        return guest.last

    def retire(self, address: str, force: bool = False) -> bool:
        guest = self._guest("retire")
        present = (guest.address, guest.address6)
        if force:
            guest.connections = [c for c in guest.connections if c.reaches(*present)]
        if any(c.reaches(address) and not c.reaches(*present) for c in guest.connections):
            return False
        guest.kept = [a for a in guest.kept if a != address]
        guest.connections = [
            replace(c, subflows=tuple(s for s in c.subflows if s.local != address) or c.subflows)
            for c in guest.connections
        ]
        return True

    def _leased(self) -> str:
        """What DHCP gives here: the guest's reservation, or else the same as ever."""
        network = self._world.hosts[self._place].networks["front"]
        reserved = next((a for a, m in network.reserved if m == "52:54:00:00:00:01"), "")
        return reserved or network.subnet.removesuffix("0/24") + "97"

    def _guest(self, verb: str) -> FakeGuest:
        self._world.before(f"agent.{verb}")
        if not self._world.guest.answers:
            self._world.sleep(5)
            raise AgentError("guest web: its agent does not answer")
        return self._world.guest


def connection(token: int, local: str, willing: bool) -> Connection:
    """With one subflow, from a client at 10.9.0.14."""
    return Connection(token, (Subflow(local, 7000, "10.9.0.14", 40000 + token, False, False, True),), willing)


def _joined(found: Connection, address: str) -> Connection:
    first = found.subflows[0]
    return replace(found, subflows=(*found.subflows, replace(first, local=address, joined=True)))
