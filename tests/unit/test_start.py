"""What a command loads before it does anything: not more libraries than it needs, each of which takes its time. Held by
names and not by a clock, which says something else on each machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from vmacro.cli.app import app
from vmacro.cli.commands import ENTRIES, Commands

ROOT = Path(__file__).parents[2]
# SSH, too, is loaded as it is used: in a thread, while hosts answer others.
LOOKS = {"libvirt", "pydantic", "rich", "sqlalchemy"}
MOVES = LOOKS | {"cryptography", "dbos", "paramiko", "psycopg", "rich.progress"}
TELLS = LOOKS | {"rich.progress"}
MANY = MOVES | {"prometheus_client", "pyroute2"}
DECIDES = {"astral", "highspy", "icalendar", "numpy", "rich.progress"}
# By module of vmacro.cli, of all that is slow to load. What is drawn (matplotlib, plotext) is loaded as it is drawn.
NEEDED = {
    "carried": LOOKS,
    "carry": MOVES,
    "check": LOOKS,
    "cleanup": LOOKS,
    "doctor": LOOKS,
    "events": TELLS,
    "fleet": MANY,
    "follow": MANY | DECIDES,
    "history": TELLS,
    "images": {"pydantic", "pyroute2", "rich", "sqlalchemy"},
    "init": LOOKS,
    "lab": MANY | {"ansible_runner"},
    "move": MOVES,
    "pki": LOOKS | {"cryptography"},
    "provision": MANY | {"ansible_runner"},
    "recover": MOVES,
    "rtt": {"prometheus_client", "pydantic", "rich"},
    "signals": LOOKS | DECIDES,
}
SLOW = set().union(*NEEDED.values(), {"dns", "matplotlib", "plotext"})
PROGRAM = """
import sys
from contextlib import suppress
from vmacro.cli.app import main
for command in sys.argv[1].split(","):
    sys.argv = ["vmacro", *command.split()]
    with suppress(SystemExit):
        main()
"""
ON_A_FAKE = """
import sys
from pathlib import Path
from tests.unit.town import Town
from vmacro import wiring
wiring.drivers = Town(Path(sys.argv.pop()), 1).drivers
"""
TOLD = "\nimport sys\nprint('LOADED', *sys.modules)\n"


def loaded(program: str, *words: str) -> set[str]:
    """What is slow, of the modules that such a process has at its end."""
    command = [sys.executable, "-c", program + TOLD, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "rror" not in done.stderr, done.stderr
    return SLOW & set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("words", ["--help", "--version"])
def test_what_only_tells_of_itself_loads_nothing(words: str) -> None:
    assert loaded(PROGRAM, words) == set()


@pytest.mark.parametrize("module", sorted(NEEDED))
def test_a_command_loads_what_it_needs(module: str) -> None:
    commands = [name for name, entry in ENTRIES.items() if entry.where.startswith(f"{module}:")]
    assert commands
    assert loaded(PROGRAM, ",".join(f"{name} --help" for name in commands)) <= NEEDED[module]


def test_each_command_is_held_to_it() -> None:
    assert {entry.where.partition(":")[0] for entry in ENTRIES.values()} == NEEDED.keys()


def test_a_check_loads_no_more_when_it_works(tmp_path: Path) -> None:
    """Nor does it ask the journal by what writes it."""
    words = f"check g1 --to berlin -i {tmp_path}/inventory.toml"
    assert loaded(ON_A_FAKE + PROGRAM, words, str(tmp_path)) <= LOOKS


@pytest.mark.parametrize("width", [78, 64])
def test_the_list_of_commands_says_what_they_say_themselves(width: int) -> None:
    """78 columns are the most that it takes; in narrower ones less is said."""
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    context = typer.Context(group, info_name="vmacro", terminal_width=width)
    themselves = TyperGroup(commands={name: group.get_command(context, name) for name in ENTRIES})
    listed, said = context.make_formatter(), context.make_formatter()
    group.format_commands(context, listed)
    themselves.format_commands(context, said)
    assert listed.getvalue() == said.getvalue() and "Move a running guest" in said.getvalue()


@pytest.mark.parametrize(
    ("program", "not_needed"),
    [
        ("from vmacro.host.__main__ import main", {"libvirt", "pyroute2"}),
        ("import vmacro.rtt.probe", SLOW),
    ],
)
def test_what_starts_elsewhere_loads_little(program: str, not_needed: set[str]) -> None:
    """A host side that only opens the way to an agent; a prober."""
    assert loaded(program) & not_needed == set()
