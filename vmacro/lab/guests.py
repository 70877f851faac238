"""The lab's guests, as XML and as defined at the hosts."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import libvirt

from vmacro.drivers.agent import ChannelAgents
from vmacro.errors import AgentError, HostError, LabError, without_subject
from vmacro.lab import cloud, process
from vmacro.lab.machines import GUEST_IMAGES
from vmacro.lab.topology import Guest, Topology
from vmacro.model.facts import AgentFacts
from vmacro.model.nouns import Host
from vmacro.wire.names import AGENT_CHANNEL

NETWORK = "front"
XEN_TYPES = {"pvh": ("xenpvh", "xenpvh"), "pv": ("xenpv", "linux")}  # machine and type of libvirt's os element

XEN_SHARES = 64  # of the one processor; dom0, without which no guest gets anywhere, has 256

_DOMAIN_XML = """\
<domain type='{accelerator}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{images}/vmlinuz</kernel>
    <initrd>{images}/initrd.gz</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  {cpu}
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{disk}
    <interface type='network'>
      <mac address='{mac}'/>
      <source network='{network}'/>
      <model type='virtio'/>
    </interface>
    <console type='pty'>
      <log file='/var/log/libvirt/qemu/{name}-console.log' append='on'/>
      <target type='serial' port='0'/>
    </console>
    <channel type='unix'><target type='virtio' name='{channel}'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
</domain>
"""
_XEN_DOMAIN_XML = """\
<domain type='xen'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>{kind}</type>
    <kernel>{images}/vmlinuz</kernel>
    <initrd>{images}/initrd.gz</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <on_crash>destroy</on_crash>
  <cputune><shares>{shares}</shares></cputune>
  <devices>
    <disk type='block' device='disk'>
      <source dev='{disk}'/>
      <target dev='xvda' bus='xen'/>
      <readonly/>
      <shareable/>
    </disk>
    <interface type='network'>
      <mac address='{mac}'/>
      <source network='{network}'/>
    </interface>
    <console type='pty'><target type='xen' port='0'/></console>
  </devices>
</domain>
"""
_SHARED_DISK = """\
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{images}/root.ext4'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
      <readonly/>
      <shareable/>
    </disk>"""
_OWN_DISK = """\
    <disk type='file' device='disk'>
      <driver name='qemu' type='{format}' cache='none' discard='unmap'/>
      <source file='{path}'/>
      <target dev='vda' bus='virtio'/>
    </disk>"""
_CPU = {
    "kvm": "<cpu mode='host-model'/>",
    "qemu": "<cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>",
}


@dataclass(frozen=True)
class Ready:
    """A guest whose agent answers, with a lease."""

    name: str
    agent: AgentFacts
    waited_s: float


def domain_xml(topology: Topology, name: str, accelerator: str) -> str:
    """The guest as libvirt defines it (formatdomain)."""
    if topology.hypervisor == "xen":
        return _xen_domain_xml(topology, name)
    guest = topology.guests[name]
    own, images = guest.own_disk, f"{GUEST_IMAGES}/{guest.image}"
    shared = _SHARED_DISK.format(images=images)
    return _DOMAIN_XML.format(
        accelerator=accelerator,
        name=name,
        uuid=uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{topology.name}.vmacro"),
        memory_mib=guest.memory_mib,
        images=images,
        disk=_OWN_DISK.format(format=guest.disk, path=cloud.disk_path(name, guest)) if own else shared,
        cmdline=" ".join(cloud.command_line(guest) if own else _command_line(guest)),
        cpu=_CPU[accelerator],
        mac=topology.mac(name),
        network=NETWORK,
        channel=AGENT_CHANNEL,
    )


def _xen_domain_xml(topology: Topology, name: str) -> str:
    image = topology.guest_image(name)
    machine, kind = XEN_TYPES[topology.guests[name].xen]
    return _XEN_DOMAIN_XML.format(
        name=name,
        uuid=uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{topology.name}.vmacro"),
        memory_mib=topology.guests[name].memory_mib,
        machine=machine,
        kind=kind,
        images=f"{GUEST_IMAGES}/{image}",
        disk=f"/dev/disk/by-id/virtio-{image}",
        cmdline=" ".join(["console=hvc0", *(w for w in _command_line(topology.guests[name]) if "ttyS0" not in w)]),
        mac=topology.mac(name),
        network=NETWORK,
        shares=XEN_SHARES,
    )


def wait_for_network(connection: Any, site: str, timeout_s: float) -> None:
    """A host that has just booted starts it by itself. Raises LabError."""
    began = time.monotonic()
    while True:
        try:
            if connection.networkLookupByName(NETWORK).isActive():
                return
            trouble = "is not active"
        except libvirt.libvirtError as error:
            trouble = str(error)
        if time.monotonic() - began > timeout_s:
            raise LabError(f"site {site}: network {NETWORK}: {trouble}", "vmacro provision hosts --tags network")
        time.sleep(0.1)


def start(connection: Any, topology: Topology, name: str, accelerator: str) -> None:
    """Define and start a guest at its home. Idempotent. Raises LabError."""
    try:
        domain = connection.defineXML(domain_xml(topology, name, accelerator))
        if not domain.isActive():
            domain.create()
    except libvirt.libvirtError as error:
        raise LabError(f"guest {name}: does not start: {error}") from error


def find(connections: dict[str, Any], name: str) -> str | None:
    """The host on which a guest is active."""
    for host, connection in connections.items():
        try:
            if connection.lookupByName(name).isActive():
                return host
        except libvirt.libvirtError:
            continue
    return None


def wait_for_lease(connection: Any, topology: Topology, name: str, timeout_s: float) -> None:
    """Until its host's DHCP has given it an address. Raises LabError."""
    deadline = process.Deadline(timeout_s)
    while not any(x["mac"] == topology.mac(name) for x in connection.networkLookupByName(NETWORK).DHCPLeases()):
        if deadline.over:
            hint = f"look at its console: vmacro lab shell {name} --lab {topology.name}"
            raise LabError(f"guest {name}: has no lease after {timeout_s:g} s", hint)
        deadline.nap(1)


def wait_until_ready(agents: ChannelAgents, host: Host, name: str, timeout_s: float) -> Ready:
    """Until the agent answers with a lease. Raises LabError."""
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        try:
            with agents.open(host, name) as agent:
                facts = agent.status()
            if facts.address:
                return Ready(name, facts, waited)
            raise AgentError(f"guest {name}: its agent answers, and has no lease")
        except (AgentError, HostError) as error:
            if waited > timeout_s:
                hint = f"look at its console: vmacro lab shell {host.name}, then virsh console {name}"
                said = without_subject(error.message, f"guest {name}")
                raise LabError(f"guest {name}: not ready after {waited:.0f} s: {said}", hint) from error
        time.sleep(0.1)


def _command_line(guest: Guest) -> list[str]:
    words = [*cloud.KERNEL_WORDS, "net.ifnames=0"]
    if guest.dirty_ballast_mib:
        words.append(f"vmacro.dirty={guest.dirty_ballast_mib},{guest.dirty_mib_s:g}")
    if not guest.agent:
        words.append("init=/bin/bash")  # a guest that runs and says nothing
    return words
