"""Entry of vmacro-rtt.pyz, the responder for guests: `vmacro-rtt.pyz serve --port 7000`."""

from __future__ import annotations

import argparse

from vmacro.rtt import responder, wire


def main() -> None:
    parser = argparse.ArgumentParser(prog="vmacro-rtt", description=responder.__doc__)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("--address", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=wire.DEFAULT_PORT)
    options = parser.parse_args()
    responder.serve(responder.listen(options.address, options.port))


if __name__ == "__main__":
    main()
