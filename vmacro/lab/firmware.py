"""What VMs of hosts boot: Xen out of the tree that provisioning has left, and that tree as a disk; in the cache."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from pathlib import Path

from vmacro.errors import LabError
from vmacro.lab import bootable, images, mounts, process
from vmacro.lab.images import Image
from vmacro.lab.paths import cache_dir

SPARE_MIB = 64  # what an ext4 has besides the files
_MERGE_AND_EXEC = """
set -e
mount -t overlay overlay -o "lowerdir=$1" "$2"
shift 2
exec "$@"
"""


def files(image: Image, layers: tuple[Path, ...], report: images.Report) -> Path:
    """The folder with `xen`, `vmlinuz`, `initrd.gz`, `root.ext4` and `packages.ext4` for these layers of an image, the
    uppermost first. Raises LabError."""
    name = image.recipe.name
    kept = (
        cache_dir()
        / f"firmware-{name}-{images.digest([image.folder.name, layers[0].name, Path(__file__).read_text()])}"
    )
    with images.locked(cache_dir() / f"firmware-{name}.lock"):
        if not kept.is_dir():
            report(f"image {name}: its disk, for VMs")
            part = kept.with_suffix(".part")
            mounts.remove_tree(part)
            part.mkdir()
            for each in ("vmlinuz", "initrd.gz"):
                shutil.copy(image.folder / each, part)
            _hypervisor(layers, part / "xen")
            _root(layers, part / "root.ext4")
            bootable.disk(image.packages, part / "packages.ext4", _size_mib((image.packages,)))
            part.rename(kept)
            images.forget_others(f"firmware-{name}-", kept)
    return kept


def _hypervisor(layers: tuple[Path, ...], target: Path) -> None:
    """Debian packs it; QEMU wants the multiboot ELF file."""
    found = [path for layer in layers for path in sorted(layer.glob("boot/xen-*.gz"))]
    if not found:
        raise LabError(f"{layers[0].name}: has no /boot/xen-*.gz", "does the role `hypervisor` install Xen?")
    target.write_bytes(gzip.decompress(found[0].read_bytes()))


def _root(layers: tuple[Path, ...], target: Path) -> None:
    """mke2fs reads the layers as one tree, in a mount namespace of its own."""
    with tempfile.TemporaryDirectory(dir=cache_dir()) as mount:
        make: list[str | Path] = [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-d",
            mount,
            target,
            f"{_size_mib(layers)}M",
        ]
        merged: list[str | Path] = [
            "unshare",
            "--mount",
            "--propagation=private",
            "sh",
            "-c",
            _MERGE_AND_EXEC,
            "merged",
        ]
        process.run([*merged, ":".join(map(str, layers)), mount, *make])


def _size_mib(trees: tuple[Path, ...]) -> int:
    sizes = (f.lstat().st_size + 4096 for tree in trees for f in tree.rglob("*"))
    return sum(sizes) // (1 << 20) * 5 // 4 + SPARE_MIB
