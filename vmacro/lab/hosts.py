"""The lab's hypervisor hosts: Debian 13, booted by systemd-nspawn on an overlay of one shared image.

All mounts live in a mount namespace of the container's own, so that they end with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import uuid
from dataclasses import asdict
from pathlib import Path

from vmacro.errors import LabError
from vmacro.lab import pki, process
from vmacro.lab.images import Image
from vmacro.lab.process import Process
from vmacro.lab.topology import Topology

GUEST_IMAGES = "/var/lib/vmacro/images"  # in a host: the guest image, read-only

# $1 lower, $2 upper, $3 work, $4 merged; the rest is the command. /run may be no tmpfs, and nspawn wants one.
_MOUNT_AND_EXEC = """
set -e
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
shift 4
exec "$@"
"""

_LIBVIRTD = """\
host_uuid = "{uuid}"
unix_sock_group = "libvirt"
auth_unix_rw = "none"
ca_file = "/etc/pki/CA/cacert.pem"
cert_file = "/etc/pki/libvirt/servercert.pem"
key_file = "/etc/pki/libvirt/private/serverkey.pem"
auth_tls = "none"
keepalive_interval = 5
keepalive_count = 5
"""

_QEMU = """\
security_driver = "none"
namespaces = []
migrate_tls_x509_cert_dir = "/etc/pki/qemu"
migrate_tls_x509_verify = 1
migration_host = "{address}"
{cgroups}
"""


class LabHost:
    """One host of a lab. `folder` holds its overlay and its log, and is removed with the lab."""

    def __init__(self, topology: Topology, name: str, folder: Path) -> None:
        self._topology = topology
        self.name = name
        self.folder = folder
        self.address = str(topology.uplink(name).node.ip)

    @property
    def leader(self) -> Process | None:
        """The host's init, seen from outside; None where it does not run."""
        saved = self.folder / "leader.json"
        if not saved.exists():
            return None
        leader = Process(**json.loads(saved.read_text()))
        return leader if leader.alive else None

    def boot(self, image: Image, guest_images: Path, lab: Path) -> None:
        """Start it; libvirtd answers some seconds later. Idempotent."""
        if self.leader is not None:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        upper = self.folder / "upper"
        for name in ("upper", "work", "mount"):
            (self.folder / name).mkdir(parents=True)
        self._configure(upper, image, lab)
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
            *(["--bind=/dev/kvm"] if Path("/dev/kvm").exists() else []),
            f"--bind-ro={guest_images}:{GUEST_IMAGES}",
            f"--network-namespace-path=/run/netns/{self._topology.network_namespace(self.name)}",
            f"--machine=vmacro-{self._topology.name}-{self.name}",
            f"--directory={self.folder / 'mount'}",
        ]
        outer = process.spawn(
            [
                *("env", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1"),
                *("unshare", "--mount", "--propagation=private", "sh", "-c", _MOUNT_AND_EXEC, "vmacro-host"),
                *(image.root, upper, self.folder / "work", self.folder / "mount"),
                *command,
            ],
            self.folder / "console.log",
        )
        (self.folder / "outer.json").write_text(json.dumps(asdict(outer)))
        self._note_leader(outer)

    def stop(self) -> None:
        """At once, as when power fails: its init ends, and with it everything inside. Idempotent."""
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

    def _note_leader(self, outer: Process) -> None:
        """nspawn's only child is the container's init."""
        deadline = time.monotonic() + 30
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        while time.monotonic() < deadline:
            if not outer.alive:
                raise LabError(f"host {self.name} did not start: {self.console()}")
            for pid in children.read_text().split():
                inits = Path(f"/proc/{pid}/root/usr/lib/systemd/systemd")
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd" and inits.exists():
                    leader = process.identify(int(pid))
                    (self.folder / "leader.json").write_text(json.dumps(asdict(leader)))
                    return
            time.sleep(0.02)
        raise LabError(f"host {self.name}: its init did not show up in 30 s: {self.console()}")

    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace")[-1500:]

    def _configure(self, upper: Path, image: Image, lab: Path) -> None:
        """What makes this host itself, laid over the image."""
        etc = upper / "etc"
        _write(etc / "machine-id", uuid.uuid4().hex + "\n")
        _write(etc / "hostname", self.name + "\n")
        names = [f"{self._topology.uplink(s).node.ip} {s}\n" for s in self._topology.sites]
        _write(etc / "hosts", "127.0.0.1 localhost\n" + "".join(names))
        _write(etc / "libvirt/libvirtd.conf", _LIBVIRTD.format(uuid=uuid.uuid4()))
        # A container sees cgroup v1 hierarchies read-only; libvirt would fail to make its own there.
        legacy = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
        cgroups = "cgroup_controllers = []" if legacy else ""
        _write(etc / "libvirt/qemu.conf", _QEMU.format(address=self.address, cgroups=cgroups))
        self._certificates(etc / "pki", image, lab / "pki")
        ssh = etc / "ssh/ssh_host_ed25519_key"
        public = pki.ssh_key(ssh, self.name)
        known = lab / "ssh/known_hosts"
        line = f"{self.name},{self.address} {public.rsplit(' ', 1)[0]}\n"
        others = [k for k in _lines(known) if not k.startswith(f"{self.name},")]
        _write(known, "".join([*others, line]))
        _write(upper / "root/.ssh/authorized_keys", pki.ssh_key(lab / "ssh/id_ed25519", "vmacro lab") + "\n")
        (upper / "root/.ssh").chmod(0o700)
        (upper / "root").chmod(0o700)

    def _certificates(self, target: Path, image: Image, ca_folder: Path) -> None:
        ca = pki.authority(ca_folder, self._topology.name)
        key, certificate = pki.issue(ca, self.name, [self.address])
        ca_pem = (ca_folder / "cacert.pem").read_bytes()
        qemu_user = _user_id(image.root, "libvirt-qemu")
        _write(target / "CA/cacert.pem", ca_pem)
        for role in ("server", "client"):
            _write(target / f"libvirt/{role}cert.pem", certificate)
            _write_key(target / f"libvirt/private/{role}key.pem", key, owner=0)
            _write(target / f"qemu/{role}-cert.pem", certificate)
            _write_key(target / f"qemu/{role}-key.pem", key, owner=qemu_user)
        _write(target / "qemu/ca-cert.pem", ca_pem)


def _user_id(root: Path, name: str) -> int:
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2])
    raise LabError(f"the host image has no user {name}", "is libvirt-daemon-system among its packages?")


def _write(path: Path, data: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def _write_key(path: Path, data: bytes, owner: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pki.write_private(path, data)
    os.chown(path, owner, 0)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.exists() else []
