"""What is packed into the agent runs on the guest's Python, which may be 3.9, with no library but pyroute2."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import guest_agent
from vmacro.provisioning import agent_package

OLDEST = (3, 9)
ROOT = Path(__file__).parents[2]
SOURCES = [p for p in agent_package.sources() if p.suffix == ".py" and "provisioning" not in p.parts]
# Of the standard library, what is newer than that and likely; by the «New in version» notes of docs.python.org.
NEWER_MODULES = {"tomllib"}
NEWER_NAMES = {
    "asyncio": {"TaskGroup", "timeout", "timeout_at", "Runner", "Barrier"},
    "collections.abc": {"Buffer"},
    "contextlib": {"aclosing", "chdir"},
    "dataclasses": {"KW_ONLY"},
    "datetime": {"UTC"},
    "enum": {"StrEnum", "verify", "member", "nonmember"},
    "itertools": {"pairwise", "batched"},
    "types": {"NoneType", "EllipsisType", "UnionType"},
    "typing": {
        *("Concatenate", "ParamSpec", "TypeAlias", "TypeGuard", "is_typeddict"),
        *("Never", "NotRequired", "Required", "Self", "LiteralString", "assert_never", "reveal_type", "override"),
    },
}
NEWER_ARGUMENTS = {"zip": {"strict"}, "dataclass": {"slots", "kw_only", "weakref_slot"}, "field": {"kw_only"}}


def newer(tree: ast.Module) -> Iterator[str]:
    """What this module uses that came after OLDEST, but for syntax."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (n.name for n in node.names if n.name in NEWER_MODULES)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                f"{node.module}.{n.name}" for n in node.names if n.name in NEWER_NAMES.get(node.module or "", ())
            )
            yield from [node.module or ""] if node.module in NEWER_MODULES else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in NEWER_NAMES.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield from (f"{called}({k.arg}=)" for k in node.keywords if k.arg in NEWER_ARGUMENTS.get(called, ()))


def imported(tree: ast.Module) -> set[str]:
    """Top-level packages, and of vmacro the part."""
    names = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {".".join(n.split(".")[: 2 if n.startswith("vmacro") else 1]) for n in names}


@pytest.mark.parametrize("python", [sys.executable, "python3.9"])
def test_what_is_packed_needs_nothing_else(python: str, tmp_path: Path) -> None:
    if shutil.which(python) is None or subprocess.run([python, "-V"], capture_output=True).returncode != 0:
        pytest.skip(f"{python} is not here")
    agent_package.tree(tmp_path)
    assert {p.name for p in (tmp_path / "vmacro").iterdir()} == {"__init__.py", "wire"}
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from guest_agent import __main__; __main__.main()"
    command = [python, "-I", "-S", "-B", "-c", code, "--version"]  # -S: no site-packages
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{guest_agent.__version__}\n", "")


def test_all_that_is_packed_is_looked_at() -> None:
    packages = {str(p.parent.relative_to(ROOT)) for p in SOURCES}
    assert packages == {"guest_agent", "vmacro", "vmacro/wire"} and len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_runs_on_the_oldest_python_of_a_guest(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=OLDEST)
    assert list(newer(tree)) == []
    lazy = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
    defines = any(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) for n in tree.body)
    assert lazy or not defines, "X | Y in an annotation is evaluated without `from __future__ import annotations`"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_imports_only_what_is_packed_with_it(path: Path) -> None:
    ours = {"vmacro.wire"} if "vmacro" in path.parts[len(ROOT.parts) :] else {"vmacro.wire", "guest_agent", "pyroute2"}
    assert imported(ast.parse(path.read_text())) <= {*sys.stdlib_module_names, *ours}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import asyncio\nasyncio.timeout(1)", ["asyncio.timeout"]),
        ("from typing import Self", ["typing.Self"]),
        ("import tomllib", ["tomllib"]),
        ("zip([], [], strict=True)", ["zip(strict=)"]),
        ("import asyncio\nasyncio.wait_for(x, timeout=1)", []),
    ],
)
def test_what_is_newer_is_seen(source: str, found: list[str]) -> None:
    assert list(newer(ast.parse(source))) == found


def test_newer_syntax_is_seen() -> None:
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case 1: pass", feature_version=OLDEST)
