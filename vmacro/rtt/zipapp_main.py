"""Entry of vmacro-rtt.pyz, the responder for guests: `vmacro-rtt.pyz serve --port 7000`."""

from __future__ import annotations

import argparse
import threading

from vmacro.rtt import responder, wire


def main() -> None:
    parser = argparse.ArgumentParser(prog="vmacro-rtt", description=responder.__doc__)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("--address", action="append", help="may be given twice; default: all of IPv4")
    parser.add_argument("--port", type=int, default=wire.DEFAULT_PORT)
    options = parser.parse_args()
    listeners = [responder.listen(a, options.port) for a in options.address or ["0.0.0.0"]]
    for listener in listeners[1:]:
        threading.Thread(target=responder.serve, args=(listener,), daemon=True).start()
    responder.serve(listeners[0])


if __name__ == "__main__":
    main()
