"""Move all guests of a site to another, two at a time: python move_all.py INVENTORY FROM TO"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

import vmacro.api


def move(session: vmacro.api.Session, guest: str, to: str) -> str:
    """What became of one guest."""
    try:
        outcome = session.migrate(guest, to).result().outcome
        return f"{guest} {outcome.ending.value} {outcome.reason}".strip()
    except vmacro.api.VmacroError as error:  # nothing was changed
        return f"{guest} stays: {error.message}"


def move_all(inventory: str, home: str, away: str) -> list[str]:
    """What became of each guest that runs at `home`."""
    with ThreadPoolExecutor(max_workers=2) as two, vmacro.api.open(inventory) as session:
        there = [state for state in session.sites() if state.host.site == home]
        if not there:
            raise vmacro.api.VmacroError(f"site {home!r}: not in {inventory}")
        if silent := [state.trouble for state in there if state.trouble]:
            raise vmacro.api.VmacroError(f"nothing was moved: {'; '.join(silent)}")  # who knows what runs there?
        guests = [guest for state in there for guest in state.guests]
        return list(two.map(lambda guest: move(session, guest, away), guests))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("inventory", "home", "away"):
        parser.add_argument(name)
    try:
        print(*move_all(**vars(parser.parse_args())) or ["no guest is there"], sep="\n")
    except vmacro.api.VmacroError as error:
        sys.exit(f"move_all: {error}")
