"""Folders that apt installs from: what a bare host needs to become a hypervisor, and no more."""

from __future__ import annotations

import shutil
from pathlib import Path

from vmacro.lab import process

MAIN, BACKPORTS = "main", "backports"
FOLDER = "srv/packages"  # where machines see them


def source_lines(backports: bool) -> str:
    """sources.list(5) of a machine that has the folders."""
    folders = [MAIN, *([BACKPORTS] if backports else [])]
    return "".join(f"deb [trusted=yes] file:/{FOLDER}/{folder} ./\n" for folder in folders)


def build(
    base: Path,
    packages: tuple[str, ...],
    suite: str,
    backports: bool,
    sources: list[str],
    keyring: Path,
    target: Path,
) -> None:
    """`packages` and all that they need beyond what `base` has installed; what is from backports in a folder of its
    own, a release that must be asked for as Debian's must. Raises LabError."""
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
    apt += ["-t", f"{suite}-backports"] if backports else []
    process.run([*apt, "install", "--yes", "--download-only", *packages], timeout_s=1500)
    for folder in (MAIN, BACKPORTS):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for package in (work / "cache/archives").glob("*.deb"):
        package.rename(target / (BACKPORTS if "~bpo" in package.name else MAIN) / package.name)
    for folder, release in ((MAIN, suite), (BACKPORTS, f"{suite}-backports")):
        _index(target / folder, release, automatic=folder == MAIN)
    shutil.rmtree(work)


def _index(folder: Path, release: str, automatic: bool) -> None:
    inside = ["sh", "-c", 'cd "$1" && shift && exec apt-ftparchive "$@"', "sh", str(folder)]
    (folder / "Packages").write_text(process.run([*inside, "packages", "."]))
    fields = {"Suite": release, "Codename": release}
    fields |= {} if automatic else {"NotAutomatic": "yes", "ButAutomaticUpgrades": "yes"}
    options = [f"-oAPT::FTPArchive::Release::{key}={value}" for key, value in fields.items()]
    (folder / "Release").write_text(process.run([*inside, *options, "release", "."]))
