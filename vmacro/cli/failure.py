"""What a program is told of a failure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vmacro.errors import VmacroError
from vmacro.model.moves import StoppedError


def plain(error: VmacroError) -> dict[str, Any]:
    """With `findings` where the checks have refused a move, each as `vmacro check --json` has it."""
    found = {"findings": [asdict(f) for f in error.findings]} if isinstance(error, StoppedError) else {}
    return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code, **found}
