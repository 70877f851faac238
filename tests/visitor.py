"""Somebody who comes anew all the time: python -m tests.visitor NAME_OR_ADDRESS [SERVER PORT]

Every half second one HTTP request on a connection of its own, to an address, or to a name that it asks SERVER for and
keeps for its TTL, as resolvers do. Prints a JSON line of each: when (CLOCK_REALTIME), where, and what went wrong.
"""

from __future__ import annotations

import json
import socket
import sys
import time

import dns.resolver

from vmacro.rtt import wire

WEB = 80
EVERY_S, PATIENCE_S = 0.5, 5.0


def main() -> None:
    asked, *server = sys.argv[1:]
    resolver = dns.resolver.Resolver(configure=False)
    resolver.cache = dns.resolver.Cache()
    if server:
        resolver.nameservers, resolver.port = server[:1], int(server[1])
    while True:
        began_ns, address, trouble = time.time_ns(), asked, ""
        try:
            address = resolver.resolve(f"{asked}.", "A")[0].to_text() if server else asked
            visit(address)
        except (OSError, dns.exception.DNSException, AssertionError) as error:
            trouble = f"{type(error).__name__}: {error}"
        print(json.dumps({"wall_ns": began_ns, "address": address, "trouble": trouble}), flush=True)
        time.sleep(max(0.0, EVERY_S - (time.time_ns() - began_ns) / 1e9))


def visit(address: str) -> None:
    """Raises OSError, AssertionError."""
    with wire.stream_socket(socket.AF_INET, True) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((address, WEB))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")
        answer = sock.makefile("rb").readline()  # which may come in two parts
        assert answer.startswith(b"HTTP/1.1 200"), f"the answer is {answer!r}"


if __name__ == "__main__":
    main()
