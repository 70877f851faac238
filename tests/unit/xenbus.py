"""A xenstore that behind socket pairs answers as Linux does on /dev/xen/xenbus: WATCH is answered by the kernel, with
request id 0, after the watch has fired; headers of events have any id; a resume fires all watches of a guest anew."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from vmacro.wire.xenbus import Xenbus

HEADER = struct.Struct("=IIII")
DIRECTORY, READ, WATCH, UNWATCH, WRITE, RM, EVENT, ERROR = 1, 2, 4, 5, 11, 13, 15, 16
HOME = "/local/domain/7"


def message(kind: int, request_id: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, request_id, 0, len(payload)) + payload


@dataclass
class Client:
    sock: socket.socket
    home: str
    watches: list[tuple[str, str]] = field(default_factory=list)


class FakeXenstore:
    """`pieces`: how many bytes a reader gets at once. `mangle`: what becomes of a reply on its way."""

    def __init__(self) -> None:
        self.nodes: dict[str, bytes] = {f"{HOME}/domid": b"7", f"{HOME}/control/shutdown": b""}
        self.pieces = 1 << 16
        self.mangle: Callable[[bytes], bytes] = lambda reply: reply
        self.event_first = True
        self.sizes: list[int] = []  # of what was written
        self._clients: list[Client] = []
        self._lock = threading.RLock()

    def connect(self) -> Xenbus:
        """As a guest."""
        return Xenbus(self.descriptor(HOME))

    def descriptor(self, home: str = "") -> int:
        """A connection: a guest's, with a `home`, or dom0's."""
        ours, theirs = socket.socketpair()
        client = Client(ours, home)
        with self._lock:
            self._clients.append(client)
        threading.Thread(target=self._serve, args=(client,), daemon=True).start()
        return theirs.detach()

    def close(self) -> None:
        for client in self._clients:
            client.sock.close()

    def break_off(self) -> None:
        """All connections, at once."""
        with self._lock:
            for client in self._clients:
                client.sock.shutdown(socket.SHUT_RDWR)
            self._clients.clear()

    def watched(self, home: str) -> list[str]:
        """What a guest watches."""
        with self._lock:
            return [path for client in self._clients if client.home == home for path, _ in client.watches]

    def write(self, path: str, value: bytes) -> None:
        """By somebody else."""
        with self._lock:
            self.nodes[path] = value
            self._changed(path)

    def remove(self, path: str) -> None:
        with self._lock:
            self._drop(path)
            self._changed(path)

    def _drop(self, path: str) -> None:
        self.nodes = {p: v for p, v in self.nodes.items() if p != path and not p.startswith(f"{path}/")}

    def resume(self, home: str = HOME) -> None:
        """The guest has been suspended and runs again: its kernel sets all of its watches anew."""
        with self._lock:
            for client in [c for c in self._clients if c.home == home]:
                for path, token in reversed(client.watches):
                    self._fire(client, path, token)

    def _serve(self, client: Client) -> None:
        buffer = b""
        try:
            while True:
                while len(buffer) < 16 or len(buffer) < 16 + HEADER.unpack_from(buffer)[3]:
                    data = client.sock.recv(4096)
                    if not data:
                        return
                    buffer += data
                kind, request_id, _, length = HEADER.unpack_from(buffer)
                payload, buffer = buffer[16 : 16 + length], buffer[16 + length :]
                with self._lock:
                    self._answer(client, kind, request_id, payload)
        except OSError:
            return
        finally:
            with self._lock:
                if client in self._clients:
                    self._clients.remove(client)
            client.sock.close()

    def _answer(self, client: Client, kind: int, request_id: int, payload: bytes) -> None:
        path, _, rest = payload.partition(b"\0")
        name = path.decode() if path.startswith(b"/") else f"{client.home}/{path.decode()}"
        if kind == WATCH:
            token = rest.rstrip(b"\0").decode()
            client.watches.append((path.decode(), token))
            if self.event_first:
                self._fire(client, path.decode(), token)
            self._send(client, self.mangle(message(WATCH, 0, b"OK\0")))
            if not self.event_first:
                self._fire(client, path.decode(), token)
        elif kind == DIRECTORY:
            below = {p[len(name) + 1 :].partition("/")[0] for p in self.nodes if p.startswith(f"{name}/")}
            listed = b"".join(child.encode() + b"\0" for child in sorted(below))
            self._send(client, self.mangle(message(DIRECTORY, request_id, listed)))
        elif kind == READ and name in self.nodes:
            self._send(client, self.mangle(message(READ, request_id, self.nodes[name])))
        elif kind == WRITE:
            self.sizes.append(len(rest))
            self.nodes[name] = rest
            self._send(client, self.mangle(message(WRITE, request_id, b"OK\0")))
            self._changed(name)
        elif kind == RM and any(p == name or p.startswith(f"{name}/") for p in self.nodes):
            self._drop(name)
            self._send(client, self.mangle(message(RM, request_id, b"OK\0")))
            self._changed(name)
        elif kind == UNWATCH:
            client.watches.remove((path.decode(), rest.rstrip(b"\0").decode()))
            self._send(client, self.mangle(message(UNWATCH, 0, b"OK\0")))
        else:
            self._send(client, self.mangle(message(ERROR, request_id, b"ENOENT\0")))

    def _changed(self, name: str) -> None:
        for client in self._clients:
            for path, token in client.watches:
                whole = path if path.startswith(("/", "@")) else f"{client.home}/{path}"
                if name == whole or name.startswith(f"{whole}/") or whole.startswith(f"{name}/"):
                    self._fire(client, path, token)

    def _fire(self, client: Client, path: str, token: str) -> None:
        self._send(client, message(EVENT, 0xDEAD, f"{path}\0{token}\0".encode()))

    def _send(self, client: Client, data: bytes) -> None:
        try:
            for start in range(0, len(data), self.pieces):
                client.sock.sendall(data[start : start + self.pieces])
        except OSError:
            pass  # it has left
