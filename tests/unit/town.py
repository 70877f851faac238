"""The world in memory behind an inventory file: guests g1, g2 and so on in bucharest, as many hosts in berlin."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.fake.clock import FakeClock
from vmacro.drivers.fake.state import Effect
from vmacro.inventory import Settings
from vmacro.model.events import Event
from vmacro.ports import World

Vmacro = Callable[..., subprocess.CompletedProcess[str]]  # the command line
PATIENCE_S = 30.0  # for what must happen; nobody waits so long for what does


class Gate:
    """Holds up what comes to it, until it is opened."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE_S)

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE_S)

    def open(self) -> None:
        self._opened.set()


class Town:
    """Hosts are `bucharest` and `berlin-1`, `berlin-2` and so on, of which the first has the most memory."""

    def __init__(self, folder: Path, guests: int) -> None:
        numbers = range(1, guests + 1)
        self.guests = tuple(f"g{number}" for number in numbers)
        away = tuple(f"berlin-{number}" for number in numbers)
        self.fake = FakeWorld({"bucharest": ("bucharest",), "berlin": away}, self.guests)
        for number in numbers:
            there = self.fake.hosts[f"berlin-{number}"]
            there.facts = replace(there.facts, free_memory_mib=8192 - number)
        self.file = folder / "inventory.toml"
        self.file.write_text(_inventory(folder, self))

    @contextmanager
    def drivers(self, _settings: Settings, polite: bool = False) -> Iterator[object]:
        """Instead of wiring.drivers()."""
        yield self.world

    @contextmanager
    def world(self, publish: Callable[[Event], None], cancelled: Callable[[], bool]) -> Iterator[World]:
        """Each with a clock of its own: a move's waiting is no other's."""
        yield replace(self.fake.world, publish=publish, cancelled=cancelled, clock=FakeClock())

    def at(self, effect: str, guest: str, hook: Callable[[], None]) -> None:
        """Once, before this effect on a guest."""
        earlier, done = self.fake.before, threading.Event()

        def before(coming: Effect) -> None:
            earlier(coming)
            if (coming, coming.guest) == (effect, guest) and not done.is_set():
                done.set()
                hook()

        self.fake.before = before

    def gate(self, effect: str, guest: str) -> Gate:
        """A gate before this effect on a guest."""
        made = Gate()
        self.at(effect, guest, made)
        return made


def _inventory(folder: Path, town: Town) -> str:
    lines = ["[orchestrator]", f'state_dir = "{folder}/state"', "[policy]", "linger_s = 0"]
    lines += [f"[guests.{guest}]" for guest in town.guests]
    for site in town.fake.inventory.sites:
        lines += [f"[sites.{site.name}]"]
        for host in site.hosts:
            lines += [f"[hosts.{host.name}]", f'site = "{site.name}"', f'address = "{host.address}"']
            lines += [f'uri = "qemu+tls://{host.name}/system"']
    return "\n".join(lines) + "\n"
