"""Whether a guest's domain can leave its host, and whether its destination's hypervisor can run it. Pure.

What it names beside that is in needs.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vmacro.model.definitions import DIFFERS, OF_THE_HOSTS_SIZE, PASSED_THROUGH, UNKNOWN, Definition, Device, Fit
from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request, blocker, source_view, target_view

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")  # what host sides take (wire/host_verbs.py)


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """Of the domain and what libvirt keeps beside it, and of the two hosts."""
    source, target, wanted = source_view(survey), target_view(request, survey), survey.definition
    if source is None or source.domain is None or source.site == request.destination.name:
        return
    yield from _has_a_plain_name(request)
    if wanted is not None:
        yield from _devices_move(request, wanted)
        yield from _nothing_is_left_behind(request, wanted)
    if target is None:
        return
    yield from _hosts_are_two(source, target)
    if wanted is not None and target.fit is not None:
        yield from _uuid_is_free(source.domain.uuid, target, target.fit)
        yield from _hypervisor_runs_it(wanted, target, target.fit)
        yield from _processor_suffices(source, target, target.fit)
    if wanted is not None:
        yield from _is_confined_there(wanted, target)


def _has_a_plain_name(request: Request) -> Iterator[Finding]:
    name = request.guest.domain
    if request.handoff == SEAMLESS and not _NAME.match(name):
        text = f"its domain is called {name!r}: legs and their hosts know names of letters, digits and . _ : - alone"
        hint = "virsh domrename, while it is shut off; or --handoff renumber"
        yield blocker("domain-name", f"guest {request.guest.name}", text, hint)


def _devices_move(request: Request, wanted: Definition) -> Iterator[Finding]:
    subject = f"guest {request.guest.name}"
    for stay in wanted.stays:
        if stay.live:
            text = f"its {stay.what} cannot move while it runs: {stay.why}"
            yield blocker("device-stays", subject, text, "virsh detach-device; or move it shut off")
        else:
            text = f"at its next start it gets {stay.what}, and nobody knows of one at the destination: {stay.why}"
            yield Finding("device-stays", Severity.WARNING, subject, text, "virsh edit; else it may not start there")
    if wanted.arguments:
        text = "its domain has arguments for QEMU that libvirt does not understand (<qemu:commandline>)"
        hint = "do they name anything of its host? nobody else compares that"
        yield Finding("arguments-unknown", Severity.WARNING, subject, text, hint)


def _nothing_is_left_behind(request: Request, wanted: Definition) -> Iterator[Finding]:
    subject = f"guest {request.guest.name}"
    if wanted.snapshots:
        text = f"it has snapshots ({wanted.snapshots}), and libvirt moves no domain that has some"
        yield blocker("snapshots-stay", subject, text, "virsh snapshot-list; virsh snapshot-delete")
    if wanted.saved:
        text = "libvirt keeps a saved state of it (managed save), of a time before it ran here"
        yield blocker("saved-state", subject, text, "virsh managedsave-remove")
    if wanted.checkpoints:
        text = f"it has checkpoints ({wanted.checkpoints}), which stay here: the next backup of it is a full one"
        yield Finding("checkpoints-stay", Severity.WARNING, subject, text, "tell whatever backs it up")


def _hosts_are_two(source: HostView, target: HostView) -> Iterator[Finding]:
    here, there = (view.facts.uuid if view.facts is not None else "" for view in (source, target))
    if here and here == there and source.host != target.host:
        text = f"has the same host UUID as {source.host}, {here}: libvirt takes the two for one, and refuses"
        hint = "host_uuid in libvirtd.conf or virtqemud.conf there; machines cloned with one SMBIOS share theirs"
        yield blocker("host-twin", f"host {target.host}", text, hint)


def _uuid_is_free(uuid: str, target: HostView, fit: Fit) -> Iterator[Finding]:
    if fit.namesake:
        text = f"its domain {fit.namesake!r} has the guest's UUID, {uuid}"
        yield blocker("uuid-taken", f"host {target.host}", text, "a clone? give it another, or undefine it")


def _hypervisor_runs_it(wanted: Definition, target: HostView, fit: Fit) -> Iterator[Finding]:
    subject = f"host {target.host}"
    machines = target.facts.machine_types if target.facts is not None else ()
    if fit.refusal and (not machines or wanted.machine in machines):  # else another rule speaks
        text = f"its libvirt runs no such domain ({_kind(wanted)}): {fit.refusal}"
        yield blocker("hypervisor-refuses", subject, text, "virsh domcapabilities there; has it that QEMU, and KVM?")
    for device in fit.lacks:
        hint = "install it there (a module of QEMU's?); or take it out of the domain"
        yield blocker("device-unsupported", subject, f"its QEMU has no {_device(device)}", hint)
    if fit.silent:
        text = f"its libvirt does not say whether its QEMU has {_some(fit.silent)}"
        hint = "the same QEMU with the same modules has them; else the copy is refused"
        yield Finding("device-unknown", Severity.WARNING, subject, text, hint)
    free = {pages.kib: pages.mib for pages in fit.free_pages}
    for pages in wanted.pages:
        if free.get(pages.kib, 0) < pages.mib:
            size = "its default size" if pages.kib == OF_THE_HOSTS_SIZE else f"{pages.kib} KiB"
            text = f"{free.get(pages.kib, 0)} MiB free in huge pages of {size}, {pages.mib} MiB needed"
            yield blocker("pages-short", subject, text, "vm.nr_hugepages there; or <memoryBacking> without them")
    for most, has, what in ((wanted.cpus, fit.cpus, "processors"), (wanted.nodes, fit.nodes, "NUMA nodes")):
        if most > has:
            text = f"has {has} {what}, and the domain is bound to number {most - 1}"
            hint = "take the binding out (vcpu cpuset, cputune, numatune); or choose another host"
            yield blocker("binding-missing", subject, text, hint)


def _is_confined_there(wanted: Definition, target: HostView) -> Iterator[Finding]:
    """libvirt refuses a domain with a label of a driver that it does not have (virSecurityManagerCheckModel)."""
    known = target.facts.security_models if target.facts is not None else ()
    lacks = [model for model in wanted.labels if model not in known]
    if known and lacks:
        text = f"its libvirt has no security driver {' or '.join(lacks)}, by which the guest's is confined (<seclabel>)"
        hint = "security_driver in qemu.conf: the same at both hosts; or take a <seclabel> of yours out of the domain"
        yield blocker("security-differs", f"host {target.host}", text, hint)


def _processor_suffices(source: HostView, target: HostView, fit: Fit) -> Iterator[Finding]:
    subject = f"host {target.host}"
    here, there = (view.facts.processor if view.facts is not None else "" for view in (source, target))
    versions = {view.facts.hypervisor_version for view in (source, target) if view.facts is not None}
    if here and here == there and (fit.processor_why == PASSED_THROUGH or len(versions) == 1):
        return  # what runs on the one runs on the other
    if fit.processor == DIFFERS:
        text = "its processor, or its QEMU, lacks something that the guest's processor has"
        hint = "virsh hypervisor-cpu-compare there; a model for all hosts: virsh hypervisor-cpu-baseline"
        yield blocker("processor-differs", subject, text, hint)
    elif fit.processor == UNKNOWN:
        why = fit.processor_why or "it gives no reason"
        text = f"libvirt does not say whether the guest's processor runs there: {why}"
        hint = "hosts with one processor model; or a model of QEMU's in the domain: <cpu mode='host-model'/>"
        yield Finding("processor-unknown", Severity.WARNING, subject, text, hint)


def _kind(wanted: Definition) -> str:
    return ", ".join(word for word in (wanted.accelerator, wanted.arch, wanted.machine, wanted.emulator) if word)


def _device(device: Device) -> str:
    return f"{device.element} of {device.aspect} {device.value!r}"


def _some(found: Iterable[Device]) -> str:
    return ", ".join(_device(device) for device in found)
