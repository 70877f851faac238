"""The world in memory: sites, hosts, guests with agents, clients. Certified verb by verb by tests/contract."""

from vmacro.drivers.fake.state import BASE_BYTES, QEMU, XEN, Effect, FakeGuest, FakeHost, card, connection, domain, host
from vmacro.drivers.fake.world import FakeWorld

__all__ = [
    "BASE_BYTES",
    "QEMU",
    "XEN",
    "Effect",
    "FakeGuest",
    "FakeHost",
    "FakeWorld",
    "card",
    "connection",
    "domain",
    "host",
]
