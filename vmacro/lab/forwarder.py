"""The WAN's delay where the kernel has no netem: packets wait in NFQUEUE for their verdict.

They never leave the kernel (NFQNL_COPY_META) and stay as large as the sender made them
(NFQA_CFG_F_GSO), so one Python process carries some 500 Mbit/s. Wire format:
include/uapi/linux/netfilter/nfnetlink_queue.h.

Run as `python -m vmacro.lab.forwarder NAMESPACE CONFIG.json`; CONFIG is a list of Link.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from pyroute2 import netns

NETLINK_NETFILTER = 12
SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h; not in Python's socket
SUBSYS = 3 << 8  # NFNL_SUBSYS_QUEUE
MSG_PACKET, MSG_VERDICT, MSG_CONFIG, MSG_VERDICT_BATCH = SUBSYS | 0, SUBSYS | 1, SUBSYS | 2, SUBSYS | 3
CFG_CMD, CFG_PARAMS, CFG_QUEUE_MAXLEN, CFG_MASK, CFG_FLAGS = 1, 2, 3, 4, 5
CMD_BIND, COPY_META, F_GSO = 1, 1, 1 << 2
ATTR_PACKET_HDR, ATTR_VERDICT_HDR = 1, 2
DROP, ACCEPT = 0, 1
QUEUE_LENGTH = 60_000

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct(">BBH")
_VERDICT = struct.Struct(">II")
_HEAD = _HEADER.size + _GENERIC.size


@dataclass(frozen=True)
class Link:
    """One direction between two nodes: packets of NFQUEUE number `queue`."""

    queue: int
    delay_ms: float
    jitter_ms: float = 0.0
    loss_percent: float = 0.0


class Delay:
    """Decides when each packet may go. Pure: `now` is an argument. Packets keep their order, as on a wire."""

    def __init__(self, link: Link, random_unit: random.Random) -> None:
        self._delay_s = link.delay_ms / 1000
        self._jitter_s = link.jitter_ms / 1000
        self._loss = link.loss_percent / 100
        self._random = random_unit
        self._last = 0.0
        self.waiting: deque[tuple[float, int]] = deque()

    def take(self, packet: int, now: float) -> bool:
        """Whether the packet stays in the queue; False: it is lost, drop it."""
        if self._loss and self._random.random() < self._loss:
            return False
        due = now + self._delay_s
        if self._jitter_s:
            due += self._random.uniform(-self._jitter_s, self._jitter_s)
        self._last = max(due, self._last)
        self.waiting.append((self._last, packet))
        return True

    def due(self, now: float) -> int | None:
        """The last packet that may go by now, with all before it; None if none may."""
        last = None
        while self.waiting and self.waiting[0][0] <= now:
            last = self.waiting.popleft()[1]
        return last


class Queues:
    """NFQUEUE by netlink: binds the queues, reads packet ids, gives verdicts."""

    def __init__(self, links: list[Link]) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.bind((0, 0))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        for link in links:
            self._configure(link)
        self.socket.setblocking(False)

    def _configure(self, link: Link) -> None:
        self._request(link.queue, _attribute(CFG_CMD, struct.pack(">BBH", CMD_BIND, 0, socket.AF_INET)))
        # With GSO a queued packet is a train of segments, and loss would drop all of it.
        gso = 0 if link.loss_percent else F_GSO
        self._request(
            link.queue,
            _attribute(CFG_PARAMS, struct.pack(">IB", 0, COPY_META))
            + _attribute(CFG_QUEUE_MAXLEN, struct.pack(">I", QUEUE_LENGTH))
            + _attribute(CFG_FLAGS, struct.pack(">I", gso))
            + _attribute(CFG_MASK, struct.pack(">I", F_GSO)),
        )

    def _request(self, queue: int, body: bytes) -> None:
        NLM_F_REQUEST, NLM_F_ACK = 1, 4  # noqa: N806
        self.socket.send(_message(MSG_CONFIG, queue, body, NLM_F_REQUEST | NLM_F_ACK))
        answer = self.socket.recv(4096)
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if code:
            raise OSError(-code, f"NFQUEUE {queue}: {os.strerror(-code)}")

    def packets(self) -> list[tuple[int, int]]:
        """(queue, packet id) of what has come in."""
        found = []
        try:
            while True:
                data = self.socket.recv(8192)
                _, kind, _, _, _ = _HEADER.unpack_from(data)
                if kind == MSG_PACKET:
                    _, _, queue = _GENERIC.unpack_from(data, _HEADER.size)
                    # The kernel puts NFQA_PACKET_HDR first.
                    (packet,) = struct.unpack_from(">I", data, _HEAD + 4)
                    found.append((queue, packet))
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            print("packets were lost: the netlink buffer overflowed", file=sys.stderr, flush=True)
            return found

    def accept_up_to(self, queue: int, packet: int) -> None:
        """Let go this packet and all before it."""
        self.socket.send(_message(MSG_VERDICT_BATCH, queue, _verdict(ACCEPT, packet), 1))

    def drop(self, queue: int, packet: int) -> None:
        """Drop this packet alone."""
        self.socket.send(_message(MSG_VERDICT, queue, _verdict(DROP, packet), 1))


def forward(links: list[Link]) -> None:
    """Forward until a signal ends the process."""
    queues = Queues(links)
    seed = random.Random()
    delays = {link.queue: Delay(link, seed) for link in links}
    print("forwarding", flush=True)
    while True:
        now = time.monotonic()
        for queue, delay in delays.items():
            packet = delay.due(now)
            if packet is not None:
                queues.accept_up_to(queue, packet)
        heads = [d.waiting[0][0] for d in delays.values() if d.waiting]
        wait_s = max(0.0, min(heads) - time.monotonic()) if heads else None
        # select, since epoll's timeout is in whole milliseconds.
        if select.select([queues.socket], [], [], wait_s)[0]:
            now = time.monotonic()
            for queue, packet in queues.packets():
                if not delays[queue].take(packet, now):
                    queues.drop(queue, packet)


def write_config(links: list[Link], path: Path) -> None:
    """Write what main() reads."""
    path.write_text(json.dumps([asdict(link) for link in links]))


def main() -> None:
    """Enter the namespace, and forward with as little jitter as this machine allows."""
    namespace, config = sys.argv[1:]
    links = [Link(**item) for item in json.loads(Path(config).read_text())]
    netns.setns(namespace)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except PermissionError:
        print("no real-time priority: delays will vary more", file=sys.stderr, flush=True)
    PR_SET_TIMERSLACK = 29  # noqa: N806
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000)
    gc.disable()  # a pause would delay packets, and nothing here makes reference cycles
    forward(links)


def _message(kind: int, queue: int, body: bytes, flags: int) -> bytes:
    head = _HEADER.pack(_HEAD + len(body), kind, flags, 0, 0)
    return head + _GENERIC.pack(socket.AF_UNSPEC, 0, queue) + body


def _attribute(kind: int, payload: bytes) -> bytes:
    padding = b"\0" * (-len(payload) % 4)
    return struct.pack("=HH", 4 + len(payload), kind) + payload + padding


def _verdict(verdict: int, packet: int) -> bytes:
    return _attribute(ATTR_VERDICT_HDR, _VERDICT.pack(verdict, packet))


if __name__ == "__main__":
    main()
