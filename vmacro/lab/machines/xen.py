"""A machine as a VM that boots Xen and, in its first domain, Debian: under QEMU's emulation, which needs no KVM and has
the virtualisation of AMD's processors, so that Xen can run guests.

Its tree is shared and read-only; what is its own lies on a disk of its own, on top (images/xen12/init). It has the
uplink of its node by a tap, and the address too. Its QEMU is that of the lab's other hosts, in their tree.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vmacro.errors import LabError
from vmacro.lab import bootable, namespaces, process
from vmacro.lab.machines import PACKAGES, BaseLayers, access, identity
from vmacro.lab.process import Process
from vmacro.lab.topology import Topology

MEMORY_MIB, DOM0_MIB = 768, 448
OWN_DISK_MIB, MARGIN_MIB = 4096, 16
UPLINK = "uplink"
# Lazy switching of the FPU corrupts dom0's memory under emulation. What else costs time defends against processors that
# are none.
XEN_WORDS = "spec-ctrl=no,eager-fpu xpti=no pv-l1tf=no"
# Where several labs boot at once, a unit may take minutes. Each line on the console costs time.
DOM0_WORDS = (
    "console=hvc0 quiet systemd.show_status=0 panic=1 mitigations=off net.ifnames=0 "
    "systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900"
)
# QEMU emulates AMD's virtualisation and no other. Under EPYC Xen panics; under this one PVH guests stop at once.
# What it lacks for TLS is added, since AES in ordinary instructions would be most of a copy.
PROCESSOR = "Opteron_G3,-misalignsse,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+aes,+pclmulqdq"
# libvirt 9 wants a model of which the host has every feature. Each has `sep` or `vme`: Xen hides the first on AMD's
# processors, and QEMU does not emulate the second.
CPU_MODEL = """\
<cpus>
  <model name='486'>
    <decode host='on' guest='on'/>
    <feature name='fpu'/>
    <feature name='pse'/>
  </model>
</cpus>
"""
OWN_FILES = {
    "usr/share/libvirt/cpu_map/x86_486.xml": CPU_MODEL,
    # By itself it ends when nobody asks for a while; under emulation its start takes ten seconds and more.
    "etc/default/libvirtd": 'LIBVIRTD_ARGS=""\n',
}
TRANSLATED_CODE_MIB = 128
# $1 lower layers, $2 merged, $3 the shared files, $4 the VM's own folder; the rest is the command.
_ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=$1" "$2"
mount --bind /dev "$2/dev"
mount --bind "$3" "$2/srv"
mount --bind "$4" "$2/mnt"
root=$2
shift 4
exec chroot "$root" "$@"
"""


class XenHost:
    """Implements machines.Machine. `folder` holds its own disk and its log, and is removed with the lab."""

    def __init__(self, topology: Topology, name: str, folder: Path) -> None:
        self._topology = topology
        self.name = name
        self.folder = folder
        self.address = str(topology.uplink(name).node.ip)

    @property
    def leader(self) -> Process | None:
        """Its QEMU."""
        saved = self.folder / "leader.json"
        if not saved.exists():
            return None
        leader = Process(**json.loads(saved.read_text()))
        return leader if leader.alive else None

    def boot(self, base: BaseLayers, binds: dict[str, Path], lab: Path, kept: Path | None = None) -> None:
        """See Machine."""
        if self.leader is not None:
            return
        if base.firmware is None or kept is None:
            raise LabError(f"host {self.name}: nothing to boot from: it has to be provisioned first, as a container")
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "mount").mkdir(parents=True)
        self.write_own_disk(kept, sorted(binds))
        disks = ["/srv/root.ext4", "/mnt/own.ext4", "/srv/packages.ext4", *self.shared_disks(binds)]
        command: list[str | Path] = [
            *("ip", "netns", "exec", self._topology.network_namespace(self.name)),
            *("unshare", "--mount", "--propagation=private", "sh", "-c", _ENTER, "vmacro-host"),
            *(":".join(map(str, base.firmware.emulator)), self.folder / "mount", base.firmware.files, self.folder),
            *self.command_line(disks),
        ]
        leader = process.spawn(command, self.folder / "qemu.log")
        (self.folder / "leader.json").write_text(json.dumps(asdict(leader)))

    def command_line(self, disks: Sequence[str]) -> list[str]:
        """QEMU's, with the VM's files at /srv and /mnt, as boot() arranges them. Xen is a multiboot kernel, with dom0's
        kernel and initramfs as its modules."""
        drives = [
            word
            for number, path in enumerate(disks)
            for word in (
                *("-drive", f"file={path},if=none,id=d{number},format=raw,readonly={'off' if number == 1 else 'on'}"),
                *("-device", f"virtio-blk-pci,drive=d{number},serial={Path(path).stem}"),
            )
        ]
        network = f"virtio-net-pci,netdev=n0,mac={self._topology.host_mac(self.name)},romfile="
        xen = f"dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M com1=115200,8n1 console=com1 guest_loglvl=info {XEN_WORDS}"
        return [
            *("qemu-system-x86_64", "-name", f"vmacro-{self._topology.name}-{self.name}", "-uuid", str(self._uuid)),
            *("-accel", f"tcg,thread=multi,tb-size={TRANSLATED_CODE_MIB}", "-machine", "q35", "-cpu", PROCESSOR),
            *("-m", str(MEMORY_MIB), "-smp", "1", "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-chardev", "socket,id=c0,path=/mnt/console,server=on,wait=off,logfile=/mnt/console.log"),
            *("-serial", "chardev:c0", "-device", "virtio-rng-pci"),
            *("-kernel", "/srv/xen", "-append", xen, "-initrd", f"/srv/vmlinuz {DOM0_WORDS},/srv/initrd.gz"),
            *drives,
            *("-netdev", f"tap,id=n0,ifname={namespaces.TAP},script=no,downscript=no", "-device", network),
        ]

    def stop(self) -> None:
        """See Machine."""
        leader = self.leader
        if leader is not None:
            os.kill(leader.pid, signal.SIGKILL)
            leader.end()

    def keep(self, to: Path) -> None:
        """See Machine. What it has once it has booted Xen lies on its disk, which is the lab's alone."""
        raise LabError(f"machine {self.name}: is kept as a container, before it boots Xen")

    def console(self) -> str:
        """See Machine."""
        logs = [self.folder / name for name in ("qemu.log", "console.log")]
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())[-1500:]

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """See Machine. By SSH."""
        if self.leader is None:
            raise LabError(f"machine {self.name}: does not run", f"its console ends with: {self.console()[-400:]}")
        return access.by_ssh(self._topology, self.address, self.folder.parents[1], [shlex.join(map(str, command))])

    def put(self, file: Path, path: Path) -> None:
        """See Machine."""
        raise LabError(f"machine {self.name}: takes no {file.name}", "guests with a disk of their own run on KVM hosts")

    @property
    def _uuid(self) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{self._topology.name}.hosts.vmacro")

    def write_own_disk(self, kept: Path, seen: Sequence[str]) -> None:
        """`kept`: what it has of its own, as a container has left it. `seen`: where it sees the folders of
        shared_disks()."""
        tree = self.folder / "own"
        (tree / "work").mkdir(parents=True)
        upper = tree / "upper"
        process.run(["cp", "-a", kept, upper])
        uplink = self._topology.uplink(self.name)
        match = f"[Match]\nMACAddress={self._topology.host_mac(self.name)}\n"
        units = upper / "etc/systemd/network"
        identity.put(units / "10-uplink.link", f"{match}[Link]\nName={UPLINK}\n")
        addresses = f"[Network]\nAddress={uplink.node}\nGateway={uplink.router.ip}\nLinkLocalAddressing=no\n"
        identity.put(units / "10-uplink.network", f"[Match]\nName={UPLINK}\n{addresses}")
        mounted = {"packages": PACKAGES} | {f"files-{number}": path for number, path in enumerate(seen)}
        lines = [
            f"/dev/disk/by-id/virtio-{disk} {path} ext4 ro,nofail,x-systemd.device-timeout=900 0 0\n"
            for disk, path in mounted.items()
        ]
        identity.put(upper / "etc/fstab", "".join(lines))
        for path, text in OWN_FILES.items():
            identity.put(upper / path, text)
        bootable.disk(tree, self.folder / "own.ext4", OWN_DISK_MIB, writable=True)
        shutil.rmtree(tree)

    def shared_disks(self, binds: dict[str, Path]) -> list[str]:
        """Folders that it sees, as disks with their files; a root file system among these is a disk by itself, since
        Xen gives a guest block devices only."""
        made = []
        for number, seen in enumerate(sorted(binds)):
            tree = self.folder / "files"
            tree.mkdir()
            files = [f for f in binds[seen].iterdir() if f.is_file()]
            for file in files:
                target = self.folder / f"{Path(seen).name}.ext4" if file.suffix == ".ext4" else tree / file.name
                process.run(["cp", "--sparse=always", file, target])
                made += [f"/mnt/{target.name}"] if file.suffix == ".ext4" else []
            size_mib = sum(f.stat().st_size for f in tree.iterdir()) // (1 << 20) + MARGIN_MIB
            bootable.disk(tree, self.folder / f"files-{number}.ext4", size_mib)
            shutil.rmtree(tree)
            made.append(f"/mnt/files-{number}.ext4")
        return made
