"""Who else manages an interface in a guest, and how it is told to leave it alone: systemd-networkd, NetworkManager.

Each of them would undo what the agent does: drop old addresses, put a default route back, renew at the wrong site.
What is written here is taken back by `return_it`.
"""

from __future__ import annotations

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
    return [Networkd(system), NetworkManager(system)]


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


def keep_cloud_init_out(system: System) -> None:
    """It would write network configuration anew for what it takes for a new instance."""
    if (system.root / CLOUD_INIT).parent.is_dir():
        system.write(system.root / CLOUD_INIT, "network: {config: disabled}\n")


def let_cloud_init_in(system: System) -> None:
    (system.root / CLOUD_INIT).unlink(missing_ok=True)
