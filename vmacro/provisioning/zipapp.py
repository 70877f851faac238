"""A program as one file: its packages, and what they import, under a line that names the interpreter."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

MAIN = "import sys\nfrom {module} import main\nsys.exit(main())\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content is the same file


def copy(source: Path, target: Path, skip: tuple[str, ...] = ()) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", *skip))


def pack(tree: Path, module: str, target: Path) -> Path:
    """`tree`, with `main` of `module` as what is run. Returns target."""
    (tree / "__main__.py").write_text(MAIN.format(module=module))
    target.write_bytes(b"#!/usr/bin/python3\n")
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in tree.rglob("*") if p.is_file()):
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(tree)), EPOCH), path.read_bytes())
    target.chmod(0o755)
    return target
