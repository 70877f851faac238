"""Who else manages an interface in a guest, and how it is told to leave it alone: systemd-networkd, NetworkManager,
ifupdown with dhclient, dhcpcd or a static address; or nobody, where a script has given it an address.

Each of them would undo what the agent does: drop old addresses, put a default route back, renew at the wrong site.
What is written here is taken back by `return_it`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Protocol

AGENT_UNIT = "vmacro-agent.service"
CLOUD_INIT = "etc/cloud/cloud.cfg.d/99-vmacro-network.cfg"


@dataclass(frozen=True)
class Interface:
    """`address` with its prefix length, '' where it has none, `dynamic` where that ends unless somebody renews it;
    `gateway` of the default route."""

    name: str
    mac: str
    index: int
    address: str = ""
    gateway: str = ""
    dynamic: bool = False


@dataclass(frozen=True)
class System:
    """A guest's files and commands. `run` returns what a command says; its failure is seen by what comes of it."""

    root: Path
    run: Callable[..., str]

    def active(self, unit: str) -> bool:
        """Whether a systemd unit runs."""
        return self.run("systemctl", "is-active", unit).strip() == "active"

    def write(self, path: Path, text: str) -> None:
        """Write a file, with its folders."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def fields(self, path: str) -> dict[str, str]:
        """KEY=VALUE lines of a file; {} where there is none."""
        try:
            lines = (self.root / path).read_text(errors="replace").splitlines()
        except OSError:
            return {}
        return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}


class Manager(Protocol):
    """A program that configures interfaces."""

    name: str

    def manages(self, interface: Interface) -> bool:
        """Whether it has this interface."""
        ...

    def client_id(self, interface: Interface) -> str:
        """Of its DHCP lease (RFC 2132 section 9.14), in hexadecimal; '' where it sends none, or not known."""

    def let_go(self, interface: Interface) -> None:
        """Have it leave the interface alone, now and after every boot."""

    def return_it(self, interface: Interface) -> None:
        """Undo let_go(), and have it configure the interface again."""


def known(system: System) -> list[Manager]:
    """All managers that the agent can take an interface from."""
    return [Networkd(system), NetworkManager(system), Ifupdown(system), Nobody(system)]


class Networkd:
    """systemd.network(5): the first file that matches wins, and netplan's begin with 10-."""

    name = "systemd-networkd"

    def __init__(self, system: System) -> None:
        self._system = system
        self._file = system.root / "etc/systemd/network/00-vmacro.network"
        # It would wait in vain, and everything after network-online.target with it, where we have its only link.
        self._wait = system.root / "etc/systemd/system/systemd-networkd-wait-online.service.d/50-vmacro.conf"

    def manages(self, interface: Interface) -> bool:
        state = self._system.fields(f"run/systemd/netif/links/{interface.index}").get("ADMIN_STATE", "")
        return state not in ("", "unmanaged", "initialized", "pending") and self._system.active("systemd-networkd")

    def client_id(self, interface: Interface) -> str:
        return self._system.fields(f"run/systemd/netif/leases/{interface.index}").get("CLIENTID", "")

    def let_go(self, interface: Interface) -> None:
        self._system.write(self._file, f"[Match]\nMACAddress={interface.mac}\n\n[Link]\nUnmanaged=yes\n")
        self._system.write(self._wait, f"[Unit]\nConditionPathExists=!/{self._file.relative_to(self._system.root)}\n")
        self._system.run("systemctl", "daemon-reload")
        self._system.run("networkctl", "reload")

    def return_it(self, interface: Interface) -> None:
        self._file.unlink(missing_ok=True)
        self._wait.unlink(missing_ok=True)
        self._system.run("systemctl", "daemon-reload")
        self._system.run("networkctl", "reload")
        self._system.run("networkctl", "reconfigure", interface.name)


class NetworkManager:
    """NetworkManager.conf(5): a file in conf.d has it leave the interface alone."""

    name = "NetworkManager"

    def __init__(self, system: System) -> None:
        self._system = system
        self._file = system.root / "etc/NetworkManager/conf.d/50-vmacro.conf"

    def manages(self, interface: Interface) -> bool:
        if not self._system.active("NetworkManager"):
            return False
        state = self._system.fields(f"run/NetworkManager/devices/{interface.index}")
        return state.get("managed") in ("true", "1") or bool(state.get("connection-uuid"))

    def client_id(self, interface: Interface) -> str:
        state = self._system.fields(f"run/NetworkManager/devices/{interface.index}")
        return state.get("dhcp4.dhcp_client_identifier", "").replace(":", "").lower()

    def let_go(self, interface: Interface) -> None:
        self._system.write(self._file, f"[keyfile]\nunmanaged-devices+=mac:{interface.mac}\n")
        self._system.run("nmcli", "general", "reload", "conf")
        self._system.run("nmcli", "device", "set", interface.name, "managed", "no")

    def return_it(self, interface: Interface) -> None:
        self._file.unlink(missing_ok=True)
        # With an address it would take the interface for somebody else's, and leave it as it is.
        self._system.run("ip", "-4", "address", "flush", "dev", interface.name)
        self._system.run("nmcli", "general", "reload", "conf")
        self._system.run("nmcli", "device", "set", interface.name, "managed", "yes")
        self._system.run("nmcli", "device", "connect", interface.name)


class Ifupdown:
    """interfaces(5): the stanza's method becomes `manual`, under a comment that keeps what it was; and the DHCP client
    that `ifup` has started ends, without giving its lease back. A static address has no such client."""

    name = "ifupdown"
    _MARK = "# vmacro-agent has it; before: "

    def __init__(self, system: System) -> None:
        self._system = system

    def manages(self, interface: Interface) -> bool:
        methods = {self._method(interface, line) for path in self._files() for line in _read(path)}
        return ("dhcp" in methods and bool(self._clients(interface))) or (
            "static" in methods and self._is_up(interface)
        )

    def client_id(self, interface: Interface) -> str:
        """Both clients of Debian's send 255, the MAC's last four octets and a DUID (RFC 4361 section 6.1)."""
        for program in self._clients(interface):
            duid = self._dhclient_duid(interface) if program == "dhclient" else self._dhcpcd_duid()
            if duid:
                return f"ff{interface.mac.replace(':', '')[-8:]}{duid}"
        return ""

    def let_go(self, interface: Interface) -> None:
        for path in self._files():
            self._manual_in(interface, path)
        for pid in self._clients(interface).values():
            self._system.run("kill", str(pid))
        self._gone(interface)

    def return_it(self, interface: Interface) -> None:
        # In ifupdown's own state the interface is up: take it down by the present stanza, then up by the old one.
        self._system.run("ifdown", "--force", interface.name)
        for path in self._files():
            self._restore(path)
        self._system.run("ifup", "--force", interface.name)

    def _clients(self, interface: Interface) -> dict[str, int]:
        """Programs and pids of DHCP clients that run for it."""
        found: dict[str, int] = {}
        for program, path in (
            ("dhclient", f"run/dhclient.{interface.name}.pid"),
            ("dhcpcd", f"run/dhcpcd/{interface.name}-4.pid"),
            ("dhcpcd", f"run/dhcpcd/{interface.name}.pid"),
            ("dhcpcd", "run/dhcpcd/pid"),
        ):
            try:
                pid = int((self._system.root / path).read_text())
                if (self._system.root / f"proc/{pid}/comm").read_text().strip() == program:
                    found.setdefault(program, pid)
            except (OSError, ValueError):
                continue
        return found

    def _gone(self, interface: Interface) -> None:
        deadline = time.monotonic() + 10
        while self._clients(interface) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _files(self) -> list[Path]:
        etc = self._system.root / "etc/network"
        return [p for p in (etc / "interfaces", *sorted(etc.glob("interfaces.d/*"))) if p.is_file()]

    def _is_up(self, interface: Interface) -> bool:
        """By what `ifup` keeps: NAME=STANZA, one interface a line, and since ifupdown 0.8 a file for each."""
        run = self._system.root / "run/network"
        kept = [run / "ifstate", run / f"ifstate.{interface.name}"]
        lines = [line.strip() for path in kept if path.is_file() for line in _read(path)]
        return any(line == interface.name or line.startswith(f"{interface.name}=") for line in lines)

    def _method(self, interface: Interface, line: str) -> str:
        """By which this line has it configured; '' where it is not the first of its stanza for IPv4."""
        words = line.split()
        return words[3] if len(words) == 4 and words[:3] == ["iface", interface.name, "inet"] else ""

    def _manual_in(self, interface: Interface, path: Path) -> None:
        changed: list[str] = []
        for line in _read(path):
            ours = [f"{self._MARK}{line}", f"iface {interface.name} inet manual"]
            changed += ours if self._method(interface, line) in ("dhcp", "static") else [line]
        _write_if_changed(path, changed)

    def _restore(self, path: Path) -> None:
        kept: list[str] = []
        lines = iter(_read(path))
        for line in lines:
            if line.startswith(self._MARK):
                next(lines, None)
            kept.append(line.removeprefix(self._MARK))
        _write_if_changed(path, kept)

    def _dhclient_duid(self, interface: Interface) -> str:
        """Its lease file has it as a string of C, with octal escapes: dhclient.leases(5)."""
        for path in sorted(self._system.root.glob("var/lib/dhcp/dhclient*.leases")):
            text = path.read_text(errors="replace")
            found = re.search(r'^default-duid "((?:[^"\\]|\\.)*)";', text, re.MULTILINE)
            if found and (path.name == f"dhclient.{interface.name}.leases" or "dhclient6" in path.name):
                return _unquoted(found[1]).hex()
        return ""

    def _dhcpcd_duid(self) -> str:
        try:
            return (self._system.root / "var/lib/dhcpcd/duid").read_text().strip().replace(":", "").lower()
        except OSError:
            return ""


class Nobody:
    """An address that no program looks after: a script's, or somebody's by hand. It does not end: one that does is
    renewed by a DHCP client that we do not know. What would set it again at the next boot is not known, and hence not
    told to leave it."""

    name = "nobody"

    def __init__(self, system: System) -> None:
        self._system = system

    def manages(self, interface: Interface) -> bool:
        return bool(interface.address) and not interface.dynamic and not self._system.active(AGENT_UNIT)

    def client_id(self, interface: Interface) -> str:
        return ""

    def let_go(self, interface: Interface) -> None:
        pass

    def return_it(self, interface: Interface) -> None:
        self._system.run("ip", "-4", "address", "flush", "dev", interface.name)
        self._system.run("ip", "address", "replace", interface.address, "dev", interface.name)
        if interface.gateway:
            self._system.run("ip", "route", "replace", "default", "via", interface.gateway, "dev", interface.name)


def _read(path: Path) -> list[str]:
    return path.read_text(errors="surrogateescape").splitlines()


def _write_if_changed(path: Path, lines: list[str]) -> None:
    if lines != _read(path):
        path.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")


def _unquoted(text: str) -> bytes:
    """Octets of a string of C with octal escapes."""
    parts = re.findall(r"\\([0-7]{3})|\\(.)|(.)", text, re.DOTALL)
    return bytes(int(octal, 8) if octal else ord(escaped or plain) & 255 for octal, escaped, plain in parts)


def keep_cloud_init_out(system: System) -> None:
    """It would write network configuration anew for what it takes for a new instance."""
    if (system.root / CLOUD_INIT).parent.is_dir():
        system.write(system.root / CLOUD_INIT, "network: {config: disabled}\n")


def let_cloud_init_in(system: System) -> None:
    """Undo keep_cloud_init_out(). Idempotent."""
    (system.root / CLOUD_INIT).unlink(missing_ok=True)
