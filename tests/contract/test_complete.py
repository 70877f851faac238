"""No verb of a port without a contract, and no contract of a verb that there is not."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Protocol

from tests import contract
from vmacro import ports


def test_every_verb_has_a_contract() -> None:
    for module in pkgutil.iter_modules(contract.__path__):
        importlib.import_module(f"{contract.__name__}.{module.name}")
    assert set(contract.CERTIFIED) == verbs()


def verbs() -> set[str]:
    protocols = [c for _, c in inspect.getmembers(ports, inspect.isclass) if Protocol in c.__bases__]
    assert {p.__name__ for p in protocols} >= {"Agent", "Clock", "HostDisks", "HostNetwork", "Hypervisor"}
    return {f"{p.__name__}.{verb}" for p in protocols for verb in vars(p) if not verb.startswith("_")}
