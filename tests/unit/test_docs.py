"""Pages that repeat what the code says are compared with the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import vmacro.api
import vmacro.errors
from tests import labs
from vmacro.cli import reference
from vmacro.cli.app import app
from vmacro.limits import Policy
from vmacro.model import nouns
from vmacro.model.moves import EXIT_CODES


def test_the_reference_is_current() -> None:
    """Run `python -m vmacro.cli.reference` if this fails."""
    assert reference.PAGE.read_text() == reference.page()


def test_every_key_of_the_inventory_is_explained() -> None:
    unexplained = [
        f"{table} {key}"
        for table, model in (*reference.TABLES, *reference.POLICY_TABLES)
        for key, field in model.model_fields.items()
        if not field.description
    ]
    assert unexplained == []


def test_a_policy_has_its_defaults_in_one_place() -> None:
    assert nouns.Policy(**Policy().model_dump()) == nouns.Policy()


def test_the_page_of_checks_is_current() -> None:
    """Run `python -m vmacro.cli.reference` if this fails."""
    assert reference.CHECKS_PAGE.read_text() == reference.checks_page()


def test_every_finding_is_explained() -> None:
    """One that is not leaves its reader alone; one that the code lacks was renamed."""
    fleet = [reference.ROOT / f"vmacro/fleet/{name}.py" for name in ("faults", "explain")]
    sources = [*(reference.ROOT / "vmacro/planning").glob("*.py"), *fleet]
    emitted = {code for path in sources for code in codes(path)}
    assert list(reference.findings()) == sorted(emitted)


@pytest.mark.parametrize("code, said", reference.findings().items())
def test_an_explanation_is_whole(code: str, said: dict[str, str]) -> None:
    """A bar or a line's end would break the page's table."""
    assert said.keys() == {"kind", "meaning", "fix"}
    assert all(text and not set(text) & set("|\n") for text in said.values()), code


def codes(source: Path) -> set[str]:
    """The codes in a module of vmacro/planning: all its strings that are words joined by dashes."""
    strings = (node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant))
    return {text for text in strings if isinstance(text, str) and re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", text)}


def test_every_exit_code_is_in_the_troubleshooting_page() -> None:
    page = (reference.ROOT / "docs/troubleshooting.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d) \|", page, re.MULTILINE)}
    errors = {kind.exit_code for kind in vars(vmacro.errors).values() if hasattr(kind, "exit_code")}
    assert listed == errors | set(EXIT_CODES.values())


def test_pages_name_commands_that_exist() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = "\n".join((reference.ROOT / name).read_text() for name in PAGES)
    code = re.findall(r"^    .*|`[^`\n]+`", text, re.MULTILINE)
    named = set(re.findall(r"\bvmacro ([a-z]+)", "\n".join(code)))
    assert len(named) > 10 and named <= known, named - known


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((reference.ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    page = reference.ROOT / name
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def proofs() -> Iterator[tuple[str, str]]:
    """What lines of docs/security.md are shown by: a file of tests, and words of the name of a test in it, or ''."""
    lines = (reference.ROOT / "docs/security.md").read_text().partition("## Parties")[2].partition("\n## ")[0]
    for row in [line for line in lines.splitlines() if line.startswith("| ")][2:]:
        for shown in row.rstrip(" |").rpartition(" | ")[2].split(";"):
            files, _, names = shown.partition(":")
            found = [file.strip().removeprefix("tests/").removesuffix(".py") for file in files.split(",")]
            yield from ((file, "") for file in found)
            yield from ((found[0], name.strip()) for name in names.split(",") if name)


def test_what_the_page_of_security_is_shown_by_is_there() -> None:
    """No line without a test: one that was renamed shows nothing."""
    tests = reference.ROOT / "tests"
    sources = {str(path.relative_to(tests).with_suffix("")): path.read_text() for path in tests.rglob("*.py")}

    def shows(file: str, words: str) -> bool:
        texts = [text for path, text in sources.items() if f"/{path}".endswith(f"/{file}")]
        names = [name for text in texts for name in re.findall(r"^def test_(\w+)", text, re.MULTILINE)]
        return bool(texts) and (
            not words or any(re.sub(r"\W", "_", words.replace("'", "")).lower() in n for n in names)
        )

    found = [*proofs()]
    assert [proof for proof in found if not shows(*proof)] == [] and len(found) > 100


def test_each_file_of_tests_with_a_lab_is_in_the_table() -> None:
    """By its lab, as labs.py has it; contracts of the shared lab are one word there."""
    page = (reference.ROOT / "docs/testing.md").read_text().partition("## What is tested where")[2]
    rows = [row.split(" | ") for row in page.partition("\n## ")[0].splitlines() if row.startswith("| ")]
    named = {word: row[0].strip("| `") for row in rows for word in re.findall(r"test_\w+", row[1])}
    tests = reference.ROOT / "tests"
    files = [*tests.glob("lab/test_*.py"), *(f for f in tests.glob("contract/test_*.py") if f.stem in labs.OWN)]
    assert [file.stem for file in files if file.stem not in named] == []
    wrong = [f.stem for f in files if labs.OWN.get(f.stem, labs.SHARED) not in (named[f.stem], labs.PACKETS)]
    assert wrong == []


def test_the_page_of_the_api_has_all_of_it() -> None:
    page = (reference.ROOT / "docs/api.md").read_text()
    rows = "".join(row.rpartition("|")[0].split(" | ")[0] for row in page.splitlines() if row.startswith("| `"))
    public = {name for name in vars(vmacro.api.Session) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)\(", rows)) == public
    assert dir(vmacro.api) == sorted(vmacro.api.__all__)


def test_the_readme_is_short() -> None:
    assert len((reference.ROOT / "README.md").read_text().splitlines()) <= 120
