"""Where the lab keeps things: all of it outside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import vmacro

CHECKOUT = Path(vmacro.__file__).resolve().parent.parent
RECIPES = CHECKOUT / "images"


def cache_dir() -> Path:
    """Images, built once for a recipe. VMACRO_CACHE overrides."""
    return Path(os.environ.get("VMACRO_CACHE", "/var/cache/vmacro"))


def state_dir() -> Path:
    """What a running lab is made of. VMACRO_STATE overrides."""
    return Path(os.environ.get("VMACRO_STATE", "/var/lib/vmacro"))


def lab_dir(name: str) -> Path:
    return state_dir() / "lab" / name
