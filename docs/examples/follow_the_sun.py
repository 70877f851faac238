"""Keep all guests where it is day: python follow_the_sun.py INVENTORY EAST WEST. Run it every ten minutes, by cron."""

import argparse
import sys
from datetime import UTC, datetime

import vmacro.api


def follow(inventory: str, east: str, west: str, now: datetime) -> str:
    """The site where it is day has all guests; what became of it, in a line."""
    day, night = (east, west) if now.hour < 12 else (west, east)
    with vmacro.api.open(inventory, works=True) as session:
        if any(mark.subject == day for mark in session.maintenance()):
            session.begin(session.plan_restore(day)).result()
        if silent := [state.trouble for state in session.sites() if state.trouble and state.host.site == night]:
            raise vmacro.api.VmacroError("; ".join(silent))  # who knows what runs there?
        plan = session.plan_evacuation(night, [day])
        if not plan.moves:
            return f"{len(plan.stays)} guests stay at {night}"
        done = session.begin(plan).result()
        return f"{done.moved} of {len(plan.moves)} guests moved to {day}, {len(plan.stays)} cannot"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("inventory", "east", "west"):
        parser.add_argument(name)
    try:
        print(follow(**vars(parser.parse_args()), now=datetime.now(UTC)))
    except vmacro.api.VmacroError as error:
        sys.exit(f"follow_the_sun: {error}")
