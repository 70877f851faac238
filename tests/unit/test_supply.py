"""What is installed, here and on hosts, is what the lock file says, byte by byte."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from vmacro.errors import ProvisioningError
from vmacro.provisioning import ansible_inventory, lock, wheels

ROOT = Path(__file__).parents[2]
LOCK = lock.FILE.read_text()
HOST_SIDE = ansible_inventory.playbooks() / "roles/hypervisor/tasks/host_side.yml"


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_has_all_that_the_project_asks_for_and_names_no_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {normal(re.split(r"[^A-Za-z0-9._-]", text)[0]) for text in wanted}
    assert names <= set(lock.entries(LOCK)), "make lock"
    assert not re.search(r"://|index|find-links|file:", LOCK)


def test_what_is_installed_is_what_is_locked() -> None:
    """Or the tests ran with something else than users get: make setup."""
    installed = {normal(d.name): d.version for d in metadata.distributions()}
    other = {n: v for n, v in installed.items() if n in lock.entries(LOCK) and v != lock.version(n)}
    assert {n: v for n, v in other.items() if n != "setuptools"} == {}  # Debian's own, before `make setup`


@pytest.mark.parametrize(
    "line",
    [
        "pyroute2==0.9.7",
        "pyroute2>=0.9 \\\n    --hash=sha256:" + "0" * 64,
        "pyroute2==0.9.7 \\\n    --hash=md5:" + "0" * 32,
        "pyroute2 @ https://files.example/pyroute2.whl",
        "--index-url https://files.example/simple",
        "-e .",
    ],
)
def test_an_entry_without_a_version_and_hashes_is_none(line: str) -> None:
    with pytest.raises(ValueError, match="is no package with a version and hashes"):
        lock.entries(f"{LOCK}{line}\n")


def test_the_lock_is_read_by_any_python_before_anything_is_installed() -> None:
    command = ["/usr/bin/python3", "-I", "-S", lock.__file__, "setuptools", "pyroute2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == lock.of("setuptools", "pyroute2")


# Hosts.


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A wheel of one module, as ours might be."""
    wheel = tmp_path / "wheels/toy-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy.py", "WHO = 'ours'\n")
        archive.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr(
            "toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            "toy-1.0.dist-info/RECORD", "toy.py,,\ntoy-1.0.dist-info/METADATA,,\ntoy-1.0.dist-info/WHEEL,,\n"
        )
    return wheel


def installed_as_on_a_host(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """By the very words of the role, into another place."""
    tasks: list[dict[str, Any]] = yaml.safe_load(HOST_SIDE.read_text())
    (argv,) = [t["ansible.builtin.command"]["argv"] for t in tasks if "hashes, and nothing" in t["name"]]
    words = [word.replace("/opt/vmacro/wheels", str(folder)) for word in argv[1:]]
    command = [sys.executable, "-m", "pip", *words, f"--target={target}"]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_host_installs_what_was_built_here(toy: Path, tmp_path: Path) -> None:
    (toy.parent / "requirements.txt").write_text(wheels.requirements([toy]))
    done = installed_as_on_a_host(toy.parent, tmp_path / "site")
    assert done.returncode == 0 and (tmp_path / "site/toy.py").exists(), done.stderr


def test_a_wheel_that_was_changed_by_one_byte_is_refused(toy: Path, tmp_path: Path) -> None:
    """Anywhere in it; here in its module, which stays valid Python."""
    (toy.parent / "requirements.txt").write_text(wheels.requirements([toy]))
    raw = bytearray(toy.read_bytes())
    raw[raw.index(b"ours")] = ord("y")
    toy.write_bytes(bytes(raw))
    done = installed_as_on_a_host(toy.parent, tmp_path / "site")
    assert done.returncode != 0 and not (tmp_path / "site").exists()
    assert "DO NOT MATCH THE HASHES" in done.stderr, done.stderr


def test_a_wheel_of_which_nobody_knows_the_hash_is_refused(toy: Path, tmp_path: Path) -> None:
    (toy.parent / "requirements.txt").write_text("toy==1.0\n")
    done = installed_as_on_a_host(toy.parent, tmp_path / "site")
    assert done.returncode != 0 and "require-hashes" in done.stderr


def test_others_wheels_are_known_by_the_lock_not_by_what_lies_here(tmp_path: Path) -> None:
    other = tmp_path / f"pyroute2-{lock.version('pyroute2')}-py3-none-any.whl"
    other.write_bytes(b"not pyroute2's")
    assert wheels.requirements([other]) == lock.of("pyroute2")


def test_what_hosts_need_is_not_fetched_by_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the index has under that name."""
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    name = f"pyroute2-{lock.version('pyroute2')}"
    with zipfile.ZipFile(fetched / f"{name}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: pyroute2\nVersion: 0\n")
    monkeypatch.setattr(wheels, "FETCHED", fetched)
    for key in [k for k in os.environ if k.startswith("PIP_")]:
        monkeypatch.delenv(key)
    (tmp_path / "target").mkdir()
    with pytest.raises(ProvisioningError, match="DO NOT MATCH THE HASHES"):
        wheels._build(tmp_path / "target")


def in_the_cache(folder: Path, **more: str) -> list[Path]:
    """Ours, of this vmacro's sources, and what hosts need besides; `more`: other files in it, or other words."""
    ours, other = folder / "vmacro-0.1.0-py3-none-any.whl", folder / "pyroute2-0-py3-none-any.whl"
    files = {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "vmacro/host").glob("*.py")}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    points = "\n".join(["[console_scripts]", *(f"{name} = {where}" for name, where in scripts.items())])
    info = {"METADATA": "Name: vmacro\n", "entry_points.txt": points}
    with zipfile.ZipFile(ours, "w") as archive:
        for name, text in {**files, **{f"vmacro-0.1.0.dist-info/{n}": t for n, t in info.items()}, **more}.items():
            archive.writestr(name, text)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x", "")
    return [other, ours]


@pytest.mark.parametrize(
    "changed",
    [
        "vmacro/host/__main__.py",
        "vmacro/host/new.py",
        "vmacro-0.1.0.dist-info/entry_points.txt",
        "evil.py",
        "vmacro/../x",
        "vmacro-0.1.0.data/scripts/vmacro-host",
    ],
)
def test_our_own_wheel_is_what_our_sources_are_whatever_lies_in_the_cache(tmp_path: Path, changed: str) -> None:
    wheels._check(in_the_cache(tmp_path))
    with pytest.raises(ProvisioningError, match="is not what this vmacro has"):
        wheels._check(in_the_cache(tmp_path, **{changed: "import os\n"}))


def test_a_wheel_is_known_by_all_that_it_has_its_data_too() -> None:
    """Or one with old data would be taken from the cache."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = {p for package, patterns in data.items() for pattern in patterns for p in (ROOT / package).glob(pattern)}
    assert files and files <= set(wheels._everything())


def test_no_other_wheel_is_brought_to_hosts(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(ProvisioningError, match="wheels in the cache"):
        wheels._check([*in_the_cache(tmp_path), toy])


@pytest.mark.skipif(not wheels.FETCHED.is_dir(), reason="`make setup` fetches what hosts need")
def test_wheels_are_built_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an environment from which nothing is reached, and from other machines' settings of pip."""
    monkeypatch.setenv("VMACRO_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for key in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "PIP_PROXY"):
        monkeypatch.setenv(key, "http://127.0.0.1:1")
    names = [wheel.name.split("-")[0] for wheel in wheels.built()]
    assert names == ["pyroute2", "vmacro"]
    assert wheels.requirements(wheels.built()).count("--hash=sha256:") >= 2


def test_the_same_file_tells_what_vmacro_is_made_of(tmp_path: Path) -> None:
    """CycloneDX, by `make sbom`."""
    pytest.importorskip("cyclonedx_py", reason="make setup")
    recipe = re.search(r"^sbom:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    words = recipe[1].replace("\\\n", " ").replace("sbom.json", str(tmp_path / "sbom.json")).split()[1:]
    subprocess.run([sys.executable, "-m", "cyclonedx_py", *words], cwd=ROOT, check=True, capture_output=True)
    told = json.loads((tmp_path / "sbom.json").read_text())
    components = {normal(c["name"]): c for c in told["components"]}
    assert told["bomFormat"] == "CycloneDX" and set(components) == set(lock.entries(LOCK))
    for name, lines in lock.entries(LOCK).items():
        assert components[name]["version"] == lock.version(name)
        hashes = {h["content"] for r in components[name]["externalReferences"] for h in r.get("hashes", ())}
        assert hashes == set(re.findall("sha256:([0-9a-f]{64})", lines))
