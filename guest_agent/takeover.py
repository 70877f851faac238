"""Takes an interface over from whoever manages it, in use as it is: address, lease and connections stay."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from guest_agent import listeners, managers, state
from guest_agent.channel import port_path
from guest_agent.managers import Interface, Manager, System
from vmacro.wire import xenbus
from vmacro.wire.names import AGENT_CHANNEL

KEPT = Path("/var/lib/vmacro/taken-over.json")  # from whom, for give-back
OURS = "vmacro-agent"
OPTIONS = Path("/etc/default/vmacro-agent")
SYSCTL = Path("/etc/sysctl.d/60-vmacro-interface.conf")
NOBODYS = "no program that is known configured it: remove what gives it its address at boot"
READY_WITHIN_S = 120.0  # the unit says when it has a lease


class TakeoverError(Exception):
    """Nothing has changed, or all is as it was before."""


def _run(*command: str) -> str:
    """Output and errors of a command; if it cannot be run, why."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout


SYSTEM = System(Path("/"), _run)


def look(name: str = "") -> dict[str, Any]:
    """What stands for or against a takeover. Changes nothing."""
    found = interface(name)
    manager = _manager(found)
    return {
        "interface": asdict(found) if found is not None else None,
        "manager": manager.name if manager else OURS if _agent_runs() else "",
        "client_id": manager.client_id(found) if manager and found else "",
        "channel": _has_channel(),
        "mptcp": Path("/proc/sys/net/mptcp/enabled").exists(),
    }


def take_over(name: str = "") -> dict[str, Any]:
    """Idempotent. Raises TakeoverError, after which the interface is managed as before."""
    found = interface(name)
    if found is None:
        raise TakeoverError(f"interface {name or 'of the default route'}: there is none; name it with --interface")
    manager = _manager(found)
    if manager is None and _agent_runs():
        return {"changed": False, "interface": found.name}
    if manager is None:
        names = ", ".join(m.name for m in managers.known(SYSTEM) if not isinstance(m, managers.Nobody))
        raise TakeoverError(
            f"interface {found.name}: none of {names} manages it, and it has no static address; give it one first"
        )
    if not _has_channel():
        raise TakeoverError(f"no virtio-serial port {AGENT_CHANNEL}; add the channel to the domain first")
    client_id = manager.client_id(found)
    OPTIONS.write_text(f"OPTIONS=--interface {found.name}{f' --client-id {client_id}' if client_id else ''}\n")
    SYSTEM.write(KEPT, json.dumps({"interface": found.name, "manager": manager.name}))
    began = time.monotonic()
    manager.let_go(found)
    _keep(found)
    switch_s = time.monotonic() - began
    trouble = _start_agent() or _lost(found) or (f"{manager.name} keeps it" if manager.manages(found) else "")
    if trouble:
        _stop_agent()
        _drop_foreign(found)  # before the manager is back, whose address it might be then
        _return(found, manager)
        raise TakeoverError(f"interface {found.name}: given back to {manager.name}: {trouble}")
    managers.keep_cloud_init_out(SYSTEM)
    told = {"changed": True, "interface": found.name, "from": manager.name, "switch_s": round(switch_s, 2)}
    return {**told, "note": NOBODYS} if isinstance(manager, managers.Nobody) else told


def give_back(_name: str = "") -> dict[str, Any]:
    """To whom it was taken from. Raises TakeoverError."""
    try:
        kept = json.loads(KEPT.read_text())
        found = interface(kept["interface"])
        manager = next(m for m in managers.known(SYSTEM) if m.name == kept["manager"])
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise TakeoverError(f"{KEPT}: does not say from whom an interface was taken: {error}") from error
    if found is None:
        raise TakeoverError(f"interface {kept['interface']}: there is none any more")
    _return(found, manager)
    return {"changed": True, "interface": found.name, "to": manager.name}


def _return(found: Interface, manager: Manager) -> None:
    _stop_agent()
    listeners.put_back(state.load().queueing)  # of an agent that was killed
    for path in (OPTIONS, SYSCTL, KEPT):
        path.unlink(missing_ok=True)
    managers.let_cloud_init_in(SYSTEM)
    manager.return_it(found)


def interface(name: str = "") -> Optional[Interface]:
    """The named one, or that of the default route. By iproute2, which prints JSON."""
    routes = _json("ip", "-j", "-4", "route", "show", "default")
    chosen = name or next((r["dev"] for r in routes if "dev" in r), "")
    links = _json("ip", "-j", "address", "show", "dev", chosen) if chosen else []
    if not links:
        return None
    link = links[0]
    ours = next((a for a in link["addr_info"] if a["family"] == "inet"), None)
    address = f"{ours['local']}/{ours['prefixlen']}" if ours else ""
    gateway = next((r["gateway"] for r in routes if r.get("dev") == chosen and "gateway" in r), "")
    dynamic = bool(ours and ours.get("dynamic"))
    return Interface(chosen, link["address"], link["ifindex"], address, gateway, dynamic)


def _json(*command: str) -> list[Any]:
    try:
        found = json.loads(_run(*command) or "[]")
    except ValueError:
        return []  # it says in words that there is no such thing
    return list(found)


def _keep(found: Interface) -> None:
    """Address and route, where they went with their manager; and IPv6 by the kernel, which networkd had turned off."""
    _run("ip", "link", "set", "dev", found.name, "up")  # NetworkManager takes it down as it lets go
    if found.address:
        _run("ip", "address", "replace", found.address, "dev", found.name)
    if found.gateway:
        _run("ip", "route", "replace", "default", "via", found.gateway, "dev", found.name)
    SYSCTL.write_text(
        "# Written by vmacro-agent, which has this interface: routers are listened to by the kernel.\n"
        f"net.ipv6.conf.{found.name}.accept_ra = 1\nnet.ipv6.conf.{found.name}.autoconf = 1\n"
    )
    _run("sysctl", "-q", "-p", str(SYSCTL))


def _start_agent() -> str:
    """Why not, or ''. Its unit is Type=notify: started means that it has a lease."""
    try:
        done = subprocess.run(
            ["systemctl", "enable", "--now", managers.AGENT_UNIT],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=READY_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        return f"{managers.AGENT_UNIT} has no lease after {READY_WITHIN_S:.0f} s"
    if done.returncode == 0:
        return ""
    return f"{done.stderr.strip()}; {_run('journalctl', '-u', managers.AGENT_UNIT, '-n', '5', '-o', 'cat')[-500:]}"


def _stop_agent() -> None:
    _run("systemctl", "disable", "--now", managers.AGENT_UNIT)


def _lost(found: Interface) -> str:
    """The address is there in any case, since we have kept it: whose lease it is counts."""
    other = _foreign(found)
    return (
        f"DHCP gives the agent {other}, not {found.address}; reserve that for {found.mac} first "
        f"(virsh net-update NETWORK add ip-dhcp-host)"
        if other
        else ""
    )


def _foreign(found: Interface) -> str:
    """The address with its prefix length that DHCP gave the agent, where it is not the interface's; else ''."""
    lease = state.load().lease
    if lease is None or not found.address or lease.address == found.address.partition("/")[0]:
        return ""
    return f"{lease.address}/{lease.prefix_length}"


def _drop_foreign(found: Interface) -> None:
    """Its route goes with it (prefsrc). The agent's state speaks of that lease, and would have it back."""
    if other := _foreign(found):
        _run("ip", "address", "del", other, "dev", found.name)
        state.FILE.unlink(missing_ok=True)


def _manager(found: Optional[Interface]) -> Optional[Manager]:
    return next((m for m in managers.known(SYSTEM) if found is not None and m.manages(found)), None)


def _agent_runs() -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", managers.AGENT_UNIT]).returncode == 0


def _has_channel() -> bool:
    try:
        port_path()
    except FileNotFoundError:
        return xenbus.device() is not None
    return True
