"""A Python program as one file: its packages and what they import, zipped, after a line that names the interpreter."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

_MAIN = "import sys\nfrom {module} import main\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # so that the same content gives the same file


def copy(source: Path, target: Path, skip: tuple[str, ...] = ()) -> None:
    """A package's folder without byte code and without what matches `skip` (patterns of shutil.ignore_patterns)."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", *skip))


def pack(tree: Path, module: str, target: Path) -> Path:
    """Make `target` from the folder `tree`, not compressed, as that starts faster; running it calls `main` of `module`.
    Returns target."""
    (tree / "__main__.py").write_text(_MAIN.format(module=module))
    target.write_bytes(b"#!/usr/bin/python3\n")
    with zipfile.ZipFile(target, "a", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in tree.rglob("*") if p.is_file()):
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(tree)), _EPOCH), path.read_bytes())
    target.chmod(0o755)
    return target
