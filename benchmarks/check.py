"""How long `vmacro check` takes an operator who is 50 ms away from all hosts.

    sudo .venv/bin/python -m benchmarks.check --times 10

Brings up a lab of its own (`far`) and removes it. Prints a Markdown table: `vmacro check` of one guest and of all, with
a connection open, each in a process of its own; and what such a process takes that asks nobody.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.support import address_of, clients
from vmacro.lab.lab import Lab
from vmacro.lab.topology import load

TOPOLOGY = Path(__file__).with_name("far.toml")
WORDS = {
    "check GUEST": ["check", "web", "--to", "berlin"],
    "check --all": ["check", "--all"],
    "--version": ["--version"],
}


def main() -> int:
    """Time each; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    options = parser.parse_args()
    lab = Lab(load(TOPOLOGY))
    lab.down()
    try:
        lab.up(TOPOLOGY, lambda text: print(text, file=sys.stderr, flush=True))
        with clients(lab, "client", address_of(lab, "web"), "chatter"):
            found = {what: [took_s(lab, words) for _ in range(options.times)] for what, words in WORDS.items()}
    finally:
        for left in lab.down():
            print(f"left behind: {left}", file=sys.stderr)
    print("| command | median, s | longest, s | of |\n| --- | --- | --- | --- |")
    for what, times in found.items():
        print(f"| `vmacro {what}` | {median(times):.2f} | {max(times):.2f} | {len(times)} |")
    return 0


def took_s(lab: Lab, words: list[str]) -> float:
    """Of one process. Raises CalledProcessError where something blocks."""
    environment = {**os.environ, "VMACRO_INVENTORY": str(lab.inventory_file)}
    began_s = time.monotonic()
    command = [sys.executable, "-m", "vmacro.cli.app", *words]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.monotonic() - began_s


if __name__ == "__main__":
    sys.exit(main())
