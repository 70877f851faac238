"""vmacro guest agent: `vmacro-agent.pyz --interface eth0`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys

from guest_agent import __version__
from guest_agent.agent import Agent
from guest_agent.channel import ChannelServer, port_path
from guest_agent.detect import AnnounceDetector


def main() -> int:
    parser = argparse.ArgumentParser(prog="vmacro-agent", description=__doc__)
    parser.add_argument("--interface", default="eth0", help="the interface that migrates (default eth0)")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    try:
        asyncio.run(_run(options.interface))
    except FileNotFoundError as error:
        print(f"vmacro-agent: {error.filename}: no such channel; add it to the domain", file=sys.stderr)
        return 1
    except LookupError as error:
        print(f"vmacro-agent: {error}; name the migrating one with --interface", file=sys.stderr)
        return 1
    return 0


async def _run(interface: str) -> None:
    agent = Agent(interface)
    server = ChannelServer(port_path(), agent.handle)
    serving = asyncio.create_task(server.serve())
    await agent.start()
    _tell_systemd_ready()
    await asyncio.gather(serving, agent.watch(AnnounceDetector(interface)))


def _tell_systemd_ready() -> None:
    """sd_notify(3), for Type=notify: ready means answering, with a lease."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", address.replace("@", "\0", 1))


if __name__ == "__main__":
    sys.exit(main())
