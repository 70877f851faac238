"""The program vmacro-rtt, one file: `serve` answers probers, `watch` probes for ever and serves metrics, and `probe`
measures once.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from vmacro.rtt import responder, wire


def main() -> int:
    """Returns the exit code."""
    if sys.argv[1:2] == ["probe"]:
        from vmacro.rtt import probe  # the lab's guests have only the responder

        return probe.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="vmacro-rtt", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serving = verbs.add_parser("serve", description=responder.__doc__)
    serving.add_argument("--address", action="append", help="may be given twice; default: all that the kernel has")
    serving.add_argument("--port", type=int, default=wire.DEFAULT_PORT)
    watching = verbs.add_parser("watch", help="see vmacro/rtt/watch.py")
    watching.add_argument("file", type=Path)
    verbs.add_parser("probe", help="`probe --help` says more")
    options = parser.parse_args()
    if options.verb == "watch":
        from vmacro.rtt import watch

        return watch.main(options.file)
    listeners = [responder.listen(a, options.port) for a in options.address or _everywhere()]
    for listener in listeners[1:]:
        threading.Thread(target=responder.serve, args=(listener,), daemon=True).start()
    responder.serve(listeners[0])
    return 0


def _everywhere() -> list[str]:
    return ["0.0.0.0", *(["::"] if Path("/proc/net/if_inet6").exists() else [])]


if __name__ == "__main__":
    sys.exit(main())
