"""Recipes of images, as they stand in the tree."""

from __future__ import annotations

import os

import pytest

from vmacro.lab import images

RECIPES = {recipe.name: recipe for recipe in images.recipes()}


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.kind != "host"])
def test_what_boots_has_something_to_begin_with(name: str) -> None:
    """A link that was flattened on its way here is a file, too."""
    init = RECIPES[name].init
    assert os.access(init, os.X_OK) and init.read_text().startswith("#!/bin/busybox sh\n")
