"""How many small faults in the pure parts the unit tests notice, by a random sample of mutmut's mutants.

nice -n 19 python -m benchmarks.mutants make                                     # mutants/, by mutmut: minutes
nice -n 19 python -m benchmarks.mutants learn                                    # which tests come by which function
python -m benchmarks.mutants draw --sample 400 --seed 12 > sample.txt
nice -n 19 python -m benchmarks.mutants try sample.txt results.txt               # goes on where it was cut off
python -m benchmarks.mutants score sample.txt results.txt

`mutmut run` runs all unit tests twice before its first mutant, and then for each one all that ever came by its
function. `try` does the same with the files that ought to notice (TESTS), and begins with those of the mutant's own
module (benchmarks/tries.py). So what it counts as killed mutmut would, too, and some of what it counts as survived
another test would have killed. Killed is what a test failed on, or what ran out of time. A sample is in random order:
what is tried of it so far is a sample, too. `score` weighs folders by all mutants that they have; intervals: 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import tries

Z = 1.96
TESTS = {
    "guest_agent": "arrival retirement consent claims slots agent agent_state public",
    "vmacro.host.disks": "host_disks host_disk_programs",
    "vmacro.host.legs": "rescue routing guard rules host_side switchover",
    "vmacro.host.rescue": "rescue switchover",
    "vmacro.host.switchover": "switchover host_domains lifecycle_events admission",
    "vmacro.planning": "findings addresses planner states checks doctor measured",
    "vmacro.planning.addresses": "addresses planner public findings",
    "vmacro.planning.closed": "placement findings evacuation",
    "vmacro.planning.compression": "compression findings planner",
    "vmacro.planning.convergence": "convergence",
    "vmacro.planning.dispatch": "dispatch",
    "vmacro.planning.evacuation": "evacuation findings",
    "vmacro.planning.filters": "filters findings",
    "vmacro.planning.forecast": "compression dirtying evacuation findings planner",
    "vmacro.planning.handoffs": "planner addresses seamless findings placement",
    "vmacro.planning.names": "names outside findings",
    "vmacro.planning.outcome": "verdicts counting datagrams migrate seamless",
    "vmacro.planning.reaching": "reach",
    "vmacro.planning.request": "placement findings checks",
    "vmacro.planning.resuming": "forged_plans strange_rows migrate",
    "vmacro.planning.standing": "standing planner seamless forged_plans",
    "vmacro.rtt": "statistics rtt watch",
    "vmacro.rtt.recording": "statistics rtt render known watch",
    "vmacro.services": "migrate seamless phases outside carry",
    "vmacro.services.archive": "journal_read archive",
    "vmacro.services.batch_report": "reports",
    "vmacro.services.batches": "batch_plans",
    "vmacro.services.carry": "carry seamless",
    "vmacro.services.checker": "move_use_cases",
    "vmacro.services.claims": "claims_by_file",
    "vmacro.services.crew": "crew",
    "vmacro.services.database_claims": "claims_cut",
    "vmacro.services.databases": "claims_cut",
    "vmacro.services.datagrams": "datagrams seamless",
    "vmacro.services.dhcp": "dhcp_entries seamless migrate reservations carry",
    "vmacro.services.dirtying": "dirtying",
    "vmacro.services.disks": "disks migrate seamless phases",
    "vmacro.services.doctor": "doctor findings",
    "vmacro.services.event_json": "events render",
    "vmacro.services.event_log": "event_log",
    "vmacro.services.executions": "executions",
    "vmacro.services.fleet_report": "reports",
    "vmacro.services.fleet_tables": "fleet_tables",
    "vmacro.services.follow": "follow_decisions",
    "vmacro.services.handoff": "migrate seamless counting",
    "vmacro.services.inside": "measured checks migrate",
    "vmacro.services.journal": "journal waiting pickles",
    "vmacro.services.journal_json": "journal_json journal_read",
    "vmacro.services.journal_rows": "journal_read",
    "vmacro.services.known": "known",
    "vmacro.services.leader": "leader batch_plans",
    "vmacro.services.leftovers": "leftovers",
    "vmacro.services.measured": "measured reservations",
    "vmacro.services.migrate": "migrate seamless phases outside datagrams reach verdicts compression",
    "vmacro.services.moves": "move_use_cases",
    "vmacro.services.outside": "outside",
    "vmacro.services.paths": "ways findings round_trips",
    "vmacro.services.phases": "phases migrate seamless",
    "vmacro.services.reach": "reach seamless",
    "vmacro.services.report": "reports render datagrams",
    "vmacro.services.reservations": "measured reservations placement move_use_cases",
    "vmacro.services.retention": "private",
    "vmacro.services.seamless": "seamless carry datagrams reach public",
    "vmacro.services.serializer": "journal_json pickles",
    "vmacro.services.survey": "checks states findings round_trips measured doctor",
    "vmacro.services.troubles": "seamless",
    "vmacro.services.upkeep": "journal_read private",
    "vmacro.services.waiting": "waiting",
    "vmacro.services.whereabouts": "whereabouts migrate phases seamless",
    "vmacro.services.workflows": "archive journal",
    "vmacro.wire": "wire protocol",
    "vmacro.wire.counting": "counting",
    "vmacro.wire.fields": "wire protocol host_side agent",
    "vmacro.wire.framing": "wire protocol host_sessions agent_channel",
    "vmacro.wire.mailbox": "xen_agent",
    "vmacro.wire.messages": "wire protocol host_sessions agent host_side",
    "vmacro.wire.names": "wire protocol channel xenstore",
    "vmacro.wire.text": "wire events",
    "vmacro.wire.xenbus": "xenstore xen_agent",
    "vmacro.wire.xenstore": "xenstore xen_agent xen_host",
}


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
        """Wilson's, which is also right where all were killed."""
        centre = (self.share + Z**2 / (2 * self.tried)) / (1 + Z**2 / self.tried)
        spread = math.sqrt(self.share * (1 - self.share) / self.tried + Z**2 / (4 * self.tried**2))
        half = Z * spread / (1 + Z**2 / self.tried)
        return max(0.0, centre - half), min(1.0, centre + half)


def overall(found: list[Score]) -> tuple[float, float, float]:
    """The share of all mutants that would be killed, and its interval. Variances are of Agresti and Coull (two killed
    and two survivors more), so that a folder without survivors still counts as uncertain."""
    total = sum(score.mutants for score in found)
    share = sum(score.share * score.mutants for score in found) / total
    variance = 0.0
    for score in found:
        likely = (score.killed + 2) / (score.tried + 4)
        variance += (score.mutants / total) ** 2 * likely * (1 - likely) / (score.tried + 4)
    half = Z * math.sqrt(variance)
    return share, max(0.0, share - half), min(1.0, share + half)


def module_of(mutant: str) -> str:
    """`vmacro.planning.checks` of `vmacro.planning.checks.x_f__mutmut_1`."""
    return mutant.rpartition(".")[0]


def folder_of(mutant: str) -> str:
    """`vmacro.planning` of the same, `guest_agent` of all of the agent's."""
    parts = mutant.split(".")
    return ".".join(parts[:2]) if parts[0] == "vmacro" else parts[0]


def by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of mutants by their folder, both in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        found[folder_of(name)].append(name)
    return dict(sorted(found.items()))


def mutants() -> list[str]:
    """All that mutmut has made."""
    made = (json.loads(file.read_text())["exit_code_by_key"] for file in Path("mutants").rglob("*.meta"))
    return [name for names in made for name in names]


def drawn(names: Iterable[str], sample: int, least: int, seed: int) -> list[str]:
    """A random sample of about `sample` names, in random order: of each folder its share, but at least `least`; the
    same for a seed."""
    folders = by_folder(names)
    total, chance = sum(map(len, folders.values())), random.Random(seed)
    chosen: list[str] = []
    for those in folders.values():
        chosen += chance.sample(those, min(max(least, round(sample * len(those) / total)), len(those)))
    chance.shuffle(chosen)
    return chosen


def files(mutant: str) -> list[str]:
    """Of the tests that ought to notice it."""
    module = module_of(mutant)
    named = TESTS.get(module) or TESTS[module.rpartition(".")[0] or module]
    return [f"tests/unit/test_{name}.py" for name in named.split()]


def all_files() -> list[str]:
    """Of the tests that ought to notice any."""
    return sorted({f"tests/unit/test_{name}.py" for named in TESTS.values() for name in named.split()})


def make() -> None:
    """The copy of everything with all mutants in it, as `mutmut run` begins with. What is unchanged since stays."""
    from mutmut.__main__ import create_mutants
    from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir

    Path("mutants").mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    create_mutants(1)


def score(sample: list[str], results: Path) -> None:
    """Print the table, and then the names of survivors."""
    codes = {line.split()[0]: int(line.split()[1]) for line in results.read_text().splitlines()}
    sizes = {folder: len(those) for folder, those in by_folder(mutants()).items()}
    tried = by_folder(name for name in sample if name in codes)
    found = [Score(f, sizes[f], len(those), sum(_kills(codes[name]) for name in those)) for f, those in tried.items()]
    print(f"{'folder':20}{'mutants':>8}{'tried':>7}{'killed':>8}{'score':>7}  95 %")
    for one in found:
        low, high = one.interval
        print(f"{one.folder:20}{one.mutants:8}{one.tried:7}{one.killed:8}{one.share:7.0%}  {low:.0%} to {high:.0%}")
    share, low, high = overall(found)
    sums = [sum(getattr(one, what) for one in found) for what in ("mutants", "tried", "killed")]
    print(f"{'all, by weight':20}{sums[0]:8}{sums[1]:7}{sums[2]:8}{share:7.1%}  {low:.0%} to {high:.0%}\n")
    print(*sorted(name for name in sample if name in codes and not _kills(codes[name])), sep="\n")


def _kills(code: int) -> bool:
    """A test failed, or a signal ended it as it took too long; no other trouble of pytest's."""
    return code == 1 or code < 0


def main() -> None:
    """One of the four verbs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("make")
    learn = verbs.add_parser("learn", help="once, and again of files that have new tests")
    learn.add_argument("files", nargs="*", help="tests/unit/test_X.py; all of TESTS")
    draw = verbs.add_parser("draw")
    draw.add_argument("--sample", type=int, default=400)
    draw.add_argument("--least", type=int, default=20, help="of each folder")
    draw.add_argument("--seed", type=int, default=12)
    for verb in ("try", "score"):
        with_files = verbs.add_parser(verb)
        with_files.add_argument("sample", type=Path)
        with_files.add_argument("results", type=Path)
    options = parser.parse_args()
    if options.verb == "make":
        make()
    elif options.verb == "draw":
        print(*drawn(mutants(), options.sample, options.least, options.seed), sep="\n")
    elif options.verb == "learn":
        tries.learn(options.files or all_files())
    elif options.verb == "try":
        tries.attempt({name: files(name) for name in options.sample.read_text().split()}, options.results)
    else:
        score(options.sample.read_text().split(), options.results)


if __name__ == "__main__":
    main()
