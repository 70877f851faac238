"""A machine as a container: bare Debian, booted by systemd-nspawn on an overlay of shared layers; the playbooks do
the rest, as they do for real ones.

All mounts live in a mount namespace of the container's own, so that they end with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vmacro.errors import LabError
from vmacro.lab import cgroups, process
from vmacro.lab.machines import PACKAGES, BaseLayers, identity
from vmacro.lab.process import Process
from vmacro.lab.topology import Topology

# $1 lower, $2 upper, $3 work, $4 merged, $5 cgroups; the rest is the command. /run may be no tmpfs, which nspawn wants.
_MOUNT_AND_EXEC = """
set -e
for cgroup in $5; do echo $$ > "$cgroup/cgroup.procs"; done
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
shift 5
exec "$@"
"""


class Container:
    """Implements machines.Machine. `folder` holds its overlay and its log, and is removed with the lab. `kvm`: it has
    this machine's."""

    def __init__(self, topology: Topology, name: str, folder: Path, kvm: bool = False) -> None:
        self._topology = topology
        self.name = name
        self.folder = folder
        self.kvm = kvm
        self.address = str(topology.uplink(name).node.ip)

    @property
    def leader(self) -> Process | None:
        """Its init, seen from outside."""
        saved = self.folder / "leader.json"
        if not saved.exists():
            return None
        leader = Process(**json.loads(saved.read_text()))
        return leader if leader.alive else None

    def boot(self, base: BaseLayers, binds: dict[str, Path], lab: Path, kept: Path | None = None) -> None:
        """See Machine."""
        if self.leader is not None:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        upper = self.folder / "upper"
        for name in ("work", "mount"):
            (self.folder / name).mkdir(parents=True)
        if kept is not None:
            process.run(["cp", "-a", kept, upper])
        else:
            identity.write(upper, self.name, self.address, lab)
        command = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--capability=all",
            "--bind=/dev/net/tun",
            # Only where guests use it: udev in there would give the machine's device to a group of the host's, and a
            # libvirt that sees a KVM that its guests may not open asks QEMU for its capabilities anew at every turn.
            *(["--bind=/dev/kvm"] if self.kvm else []),
            *(f"--bind-ro={folder}:{seen}" for seen, folder in [(PACKAGES, base.packages), *binds.items()]),
            f"--network-namespace-path=/run/netns/{self._topology.network_namespace(self.name)}",
            f"--machine={self._global_name}",
            f"--directory={self.folder / 'mount'}",
        ]
        outer = process.spawn(
            [
                *("env", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1"),
                *("unshare", "--mount", "--propagation=private", "sh", "-c", _MOUNT_AND_EXEC, "vmacro-host"),
                *(":".join(map(str, base.layers)), upper, self.folder / "work", self.folder / "mount"),
                " ".join(map(str, cgroups.make(self._global_name))),
                *command,
            ],
            self.folder / "console.log",
        )
        (self.folder / "outer.json").write_text(json.dumps(asdict(outer)))
        self._note_leader(outer)

    def stop(self) -> None:
        """Its init ends, and with it everything inside."""
        leader = self.leader
        if leader is not None:
            os.kill(leader.pid, signal.SIGKILL)
        saved = self.folder / "outer.json"
        if saved.exists():
            outer = Process(**json.loads(saved.read_text()))
            deadline = time.monotonic() + 10
            while outer.alive and time.monotonic() < deadline:
                time.sleep(0.02)
            outer.end()
        cgroups.remove(self._global_name)

    @property
    def _global_name(self) -> str:
        return f"vmacro-{self._topology.name}-{self.name}"

    def keep(self, to: Path) -> None:
        """See Machine."""
        process.run(["cp", "-a", self.folder / "upper", to])

    def _note_leader(self, outer: Process) -> None:
        """nspawn's only child is the container's init."""
        deadline = time.monotonic() + 30
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        while time.monotonic() < deadline:
            if not outer.alive:
                raise LabError(f"host {self.name} did not start: {self.console()}")
            leader = _init_among(children)
            if leader is not None:
                (self.folder / "leader.json").write_text(json.dumps(asdict(leader)))
                return
            time.sleep(0.02)
        raise LabError(f"host {self.name}: its init did not show up in 30 s: {self.console()}")

    def console(self) -> str:
        """See Machine."""
        log = self.folder / "console.log"
        return log.read_text(errors="replace")[-1500:] if log.exists() else ""

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """See Machine."""
        return ["nsenter", "-t", str(self._running.pid), "-a", *map(str, command)]

    def put(self, file: Path, path: Path) -> None:
        """See Machine."""
        seen = Path(f"/proc/{self._running.pid}/root") / path.relative_to("/")
        process.run(["cp", "--sparse=always", file, seen])

    @property
    def _running(self) -> Process:
        leader = self.leader
        if leader is None:
            raise LabError(f"machine {self.name}: does not run", f"its console ends with: {self.console()[-400:]}")
        return leader


def _init_among(children: Path) -> Process | None:
    """The systemd among a process's children (proc_pid_task(5)); nspawn's helpers come and go meanwhile."""
    try:
        for pid in children.read_text().split():
            inits = Path(f"/proc/{pid}/root/usr/lib/systemd/systemd")
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd" and inits.exists():
                return process.identify(int(pid))
    except (FileNotFoundError, ProcessLookupError, LabError):
        pass  # one has just ended: the next look tells
    return None
