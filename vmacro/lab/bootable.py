"""What a guest boots from: its kernel, our own initrd, and a disk with its root file system."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path

from vmacro.lab import process


def finish(root: Path, init: Path, modules: Sequence[str], size_mib: int, writable: bool, work: Path) -> None:
    """Make `vmlinuz`, `initrd.gz` and the sparse `root.ext4` in `work` from the tree `root`. Raises LabError."""
    kernel(root, init, modules, work)
    disk(root, work / "root.ext4", size_mib, writable)


def kernel(root: Path, init: Path, modules: Sequence[str], work: Path) -> None:
    """Make `vmlinuz` and `initrd.gz` in `work`. Raises LabError."""
    (found,) = (root / "boot").glob("vmlinuz-*")
    shutil.copy(found, work / "vmlinuz")
    _initrd(root, init, modules, found.name.removeprefix("vmlinuz-"), work)


def disk(tree: Path, file: Path, size_mib: int, writable: bool = False, label: str = "") -> None:
    """An ext4 with what is in `tree`, in a sparse file; one that is written to has a journal. Raises LabError."""
    features = [] if writable else ["-O", "^has_journal"]
    process.run(["mke2fs", "-q", "-t", "ext4", *features, "-L", label, "-d", tree, file, f"{size_mib}M"])


def _initrd(root: Path, init: Path, modules: Sequence[str], release: str, work: Path) -> None:
    tree = work / "initrd"
    for name in ("bin", "dev", "proc", "modules", "lower", "upper", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(root / "usr/bin/busybox", tree / "bin/busybox")
    shutil.copy(init, tree / "init")
    for number, file in enumerate(_with_needs(root / "lib/modules" / release, modules)):
        numbered = tree / "modules" / f"{number:02}-{file.name}"
        shutil.copy(file, numbered)
        if file.suffix == ".xz":  # since Debian 13
            process.run(["xz", "-d", numbered])
    names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*"))) + "\n"
    process.run(["cpio", "-o", "-H", "newc", "--quiet", "-D", tree, "-F", work / "initrd.cpio"], input=names)
    with gzip.open(work / "initrd.gz", "wb", compresslevel=1) as packed_file:
        packed_file.write((work / "initrd.cpio").read_bytes())
    (work / "initrd.cpio").unlink()


def _with_needs(tree: Path, modules: Sequence[str]) -> list[Path]:
    """The files of kernel modules, each after those that it needs (modules.dep(5), where the needs of a module are in
    reverse order)."""
    needs = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name.removeprefix("kernel/").partition(".ko")[0]] = [*reversed(rest.split()), name]
    return [tree / name for name in dict.fromkeys(name for module in modules for name in needs[module])]
