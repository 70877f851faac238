"""vmacro guest agent. Without a verb it serves; `look` says what it would take over, `take-over` takes an interface
from whoever manages it, and `give-back` returns it."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from functools import partial
from typing import Union

from guest_agent import __version__, connections, link, mptcp, state, takeover, xen
from guest_agent.agent import Agent
from guest_agent.channel import ChannelServer, port_path
from guest_agent.detect import AnnounceDetector, Detector
from guest_agent.guest import Guest
from guest_agent.kernel_events import KernelEvents
from guest_agent.lease import LeaseKeeper
from vmacro.wire import xenbus

LOG = logging.getLogger(__name__)
CHANNEL_EVERY_S = 10.0
SERVING_NICE = 0
VERBS = {"look": takeover.look, "take-over": takeover.take_over, "give-back": takeover.give_back}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="vmacro-agent", description=__doc__)
    parser.add_argument("verb", nargs="?", choices=("serve", *VERBS), default="serve")
    parser.add_argument(
        "--interface", default="", help="the one that migrates (default: that of the default route; to serve, eth0)"
    )
    parser.add_argument(
        "--client-id", type=bytes.fromhex, default=b"", help="what DHCP servers know it by (default: MAC)"
    )
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args()
    if options.verb != "serve":
        return _once(options.verb, options.interface)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    try:
        asyncio.run(_run(options.interface or "eth0", options.client_id))
    except LookupError as error:
        print(f"vmacro-agent: {error}; name the migrating one with --interface", file=sys.stderr)
        return 1
    return 0


def _once(verb: str, interface: str) -> int:
    try:
        print(json.dumps(VERBS[verb](interface)))
    except takeover.TakeoverError as error:
        print(f"vmacro-agent: {error}", file=sys.stderr)
        return 1
    return 0


class BootClock:
    """Implements ports.Clock."""

    def now_s(self) -> float:
        """See ports.Clock."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def stood_still_s(self) -> float:
        """See ports.Clock."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

    async def sleep(self, seconds: float) -> None:
        """See ports.Clock."""
        await asyncio.sleep(seconds)


async def _run(interface: str, client_id: bytes) -> None:
    card = await link.find_link(interface)
    # The state is an earlier agent's, where that was killed.
    keeper = LeaseKeeper(interface, client_id)
    guest = Guest(card, mptcp, connections, KernelEvents(), keeper, BootClock(), state.load())
    agent = Agent(guest)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended, agent)
    serving = asyncio.create_task(_serve(agent))
    await agent.start()
    # Not before the guest's own servers, which have clients to answer once it has arrived; nor behind them: on a busy
    # guest the agent would not answer for seconds.
    os.setpriority(os.PRIO_PROCESS, 0, SERVING_NICE)
    _tell_systemd_ready()
    await asyncio.gather(serving, *(agent.watch(detector) for detector in _detectors(interface)))


def ended(agent: Agent) -> None:
    """By systemd, and perhaps for good: where the interface is given back no other agent puts right what this one has
    changed for a moment. Nothing else is done: the guest's address and connections stay as they are."""
    try:
        agent.put_right()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def _detectors(interface: str) -> list[Detector]:
    """A card of Xen's announces itself, too, but only once it is connected again."""
    device = xenbus.device()
    of_xen = [xen.XenstoreDetector(partial(xenbus.opened, device), BootClock())] if device is not None else []
    return [AnnounceDetector(interface), *of_xen]


async def _serve(agent: Agent) -> None:
    """A guest that was started without the channel still needs its address; the channel may be plugged in later."""
    server = None
    while server is None:
        try:
            server = _server(agent)
        except FileNotFoundError as error:
            LOG.error("%s: no such channel; add it to the domain. Nobody can move this guest", error.filename)
            await asyncio.sleep(CHANNEL_EVERY_S)
    await server.serve()


def _server(agent: Agent) -> Union[ChannelServer, xen.XenstoreServer]:
    """By what this guest has. Raises FileNotFoundError."""
    try:
        return ChannelServer(port_path(), agent.handle)
    except FileNotFoundError:
        device = xenbus.device()
        if device is None:
            raise
        return xen.XenstoreServer(partial(xenbus.opened, device), agent.handle)


def _tell_systemd_ready() -> None:
    """sd_notify(3), for Type=notify: ready means answering, with a lease."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", address.replace("@", "\0", 1))


if __name__ == "__main__":
    sys.exit(main())
