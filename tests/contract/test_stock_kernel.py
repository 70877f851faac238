"""The kernel's own WireGuard, and whatever else Debian's kernel does its own way: what guests may send and legs may
carry, once more, in a VM that boots it. No guest runs inside; packets come from network namespaces, as elsewhere.
"""

from __future__ import annotations

import shutil
import sysconfig
import tempfile
from pathlib import Path

import pytest

from vmacro.lab.machines import stock

pytestmark = [pytest.mark.lab, pytest.mark.slow("Debian's stock kernel, under emulation"), pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
CHECKOUT = ("vmacro", "guest_agent", "tests", "playbooks", "pyproject.toml")
FILES = "tests/contract/test_tunnel_ends.py tests/contract/test_tunnels.py tests/contract/test_spoofing.py"
FILES += " tests/contract/test_datagrams.py"
# Emulation is slow, and the rest differs by kinds, addresses and places alone.
SOME = "not vxlan and not over and not an_address_that_is_not_its_own"
# Nothing of the tests needs them, and they are most of all.
HEAVY = ("ansible_collections", "matplotlib", "numpy", "mypy", "mypyc", "PIL", "fontTools", "ansiblelint", "atheris")


def test_legs_and_guests_on_debians_own_kernel() -> None:
    with tempfile.TemporaryDirectory() as checkout, tempfile.TemporaryDirectory() as packages:
        for name in CHECKOUT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(checkout, name), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, checkout)
        light = shutil.ignore_patterns(*HEAVY)
        shutil.copytree(sysconfig.get_path("purelib"), packages, dirs_exist_ok=True, ignore=light)
        command = (
            f"python3 -m pytest -p no:cacheprovider --basetemp /tmp/t -m lab -q -rs --color no {FILES} -k '{SOME}'"
        )
        status, said = stock.run(command, Path(checkout), Path(packages), 3000, lambda text: print(text, flush=True))
    assert status == 0, said[-8000:]
    assert "WireGuard is the kernel's" in said
