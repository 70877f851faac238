"""A folder that apt installs from: what a bare host needs to become a hypervisor, and no more."""

from __future__ import annotations

import shutil
from pathlib import Path

from vmacro.lab import process


def build(base: Path, packages: tuple[str, ...], sources: list[str], keyring: Path, target: Path) -> None:
    """`packages` and all that they need beyond what `base` has installed. Raises LabError."""
    work = target.with_suffix(".apt")
    shutil.rmtree(work, ignore_errors=True)
    for name in ("state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "sources.list").write_text(
        "".join(line.replace("deb ", f"deb [signed-by={keyring}] ", 1) + "\n" for line in sources)
    )
    options = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": work / "state",
        "Dir::State::Status": base / "var/lib/dpkg/status",
        "Dir::Cache": work / "cache",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    process.run([*apt, "update"], timeout_s=600)
    process.run([*apt, "install", "--yes", "--download-only", *packages], timeout_s=1500)
    target.mkdir(parents=True, exist_ok=True)
    for package in (work / "cache/archives").glob("*.deb"):
        package.rename(target / package.name)
    (target / "Packages").write_text(process.run(["sh", "-c", 'cd "$1" && apt-ftparchive packages .', "sh", target]))
    shutil.rmtree(work)
