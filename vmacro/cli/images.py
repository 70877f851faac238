"""image build, image list."""

from __future__ import annotations

from typing import Annotated

import typer

from vmacro.cli import render
from vmacro.lab import images, requirements

app = typer.Typer(help="Images of hosts and guests, from the recipes in images/.", no_args_is_help=True)


@app.command()
def build(names: Annotated[list[str] | None, typer.Argument(help="recipes; default: all")] = None) -> None:
    """Build what is not in the cache yet."""
    requirements.require_root("image build")
    for name in names or [r.name for r in images.recipes()]:
        images.build(name, render.say)


@app.command("list")
def list_images(json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Recipes, and whether the cache has them."""
    found = [images.image(r.name) for r in images.recipes()]
    rows = [(i.recipe.name, i.recipe.kind, i.recipe.suite, i.built, str(i.folder)) for i in found]
    columns = ("image", "kind", "suite", "built", "folder")
    if json:
        render.as_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))
