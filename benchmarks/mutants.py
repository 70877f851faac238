"""How many small faults in the pure parts the unit tests notice, by a random sample of mutmut's mutants.

python -m benchmarks.mutants draw --sample 400 --seed 12 > names.txt
nice -n 19 mutmut run --max-children 1 $(cat names.txt)
python -m benchmarks.mutants score names.txt

`draw` takes from each folder in proportion to its mutants, but no fewer than `--least`. `score` weighs folders by all
the mutants that they have. Killed is what a test failed on, or what ran out of time; all else counts as survived, also
what no test reaches. Intervals are of 95 %: Wilson's for a folder, and of the stratified mean for all.
Both read what `mutmut results --all true` says, so `mutmut run` must have made the mutants before: for one name, say.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

KILLED = ("killed", "timeout", "segfault")
Z = 1.96


@dataclass(frozen=True)
class Score:
    """Of one folder: its mutants, and of those that were drawn and tried how many were killed."""

    folder: str
    mutants: int
    tried: int
    killed: int

    @property
    def share(self) -> float:
        """Killed of those tried, 0 to 1."""
        return self.killed / self.tried

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 %, which is also right where all were killed."""
        centre = (self.share + Z**2 / (2 * self.tried)) / (1 + Z**2 / self.tried)
        spread = math.sqrt(self.share * (1 - self.share) / self.tried + Z**2 / (4 * self.tried**2))
        half = Z * spread / (1 + Z**2 / self.tried)
        return max(0.0, centre - half), min(1.0, centre + half)


def folder_of(mutant: str) -> str:
    """`vmacro.planning.checks.x_f__mutmut_1` is of vmacro/planning, `guest_agent.…` of guest_agent."""
    parts = mutant.split(".")
    return "/".join(parts[:2]) if parts[0] == "vmacro" else parts[0]


def by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of mutants by their folder, both in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        found[folder_of(name)].append(name)
    return dict(sorted(found.items()))


def drawn(names: Iterable[str], sample: int, least: int, seed: int) -> list[str]:
    """A random sample of about `sample` names: of each folder its share, but at least `least`; the same for a seed."""
    folders = by_folder(names)
    total = sum(len(those) for those in folders.values())
    chance = random.Random(seed)
    chosen = []
    for those in folders.values():
        wanted = max(least, round(sample * len(those) / total))
        chosen += chance.sample(those, min(wanted, len(those)))
    return sorted(chosen)


def scores(statuses: Mapping[str, str], sample: Iterable[str]) -> list[Score]:
    """By folder, of those of `sample` that were tried."""
    sizes = {folder: len(those) for folder, those in by_folder(statuses).items()}
    tried = by_folder(name for name in sample if statuses[name] != "not checked")
    return [
        Score(folder, sizes[folder], len(those), sum(statuses[name] in KILLED for name in those))
        for folder, those in tried.items()
    ]


def overall(found: list[Score]) -> tuple[float, float, float]:
    """The share of all mutants that would be killed, and its interval of 95 %.

    Variances are of Agresti and Coull (two killed and two survivors more), so that a folder without survivors still
    counts as uncertain.
    """
    total = sum(score.mutants for score in found)
    share = sum(score.share * score.mutants for score in found) / total
    variance = 0.0
    for score in found:
        likely = (score.killed + 2) / (score.tried + 4)
        variance += (score.mutants / total) ** 2 * likely * (1 - likely) / (score.tried + 4)
    half = Z * math.sqrt(variance)
    return share, max(0.0, share - half), min(1.0, share + half)


def _statuses() -> dict[str, str]:
    lines = subprocess.run(["mutmut", "results", "--all", "true"], capture_output=True, text=True, check=True).stdout
    return dict(line.strip().split(": ") for line in lines.splitlines())  # type: ignore[misc]


def main() -> None:
    """Print the names of a sample, or its score by folder and then its survivors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    draw = verbs.add_parser("draw")
    draw.add_argument("--sample", type=int, default=400)
    draw.add_argument("--least", type=int, default=40, help="of each folder")
    draw.add_argument("--seed", type=int, default=12)
    score = verbs.add_parser("score")
    score.add_argument("names", type=Path)
    options = parser.parse_args()
    statuses = _statuses()
    if options.verb == "draw":
        print(*drawn(statuses, options.sample, options.least, options.seed), sep="\n")
    else:
        _tell(statuses, options.names.read_text().split())


def _tell(statuses: Mapping[str, str], sample: list[str]) -> None:
    found = scores(statuses, sample)
    print(f"{'folder':20}{'mutants':>8}{'tried':>7}{'killed':>8}{'score':>7}  95 %")
    for one in found:
        low, high = one.interval
        print(f"{one.folder:20}{one.mutants:8}{one.tried:7}{one.killed:8}{one.share:7.0%}  {low:.0%} to {high:.0%}")
    share, low, high = overall(found)
    tried, killed = sum(one.tried for one in found), sum(one.killed for one in found)
    mutants = sum(one.mutants for one in found)
    print(f"{'all, by weight':20}{mutants:8}{tried:7}{killed:8}{share:7.1%}  {low:.0%} to {high:.0%}\n")
    for name in sample:
        if statuses[name] not in (*KILLED, "not checked"):
            print(f"{statuses[name]}: {name}")


if __name__ == "__main__":
    main()
