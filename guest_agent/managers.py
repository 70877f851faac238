"""Who else manages an interface in a guest, and how it is told to leave it alone: networkd, NetworkManager, ifupdown.

Each of them would undo what the agent does: drop old addresses, put a default route back, renew at the wrong site.
What is written here is taken back by `return_it`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Protocol

CLOUD_INIT = "etc/cloud/cloud.cfg.d/99-vmacro-network.cfg"


@dataclass(frozen=True)
class Interface:
    """`address` with its prefix length, '' where it has none; `gateway` of the default route."""

    name: str
    mac: str
    index: int
    address: str = ""
    gateway: str = ""


@dataclass(frozen=True)
class System:
    """A guest's files and commands. `run` returns what a command says; its failure is seen by what comes of it."""

    root: Path
    run: Callable[..., str]

    def active(self, unit: str) -> bool:
        return self.run("systemctl", "is-active", unit).strip() == "active"

    def write(self, path: Path, text: str) -> None:
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
    name: str

    def manages(self, interface: Interface) -> bool: ...

    def client_id(self, interface: Interface) -> str:
        """Of its DHCP lease (RFC 2132 section 9.14), in hexadecimal; '' where it sends none, or not known."""

    def let_go(self, interface: Interface) -> None: ...

    def return_it(self, interface: Interface) -> None: ...


def known(system: System) -> list[Manager]:
    return [Networkd(system), NetworkManager(system), Ifupdown(system)]


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
    """interfaces(5), with dhclient; files as they were are kept beside the changed ones, where ifupdown reads none."""

    name = "ifupdown"
    KEPT = ".before-vmacro"

    def __init__(self, system: System) -> None:
        self._system = system

    def manages(self, interface: Interface) -> bool:
        state = self._system.root / "run/network/ifstate"
        return state.exists() and f"{interface.name}={interface.name}" in state.read_text().split()

    def client_id(self, interface: Interface) -> str:
        """By dhclient.leases(5), whose last lease counts."""
        leases = sorted((self._system.root / "var/lib/dhcp").glob(f"dhclient*{interface.name}*.leases"))
        text = leases[-1].read_text(errors="replace") if leases else ""
        found = re.findall(r"option dhcp-client-identifier ([0-9a-fA-F:]+);", text)
        return "".join(byte.zfill(2) for byte in found[-1].split(":")).lower() if found else ""

    def let_go(self, interface: Interface) -> None:
        for path in self._files():
            text = path.read_text()
            changed = without_stanzas(text, interface.name)
            if changed != text:
                self._system.write(path.with_name(path.name + self.KEPT), text)
                self._system.write(path, changed)
        # -x ends it and leaves the lease and the address as they are (dhclient(8)).
        for pid in sorted((self._system.root / "run").glob(f"dhclient*{interface.name}*.pid")):
            self._system.run("dhclient", "-x", "-pf", str(pid), interface.name)
        state = self._system.root / "run/network/ifstate"
        rest = [x for x in state.read_text().splitlines() if x != f"{interface.name}={interface.name}"]
        self._system.write(state, "".join(f"{x}\n" for x in rest))

    def return_it(self, interface: Interface) -> None:
        for path in (self._system.root / "etc/network").rglob(f"*{self.KEPT}"):
            path.replace(path.with_name(path.name[: -len(self.KEPT)]))
        self._system.run("ifup", interface.name)

    def _files(self) -> list[Path]:
        folder = self._system.root / "etc/network"
        found = [folder / "interfaces", *sorted((folder / "interfaces.d").glob("*"))]
        return [p for p in found if p.is_file() and not p.name.endswith(self.KEPT)]


def without_stanzas(text: str, name: str) -> str:
    """interfaces(5) without what configures one interface at boot."""
    kept, skipping = [], False
    for line in text.splitlines(keepends=True):
        words = line.split()
        first = words[0] if words else ""
        if first in ("iface", "mapping") or first == "auto" or first.startswith("allow-"):
            skipping = first == "iface" and words[1:2] == [name]
            if first not in ("iface", "mapping") and name in words[1:]:
                others = [w for w in words[1:] if w != name]
                line = f"{first} {' '.join(others)}\n" if others else ""
        elif first in ("source", "source-directory", "no-auto-down", "no-scripts"):
            skipping = False
        if not skipping:
            kept.append(line)
    return "".join(kept)


def keep_cloud_init_out(system: System) -> None:
    """It would write network configuration anew for what it takes for a new instance."""
    if (system.root / CLOUD_INIT).parent.is_dir():
        system.write(system.root / CLOUD_INIT, "network: {config: disabled}\n")


def let_cloud_init_in(system: System) -> None:
    (system.root / CLOUD_INIT).unlink(missing_ok=True)
