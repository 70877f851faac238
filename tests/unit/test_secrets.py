"""Passwords are in no error, no traceback and no program's arguments."""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.unit.test_config import GOOD, load
from vmacro import inventory, wiring
from vmacro.cli import reference
from vmacro.config import shown
from vmacro.errors import ConfigurationError, VmacroError
from vmacro.provisioning import ansible_inventory

SECRET = "hush"
URLS = [f"postgresql://u:{SECRET}@h/x", f"postgresql://u:1@{SECRET}@h/x", f"postgresql://h/x?password={SECRET}&y=1"]
URLS += [f"qemu+ssh://root:{SECRET}@h/system", f"qemu+ssh://root:a/{SECRET}@h/system", f"root:{SECRET}@a..b"]
PLACES = {
    "[policy]": "[policy]\n{}\n" + GOOD,
    "[orchestrator]": "[orchestrator]\n{}\n" + GOOD,
    "[sites.NAME]": GOOD.replace("[sites.a]", "[sites.a]\n{}"),
    "[sites.NAME.network]` and `[hosts.NAME.guest_network]": GOOD.replace(
        "[sites.b]", '[sites.a.network]\nsubnet = "10.1.0.0/24"\n{}\n[sites.b]'
    ),
    "[hosts.NAME]": GOOD.replace("[hosts.b1]", "[hosts.b1]\n{}"),
    "[guests.NAME]": GOOD + "[guests.db]\n{}\n",
    "[guests.NAME.probe]": GOOD + '[guests.db.probe]\nfrom = "p"\n{}\n',
    "[dns]": GOOD + '[dns]\n{}\nserver = "10.9.0.53"\nkey_file = "/etc/vmacro/dns.key"\n',
    "[hooks]": GOOD + "[hooks]\n{}\n",
    "[fleet]": GOOD + "[fleet]\n{}\n",
    "[probers.NAME]": GOOD + "[probers.q]\n{}\n",
}


def keys() -> Iterator[tuple[str, str, str]]:
    """Every key of every table, as the reference has them, and what is there of it in a good inventory."""
    for table, model in reference.TABLES:
        assert issubclass(model, BaseModel)
        for name, field in model.model_fields.items():
            yield table, field.alias or name, PLACES[table]


def said_of(tmp_path: Path, text: str) -> str:
    """All that is told of an inventory, with the traceback that a program may show; '' if nothing is wrong with it."""
    try:
        load(tmp_path, text)
    except ConfigurationError as error:
        return "".join(traceback.format_exception(error))
    return ""


def with_line(place: str, key: str, value: str) -> str:
    """The key is there once, whether or not a good inventory has it."""
    head, mark, tail = place.partition("{}")
    table, rest = re.split(r"(?m)^(?=\[)", tail, maxsplit=1) if re.search(r"(?m)^\[", tail) else (tail, "")
    kept = re.sub(rf"(?m)^{key} = .*\n", "", table)
    return f"{head}{key} = {value}\n{kept}{rest}" if mark else place


@pytest.mark.parametrize(("table", "key", "place"), [pytest.param(*k, id=f"{k[0]} {k[1]}") for k in keys()])
def test_a_misspelt_keys_value_is_shown_to_nobody(tmp_path: Path, table: str, key: str, place: str) -> None:
    for value in (f'"{SECRET}"', f'["{SECRET}"]', f'{{ x = "{SECRET}" }}'):
        told = said_of(tmp_path, with_line(place, f"{key}x", value))
        assert f"{key}x: there is no such key" in told and SECRET not in told


@pytest.mark.parametrize(("table", "key", "place"), [pytest.param(*k, id=f"{k[0]} {k[1]}") for k in keys()])
def test_no_key_shows_the_password_of_a_url(tmp_path: Path, table: str, key: str, place: str) -> None:
    """Wherever somebody has put it; what is wrong is told all the same."""
    for url in URLS:
        for value in (f'"{url}"', f'["{url}"]', f'{{ x = "{url}" }}'):
            assert SECRET not in said_of(tmp_path, with_line(place, key, value)), value


@pytest.mark.parametrize("key", ["ansible_become_password", "vault_secret", "api_token"])
@pytest.mark.parametrize("value", [f'"{SECRET}"', "2026-01-01", f"{{ {SECRET} = 2026-01-01 }}"])
def test_variables_for_playbooks_are_not_shown(tmp_path: Path, key: str, value: str) -> None:
    told = said_of(tmp_path, GOOD.replace("[hosts.b1]", f"[hosts.b1]\nansible = {{ {key} = {value} }}"))
    assert "(value" not in told


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("postgresql://u:hush@h/x", "postgresql://***@h/x"),
        ("postgresql://u:hu@sh@h/x", "postgresql://***@h/x"),
        ("postgresql://u:/hush@h/x", "postgresql://***@h/x"),
        ("root:hush@h", "root:***@h"),
        ("postgresql://h/x?user=u&Password=hush&y=1", "postgresql://h/x?user=u&Password=***&y=1"),
        ("sqlite:////x", "sqlite:////x"),
        ("qemu+tls://h/system", "qemu+tls://h/system"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_what_may_be_shown_of_a_value(text: str, rest: str) -> None:
    assert shown(text) == rest


# Where a journal's URL may come from.

HEAD = "[orchestrator]\n"


def test_a_database_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://u:hush@from-file/x\n")
    file.chmod(0o600)
    text = f'{HEAD}database_url_file = "{file}"\n{GOOD}'
    assert load(tmp_path, text).database_url == "postgresql+psycopg://u:hush@from-file/x"
    monkeypatch.setenv(inventory.DATABASE_URL, "postgresql://u:hush@from-environment/x")
    for given in (text, f'{HEAD}database_url = "postgresql://u@from-inventory/x"\n{GOOD}', GOOD):
        assert "from-environment" in load(tmp_path, given).database_url
    monkeypatch.setenv(inventory.DATABASE_URL, "")
    assert "from-file" in load(tmp_path, text).database_url


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (f"postgresql://u:{SECRET}@h/x", 0o644, "everybody can read it"),
        (f"mysql://u:{SECRET}@h/x", 0o600, "must be postgresql://"),
        (f"postgresql://u:{SECRET}@h:port/x", 0o600, "must be postgresql://"),
        ("", 0o600, "must be postgresql://"),
        (f"\udcff{SECRET}", 0o600, "cannot be read"),
        (None, 0o600, "cannot be read: No such file"),
    ],
)
def test_a_file_that_will_not_do(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
        file.chmod(mode)
    told = said_of(tmp_path, f'{HEAD}database_url_file = "{file}"\n{GOOD}')
    assert "orchestrator.database_url_file" in told and said in told and SECRET not in told


def test_an_environment_that_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(inventory.DATABASE_URL, f"mysql://u:{SECRET}@h/x")
    told = said_of(tmp_path, GOOD)
    assert f"{inventory.DATABASE_URL}: database_url: must be postgresql://" in told and SECRET not in told


def test_only_one_of_both(tmp_path: Path) -> None:
    text = f'{HEAD}database_url = "postgresql://u:{SECRET}@h/x"\ndatabase_url_file = "/x"\n{GOOD}'
    told = said_of(tmp_path, text)
    assert "only one of them" in told and SECRET not in told


def test_a_database_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    settings = load(tmp_path, f'{HEAD}database_url = "postgresql://u:{SECRET}@127.0.0.1:1/x"\n{GOOD}')
    with pytest.raises(VmacroError) as caught, wiring.archive(settings) as archive:
        archive.moves()
    assert SECRET not in str(caught.value)


# What programs are told.

STARTERS = {"run", "Popen", "call", "check_call", "check_output", "create_subprocess_exec", "create_subprocess_shell"}
ROOT = Path(inventory.__file__).parent


def calls_that_start_programs() -> Iterator[tuple[Path, ast.Call]]:
    """In all that we are made of."""
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent / "guest_agent").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            named = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            module, _, name = named.rpartition(".")
            if isinstance(node, ast.Call) and module in ("subprocess", "asyncio", "process") and name in STARTERS:
                yield path, node


def test_no_program_is_given_a_secret_or_a_shell() -> None:
    """Whatever a program's words are made of has no name like that of a secret; and no shell reads them."""
    found = list(calls_that_start_programs())
    assert len(found) > 10
    for path, call in found:
        words = " ".join(ast.unparse(argument) for argument in call.args)
        assert not re.search(r"(?i)password|secret|private_?key|database_url", words), f"{path}: {words}"
        assert not any(k.arg == "shell" for k in call.keywords), f"{path}: {ast.unparse(call)}"


def test_no_task_of_a_playbook_gives_a_program_a_secret() -> None:
    """Keys are files, requests come by standard input."""
    for path in ansible_inventory.playbooks().rglob("*.yml"):
        for line in path.read_text().splitlines():
            if "argv" in line or "cmd:" in line:
                assert not re.search(r"(?i)password|secret|vmacro_authorit", line), f"{path}: {line}"


def test_no_option_of_a_command_is_a_secret() -> None:
    """Everybody on a machine can read a command's words, /proc/PID/cmdline."""
    options = re.findall(r"`(--[a-z-]+)", reference.page())
    assert options and not [o for o in options if re.search("password|secret|token|database", o)]
