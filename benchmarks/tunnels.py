"""What encryption costs a leg: round trip and throughput of one through WireGuard beside one through VXLAN.

    sudo .venv/bin/python -m benchmarks.tunnels

Two hosts in network namespaces without delay (tests/contract/towns.py), on whatever WireGuard this machine has; a
client reaches a guest at home first, then through a leg of each kind.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.contract import towns
from tests.contract.legs import Legs, legs_of, opened
from tests.contract.towns import BRIDGE, GuestPlace, Town

CHUNK = bytes(1 << 16)


@contextmanager
def listening(guest: GuestPlace, address: str) -> Iterator[None]:
    """A process in the guest that serves at an address, until this closes."""
    command = guest.inner(sys.executable, "-m", "benchmarks.tunnels", "--serve", address)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()


def serve(address: str) -> None:
    """Echoes datagrams, and swallows what comes by TCP, one connection after the other."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, 7000))
    stream = socket.create_server((address, 7000))
    threading.Thread(target=_echo, args=[datagrams], daemon=True).start()
    print("ready", flush=True)
    while True:
        connection, _ = stream.accept()
        with connection, suppress(ConnectionError):
            while connection.recv(1 << 20):
                pass


def _echo(sock: socket.socket) -> None:
    while True:
        data, peer = sock.recvfrom(2000)
        sock.sendto(data, peer)


def round_trips_us(town: Town, address: str, count: int) -> list[float]:
    """Of so many datagrams, one after the other."""
    with town.client.udp(towns.client(town, 4), 0) as asker:
        found = []
        for number in range(count):
            sent = time.perf_counter()
            asker.sendto(number.to_bytes(8, "big"), (address, 7000))
            asker.recv(100)
            found.append((time.perf_counter() - sent) * 1e6)
    return found


def megabits_s(town: Town, address: str, seconds: float) -> float:
    """What the client's kernel took; what it still has at the end is small beside it."""
    with town.client.inside():
        connection = socket.create_connection((address, 7000), 10)
    with connection:
        sent, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            sent += connection.send(CHUNK)
        return sent * 8 / 1e6 / (time.monotonic() - began)


def row(name: str, town: Town, guest: GuestPlace, address: str, options: argparse.Namespace) -> str:
    """Of the table, for a guest at an address."""
    with listening(guest, address):
        times = round_trips_us(town, address, options.pings)
        rate = statistics.median(megabits_s(town, address, options.seconds) for _ in range(3))
    low, median, high = (statistics.quantiles(times, n=100)[n - 1] for n in (5, 50, 95))
    return f"| {name} | {median / 1000:.3f} | {low / 1000:.3f} to {high / 1000:.3f} | {rate:.0f} |"


def through(legs: Legs, options: argparse.Namespace, name: str) -> str:
    """The row of a guest that is away."""
    with opened(legs):
        return row(name, legs.town, legs.guest, legs.legs[0].address, options)


def main() -> None:
    """The table, on standard output."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pings", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of three transfers")
    parser.add_argument("--serve", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    with towns.town("vmt-bench") as town:
        who = town.side(town.one).facts(BRIDGE, "", "").wireguard
        print("| way | round trip, ms (median) | 5 to 95 % | TCP, Mbit/s |\n| --- | --- | --- | --- |")
        print(row("at home, no leg", town, town.web, towns.own(town.web), options))
        print(through(legs_of(town, town.web, "vxlan"), options, "VXLAN"))
        print(through(legs_of(town, town.web, "wireguard"), options, f"WireGuard ({who})"))


if __name__ == "__main__":
    main()
