"""From bare hosts to such as guests may come to: they boot, and the playbooks do the rest over SSH, as for real ones.

Two things are kept, so that this need not be done again while nothing changes: what installing packages leaves, the
same for every host, as a layer between the bare tree and a host's own; and the hosts of a topology, ready.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmacro import inventory
from vmacro.errors import LabError
from vmacro.lab import firmware, images, inventories, mounts, namespaces, process, topology
from vmacro.lab.images import Image
from vmacro.lab.machines import BaseLayers, Firmware, Machine
from vmacro.lab.machines.container import Container
from vmacro.lab.machines.xen import XenHost
from vmacro.lab.paths import cache_dir
from vmacro.lab.topology import OPERATOR, Topology
from vmacro.pki import names as certified
from vmacro.pki import store as pki
from vmacro.provisioning import ansible_inventory, runner, wheels
from vmacro.provisioning.runner import Options, Task

SSH_DEADLINE_S, VM_SSH_DEADLINE_S = 90.0, 600.0  # several labs may boot at once, under emulation
SLOW_TAGS = ("packages", "host_side")
TOLD_EVERY_S = 5.0
# What a host has of its own, and its layer must not.
_OWN = ("etc/machine-id", "etc/hostname", "etc/hosts", "root/.ssh", "var/lib/systemd", "var/lib/libvirt/dnsmasq")
_OF_A_LAB = ("inventory.toml", "pki", "operator", "ssh")
Report = Callable[[str], None]


def base_layers(shape: Topology, report: Report) -> dict[str, BaseLayers]:
    """Of each machine: hosts boot with their packages installed, others bare."""
    built = _built(shape, report)
    hosts = {name: installed(built[name], report) for name in sorted({shape.image(h) for h in shape.hosts})}
    if shape.hypervisor == "xen":
        emulator = installed(images.build(topology.HOST_IMAGES[13], report), report).layers
        hosts = {
            name: replace(base, firmware=Firmware(firmware.files(built[name], base.layers, report), emulator))
            for name, base in hosts.items()
        }
    return {m: hosts[shape.image(m)] if m in shape.hosts else bare(built[shape.image(m)]) for m in shape.machines}


def untouched(shape: Topology, report: Report) -> dict[str, BaseLayers]:
    """Of each machine: as a provider hands it over."""
    built = _built(shape, report)
    return {machine: bare(built[shape.image(machine)]) for machine in shape.machines}


def _built(shape: Topology, report: Report) -> dict[str, Image]:
    return {name: images.build(name, report) for name in sorted({shape.image(m) for m in shape.machines})}


def bare(image: Image) -> BaseLayers:
    """An image's tree as it is, without further packages."""
    return BaseLayers((image.root,), image.packages)


def installed(image: Image, report: Report) -> BaseLayers:
    """What a host of it boots from: its packages are there."""
    kept = cache_dir() / f"layer-{image.recipe.name}-{_key(image)}"
    with images.locked(cache_dir() / "layer.lock"):
        if not kept.is_dir():
            report("hosts: provisioning a bare one, to keep what that installs (a minute)")
            _keep_installed(image, kept, report)
            images.forget_others(f"layer-{image.recipe.name}-", kept)
    return BaseLayers((kept, image.root), image.packages)


def ready_hosts(shape: Topology, layers: Mapping[str, BaseLayers], inventory_text: str) -> Path:
    """Where the hosts of such a lab are kept, if they are."""
    role = ansible_inventory.playbooks() / "roles/hypervisor"
    files = [p.read_text() for p in sorted(role.rglob("*")) if p.is_file()]
    files.append(Path(ansible_inventory.__file__).read_text())
    lowest = [str(base.layers[0]) for base in layers.values()]
    return cache_dir() / f"hosts-{shape.name}-{images.digest([*lowest, inventory_text, *files])}"


def keep(shape: Topology, folder: Path, kept: Path) -> None:
    """Hosts that have just been provisioned, as they are on disk, with the keys by which they are known."""
    part = kept.with_suffix(".part")
    mounts.remove_tree(part)
    part.mkdir(mode=0o700)
    for name in shape.machines:
        machine(shape, name, folder).keep(part / name)
    for name in _OF_A_LAB:
        process.run(["cp", "-a", folder / name, part / name])
    mounts.remove_tree(kept)
    part.rename(kept)


def usable(kept: Path) -> bool:
    """They are there, and their certificates are good for a while."""
    stores = pki.stores(kept / "pki").values()
    return kept.is_dir() and all(c.days_left > pki.RENEW_DAYS for store in stores for c in store.issued())


def restore(folder: Path, kept: Path) -> None:
    """Put back what a lab with kept hosts has besides them: keys and certificates."""
    for name in _OF_A_LAB:
        process.run(["cp", "-aT", kept / name, folder / name])


def boot(
    shape: Topology,
    folder: Path,
    layers: Mapping[str, BaseLayers],
    binds: dict[str, Path],
    kvm: bool = False,
    kept: Path | None = None,
) -> None:
    """Machines that let us in by SSH, bare or as they were `kept`. Idempotent. Raises LabError."""
    machines = [machine(shape, name, folder, kvm) for name in shape.machines]
    for each in machines:
        each.boot(layers[each.name], binds, folder, kept / each.name if kept is not None else None)
    for each in machines:
        _wait_for_ssh(shape, each)


def stop(shape: Topology, folder: Path) -> None:
    """All machines, as they are; what they have on disk stays."""
    for name in shape.machines:
        machine(shape, name, folder).stop()


def machine(shape: Topology, name: str, folder: Path, kvm: bool = False) -> Machine:
    """Of the kind that the topology says; `folder` is the lab's."""
    own = folder / "hosts" / name
    return XenHost(shape, name, own) if shape.runs_xen(name) else Container(shape, name, own, kvm)


def provision(shape: Topology, folder: Path, options: Options, report: Report) -> runner.Recap:
    """`vmacro provision hosts`, from the operator's place. Raises ProvisioningError."""
    settings = inventory.load(folder / "inventory.toml")
    pki.init(folder / "pki", f"vmacro lab {shape.name}")
    pki.stores(folder / "pki")[certified.LIBVIRT].issue_pair(folder / "operator", certified.OPERATOR, ())
    machines = ansible_inventory.derived(settings, ansible_inventory.parts())
    return _run(shape, folder, "hosts", machines, options, report)


def provision_guests(shape: Topology, folder: Path, addresses: dict[str, str], report: Report) -> runner.Recap:
    """`vmacro provision guests`, of those of which an address is given. Raises ProvisioningError."""
    settings = inventory.load(folder / "inventory.toml")
    machines = ansible_inventory.derived(settings, ansible_inventory.parts(), addresses)
    return _run(shape, folder, "guests", machines, Options(limit=tuple(addresses)), report)


def _run(
    shape: Topology, folder: Path, playbook: str, machines: dict[str, Any], options: Options, report: Report
) -> runner.Recap:
    told_s = time.monotonic()

    def show(task: Task) -> None:
        nonlocal told_s
        if task.kind == "begins" and time.monotonic() > told_s + TOLD_EVERY_S:
            told_s = time.monotonic()
            report(f"{playbook}: {task.name}")

    with namespaces.inside(shape.network_namespace(OPERATOR)):
        return runner.run(machines, playbook, options, folder / "provision", show)


def _keep_installed(image: Image, kept: Path, report: Report) -> None:
    """In a container also for what boots Xen, since installing packages under emulation takes many times as long."""
    site = {"subnet": "10.98.0.0/24", "debian": topology.debian(image.recipe.name)}
    shape = topology.Topology.model_validate(
        {"name": "layer", "wan": {"transit": "10.99.0.0/16"}, "sites": {"host": site}}
    )
    part = kept.with_suffix(".part")
    mounts.remove_tree(part)
    part.mkdir(parents=True)
    host, layer = machine(shape, "host", part), part / "layer"
    try:
        namespaces.create_all(shape)
        boot(shape, part, {"host": bare(image)}, {})
        xen = image.recipe.kind == "xen"
        (part / "inventory.toml").write_text(inventories.text(shape, part, emulation=not xen, xen=xen))
        provision(shape, part, Options(tags=SLOW_TAGS), report)
    finally:
        host.stop()
        namespaces.remove_all(namespaces.existing(shape.name))
    host.keep(layer)
    for name in _OWN:
        shutil.rmtree(layer / name) if (layer / name).is_dir() else (layer / name).unlink(missing_ok=True)
    for path in [*(layer / "etc/ssh").glob("ssh_host_*"), *(layer / "var/log").rglob("*")]:
        if path.is_file():
            path.unlink()
    layer.rename(kept)
    mounts.remove_tree(part)


def _key(image: Image) -> str:
    role = ansible_inventory.playbooks() / "roles/hypervisor"
    files = [role / "tasks/packages.yml", role / "tasks/host_side.yml", role / "vars/main.yml"]
    ours = wheels.host_side_digest()
    return images.digest([image.recipe.key, image.packages.name, ours, *(f.read_text() for f in files)])


def _wait_for_ssh(shape: Topology, host: Machine) -> None:
    deadline = process.Deadline(VM_SSH_DEADLINE_S if shape.runs_xen(host.name) else SSH_DEADLINE_S)
    while True:
        try:
            with namespaces.inside(shape.network_namespace(OPERATOR)):
                socket.create_connection((host.address, 22), timeout=5).close()
            return
        except OSError as error:
            if deadline.over or host.leader is None:
                hint = f"its console ends with: {host.console()[-400:]}"
                raise LabError(f"host {host.name}: no SSH: {error}", hint) from error
        deadline.nap(0.1)
