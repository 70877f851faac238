"""Machines of a lab: where hosts, and clients that are machines, run. They are containers, or VMs that boot Xen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmacro.lab import repository
from vmacro.lab.process import Process

GUEST_IMAGES = "/var/lib/vmacro/images"  # in a machine: the guest images, read-only
PACKAGES = f"/{repository.FOLDER}"  # in a machine: what apt installs from


@dataclass(frozen=True)
class Firmware:
    """What a VM boots. `files`: a folder with `xen`, `vmlinuz`, `initrd.gz`, its tree as `root.ext4` and its packages
    as `packages.ext4`; `emulator`: the trees in which its QEMU is."""

    files: Path
    emulator: tuple[Path, ...]


@dataclass(frozen=True)
class BaseLayers:
    """What a machine boots from, the uppermost layer first, and the packages that apt finds there. `firmware`: of
    machines that are VMs."""

    layers: tuple[Path, ...]
    packages: Path
    firmware: Firmware | None = None


class Machine(Protocol):
    """One machine, whether it runs or not. Its network is the namespace of its node; nothing of it outlives stop()
    but files in the lab's folder."""

    @property
    def name(self) -> str:
        """Its node in the topology."""

    @property
    def address(self) -> str:
        """Its IPv4 address at the WAN's edge."""

    @property
    def leader(self) -> Process | None:
        """A process of the machine below that ends when this machine does; None while it does not run."""

    def boot(self, base: BaseLayers, binds: dict[str, Path], lab: Path, kept: Path | None = None) -> None:
        """Start it; SSH answers some seconds later. Idempotent. Raises LabError.

        `binds`: folders that it sees, read-only, by where it sees them. `kept`: what keep() has copied once. `lab`: the
        lab's folder, with the SSH keys that it lets in, and where its own becomes known.
        """

    def stop(self) -> None:
        """Stop it at once, as if its power failed. Idempotent."""

    def keep(self, to: Path) -> None:
        """Copy everything that is its own on disk, as it is now. Raises LabError."""

    def console(self) -> str:
        """The end of what it wrote to its console."""

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """The command to run here so that `command` runs in it. Raises LabError while it does not run."""

    def put(self, file: Path, path: Path) -> None:
        """Copy a file into it; a sparse file stays sparse. Raises LabError."""
