"""The house rules are tests: linters, types, layers, and rooms that stay small."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "add_argument" in path.read_text())


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["mypy", "--python-version", "3.10", "guest_agent"],  # the oldest that mypy knows; ruff looks for 3.9
        ["lint-imports"],
        ["ansible-lint", "--offline", "--profile", "production", "--strict", "playbooks"],
    ],
    ids=" ".join,
)
def test_linter(command: list[str]) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_begins_as_it_says(name: str) -> None:
    """It shares what tests have, which are not installed."""
    words = f"python -m benchmarks.{name}"
    assert words in (ROOT / f"benchmarks/{name}.py").read_text()
    done = subprocess.run([BIN / "python", *words.split()[1:], "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage"), done.stderr


def test_files_stay_small() -> None:
    """Those of tests are not held to it."""
    sources = [p for top in ("vmacro", "guest_agent", "benchmarks") for p in (ROOT / top).rglob("*.py")]
    assert not {str(p): n for p in sources if (n := len(p.read_text().splitlines())) > 400}


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    for path in (ROOT / "vmacro").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def test_nothing_that_is_shown_is_markup() -> None:
    """Hosts and guests said much of it: rich would take `[/]` for a tag, and raise, and `:AB:` in a MAC for a picture.
    What draws by itself draws on one of our consoles."""
    wanted = {"Console": ("markup", "emoji"), "TextColumn": ("markup",), "Progress": ("console",), "Live": ("console",)}
    drawn = [(call, name) for _, call, name in calls() if name in (*wanted, "rich.print")]
    assert {name for _, name in drawn} == set(wanted)
    for call, name in drawn:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        right = {"markup": "False", "emoji": "False", "console": given.get("console")}
        assert all(key in given and given[key] == right[key] for key in wanted[name]), ast.unparse(call)


def test_text_is_shown_by_render_alone() -> None:
    """Which escapes what would rule a terminal; what else prints, prints what is ours."""
    ours = {"app.py", "batch_view.py", "pki.py", "events.py", "provision.py", "move.py", "rtt.py", "stream.py"}
    printing = {path.name for path, _, name in calls() if name == "print" and path.parent.name == "cli"}
    assert printing - {"render.py"} <= ours
    consoles = {path.name for path, _, name in calls() if re.search(r"\b(out|err)\.print$", name)}
    assert consoles <= {"render.py", "check.py", "pki.py", "stream.py"}


def test_one_decoder_reads_what_others_wrote() -> None:
    """Whoever decodes JSON, XML or pickles is one of the boundaries that docs/security.md names; on a host, those of
    its own libvirt and kernel."""
    decoders = r"json\.loads|ElementTree\.(XML|fromstring|parse)|pickle\.|literal_eval|eval|exec|yaml\.|jsonpickle"
    found = {str(p.relative_to(ROOT / "vmacro")) for p, _, name in calls() if re.fullmatch(decoders, name)}
    assert {name for name in found if not name.startswith("lab/")} == {
        "drivers/libvirt/xml.py",
        "fleet/recorded.py",
        "host/disks.py",
        "host/domains.py",
        "host/emulator.py",
        "host/guard.py",
        "host/pools.py",
        "rtt/recording.py",
        "rtt/watch.py",
        "services/claims.py",
        "services/journal_json.py",
        "wire/messages.py",
    }
