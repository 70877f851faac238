"""Templates of roles, filled in as Ansible does it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jinja2

from vmacro.provisioning import ansible_inventory

NETWORK = {"bridge": "front0", "gateway": "10.1.0.1", "subnet": "10.1.0.0/24", "subnet6": "fd50:1::/64", "guard": True}
_GIVEN: dict[str, object] = {
    "ansible_managed": "by a test",
    "vmacro_peers": [],
    "vmacro_operators": [],
    "vmacro_network": NETWORK,
    "vmacro_plain_tunnel": False,
    "hypervisor_guest_dns": True,
}


def rendered(name: str, **variables: object) -> str:
    """A template of the role `hypervisor`."""
    return of_role("hypervisor", name, _GIVEN | variables)


def of_role(role: str, name: str, variables: Mapping[str, object]) -> str:
    """A template of any role."""
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    environment.tests["match"] = lambda value, pattern: re.match(pattern, value) is not None
    text = (ansible_inventory.playbooks() / f"roles/{role}/templates" / name).read_text()
    return environment.from_string(text).render(**{"ansible_managed": "by a test"} | dict(variables))
