"""Where the lab keeps things; all of it is outside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import vmacro

CHECKOUT = Path(vmacro.__file__).resolve().parent.parent
RECIPES = CHECKOUT / "images"


def cache_dir() -> Path:
    """Images, built once per recipe. The environment's VMACRO_CACHE overrides it."""
    return Path(os.environ.get("VMACRO_CACHE", "/var/cache/vmacro"))


def state_dir() -> Path:
    """Running labs. The environment's VMACRO_STATE overrides it."""
    return Path(os.environ.get("VMACRO_STATE", "/var/lib/vmacro"))


def lab_dir(name: str) -> Path:
    """One lab's folder."""
    return state_dir() / "lab" / name


def names() -> list[str]:
    """Labs that are up."""
    return sorted(p.parent.name for p in (state_dir() / "lab").glob("*/topology.toml"))
