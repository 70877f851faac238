"""Clients of a guest's servers, of all kinds, each on one connection: python -m tests.clients ADDRESS KIND...

Prints `ready` once all are connected and have had an answer; then works until a line comes on standard
input, and prints one JSON object: kind to what went wrong, "" where nothing did.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

from vmacro.rtt import wire

WEB, BY_PROXY, ECHO, DATAGRAMS = 80, 8080, 7000, 7001
# Whatever goes on all the while has a pace: without one it is all that an emulated guest gets done.
DOWNLOAD_BYTES_S, UPLOAD_BYTES_S = 4 << 20, 1 << 18
DOWNLOADS_BYTES_S = 1 << 19
PATIENCE_S = 120.0
DATAGRAM_PATIENCE_S = 5.0  # longer than a guest pauses, also under emulation
MOST_LOST = 3  # of all that are asked during a test's moves
LARGE_BYTES, LARGE_BYTES_S = 200_000_000, 3 << 19
RANDOM = hashlib.sha256(random.Random(1).randbytes(16 << 20)).hexdigest()
Client = Callable[[str, threading.Event, threading.Event], str]


def connect(address: str, port: int, mptcp: bool = True) -> socket.socket:
    sock = wire.stream_socket(socket.AF_INET6 if ":" in address else socket.AF_INET, mptcp)
    sock.settimeout(PATIENCE_S)
    sock.connect((address, port))
    return sock


def get(sock: socket.socket, path: str, bytes_s: float = float("inf")) -> bytes:
    """One request on a connection that stays open; its body, which is read no faster than that."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: guest\r\n\r\n".encode())
    data = bytearray()
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    length = int(next(h for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")).split(b":")[1])
    parts, left = [body], length - len(body)
    began, to_read = time.monotonic(), left
    while left > 0:
        parts.append(_some(sock))
        left -= len(parts[-1])
        time.sleep(max(0.0, began + (to_read - left) / bytes_s - time.monotonic()))
    return b"".join(parts)


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 18)
    if not data:
        raise ConnectionError("the connection was closed")
    return data


def idle(mptcp: bool, count: int = 1) -> Client:
    """Connections that say nothing during the move, and are used again after it."""

    def run(address: str, ready: threading.Event, over: threading.Event) -> str:
        socks = []
        for _ in range(count):
            socks.append(connect(address, WEB, mptcp))
            get(socks[-1], "/")
        ready.set()
        over.wait()
        for sock in socks:
            assert b"moves" in get(sock, "/")
        return ""

    return run


def chatter(mptcp: bool) -> Client:
    """A request every 20 ms; all must be answered, in order."""

    def run(address: str, ready: threading.Event, over: threading.Event) -> str:
        sock, sequence = connect(address, ECHO, mptcp), 0
        while not over.is_set():
            sock.sendall(wire.encode(sequence))
            answer = b""
            while len(answer) < wire.RECORD.size:
                answer += _some(sock)
            if answer != wire.encode(sequence):
                return f"answer {sequence} is {answer.hex()}"
            sequence += 1
            ready.set()
            time.sleep(0.02)
        return ""

    return run


def download(address: str, ready: threading.Event, over: threading.Event) -> str:
    """One file after another, all on one connection, until it is over."""
    sock, part = connect(address, WEB), 0
    while not over.is_set():
        ready.set()
        found = hashlib.sha256(get(sock, "/random.bin", DOWNLOAD_BYTES_S)).hexdigest()
        if found != RANDOM:
            return f"part {part}: its checksum is {found}"
        part += 1
    return ""


def downloads(address: str, ready: threading.Event, over: threading.Event) -> str:
    """One after another, each on a connection of its own: whenever the guest moves, one ends as it should."""
    while not over.is_set():
        with connect(address, WEB) as sock:
            ready.set()
            found = hashlib.sha256(get(sock, "/random.bin", DOWNLOADS_BYTES_S)).hexdigest()
        if found != RANDOM:
            return f"its checksum is {found}"
    return ""


def large(address: str, ready: threading.Event, over: threading.Event) -> str:
    """200 MB, one file after another, each on a connection of its own: it begins before a move and ends after it, or in
    its midst. images/guest/customize.sh says what is in it."""
    while not over.is_set():
        with connect(address, WEB) as sock:
            ready.set()
            came = get(sock, "/large.bin", LARGE_BYTES_S)
        wrong = [at for at in range(0, LARGE_BYTES, 1 << 16) if came[at : at + 8] != struct.pack(">Q", at >> 16)]
        if len(came) != LARGE_BYTES or wrong:
            return f"{len(came)} bytes came, wrong at {wrong[:3]}"
    return ""


def visits(every_s: float, port: int = WEB) -> Client:
    """A new connection for each request, on schedule whether or not those before were served; MPTCP and TCP take
    turns. All must be served."""

    def run(address: str, ready: threading.Event, over: threading.Event) -> str:
        failed: list[str] = []
        under_way: list[threading.Thread] = []
        began, number = time.monotonic(), 0

        def visit(number: int) -> None:
            at = time.monotonic() - began
            try:
                with connect(address, port, mptcp=number % 2 == 0) as sock:
                    assert b"moves" in get(sock, "/")
                ready.set()
            except (OSError, AssertionError) as error:
                failed.append(f"visit {number} at {at:.2f} s: {type(error).__name__}: {error}")

        while not over.is_set():
            under_way = [t for t in under_way if t.is_alive()]
            under_way.append(threading.Thread(target=visit, args=(number,), daemon=True))
            under_way[-1].start()
            number += 1
            over.wait(max(0.0, began + number * every_s - time.monotonic()))
        for thread in under_way:
            thread.join(PATIENCE_S)
        return "; ".join([f"{len(failed)} of {number} were not served", *failed[:5]]) if failed else ""

    return run


def keep_alive(count: int, every_s: float, port: int = WEB) -> Client:
    """Connections that each ask again and again, MPTCP and TCP in turns."""

    def run(address: str, ready: threading.Event, over: threading.Event) -> str:
        socks = [connect(address, port, mptcp=n % 2 == 0) for n in range(count)]
        while not over.is_set():
            for sock in socks:
                assert b"moves" in get(sock, "/")
            ready.set()
            over.wait(every_s)
        return ""

    return run


def upload(address: str, ready: threading.Event, over: threading.Event) -> str:
    """Records up, until it is over; the responder sends them back, and they are compared."""
    sock, sent, came = connect(address, ECHO), hashlib.sha256(), hashlib.sha256()
    blocks: list[int] = []

    def send() -> None:
        began, block = time.monotonic(), 1024
        while not over.is_set():
            start = block * len(blocks)
            data = b"".join(struct.pack(">IIQ", wire.MAGIC, 0, n) for n in range(start, start + block))
            sent.update(data)
            blocks.append(len(data))
            sock.sendall(data)
            time.sleep(max(0.0, began + sum(blocks) / UPLOAD_BYTES_S - time.monotonic()))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = 0
    while sender.is_alive() or received < sum(blocks):
        if received == sum(blocks):
            time.sleep(0.01)
            continue
        data = _some(sock)
        came.update(data)
        received += len(data)
        ready.set()
    return "" if sent.digest() == came.digest() else "what came back is not what was sent"


def datagrams(address: str, ready: threading.Event, over: threading.Event) -> str:
    """A question every 50 ms from one socket, as a resolver or QUIC asks; the server listens on the wildcard. Nobody
    sends one again. Answers count only if they come from where was asked; one from elsewhere is a lost one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    asked, came, strange = 0, 0, set()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DATAGRAM_PATIENCE_S)
        while not over.is_set():
            sock.sendto(wire.encode(asked), (address, DATAGRAMS))
            try:
                answer, sender = sock.recvfrom(100)
                while answer != wire.encode(asked):  # a late one
                    answer, sender = sock.recvfrom(100)
                came += sender[0] == address
                strange |= {sender[0]} - {address}
                ready.set()
            except TimeoutError:
                pass
            asked += 1
            time.sleep(0.05)
    lost = asked - came
    return f"{lost} of {asked} were not answered; from elsewhere: {strange}" if lost > MOST_LOST else ""


KINDS: dict[str, Client] = {
    "chatter": chatter(mptcp=True),
    "tcp-chatter": chatter(mptcp=False),
    "idle": idle(mptcp=True),
    "tcp-idle": idle(mptcp=False),
    "idle-500": idle(mptcp=True, count=500),
    "idle-38": idle(mptcp=True, count=38),
    "tcp-idle-10": idle(mptcp=False, count=10),
    "download": download,
    "downloads": downloads,
    "large": large,
    "upload": upload,
    "visits": visits(0.02),
    "keep-alive-20": keep_alive(20, 0.2),
    "visits-by-proxy": visits(0.1, BY_PROXY),
    "keep-alive-20-by-proxy": keep_alive(20, 0.2, BY_PROXY),
    "datagrams": datagrams,
}


def main() -> int:
    address, *kinds = sys.argv[1:]
    over, found = threading.Event(), {}
    running = []
    for kind in kinds:
        ready = threading.Event()

        def work(kind: str = kind, ready: threading.Event = ready) -> None:
            try:
                found[kind] = KINDS[kind](address, ready, over)
            except (OSError, AssertionError) as error:
                found[kind] = f"{type(error).__name__}: {error}"
            ready.set()

        running.append(threading.Thread(target=work, daemon=True))
        running[-1].start()
        if not ready.wait(PATIENCE_S):
            found[kind] = "never ready"
    print("ready", flush=True)
    sys.stdin.readline()
    over.set()
    for thread in running:
        thread.join(PATIENCE_S)
    print(json.dumps({kind: found.get(kind, "still at work") for kind in kinds}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
