"""Breaking a move at any call that it makes: every port is wrapped, every call counted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from vmacro.drivers.fake import FakeWorld
from vmacro.errors import AgentError, CopyError, HookError, JournalError, NamesError, UnreachableError, VmacroError
from vmacro.model.moves import Noted, Outcome, Plan
from vmacro.model.nouns import Host
from vmacro.planning.resuming import inherited
from vmacro.ports import World
from vmacro.services import migrate

Result = TypeVar("Result")
LOOKS = {
    "facts",
    "domain",
    "network",
    "statistics",
    "watch",
    "status",
    "connections",
    "turned",
    "leaving",
    "look",
    "open agent",
    "flows",
    "definition",
    "filters",
    "fit",
    "files",
    "reach",
    "taken",
}


class Crash(BaseException):
    """SIGKILL, as far as the code under test can tell: nothing of ours runs afterwards."""


@dataclass(frozen=True)
class Call:
    """One call of a port: `bucharest.copy`, `agent@berlin.retire`, `journal.write`."""

    subject: str
    verb: str

    @property
    def looks(self) -> bool:
        return self.verb in LOOKS

    def error(self) -> VmacroError:
        if self.subject == "journal":
            return JournalError("the journal cannot be written: injected")
        if self.subject == "names":
            return NamesError("name server: injected", code="silent")
        if self.subject == "hooks":
            return HookError("hook: injected")
        if self.subject.startswith("agent"):
            return AgentError("guest web: injected")
        return (CopyError if self.verb == "copy" else UnreachableError)(f"host {self.subject}: injected")


@dataclass
class Faults:
    """Counts calls; at the `at`-th, before or after its effect, `strike` happens."""

    at: int = -1
    when: str = "before"
    strike: Callable[[Call], None] = lambda _call: None
    calls: list[Call] = field(default_factory=list)

    def around(self, call: Call, act: Callable[[], Result]) -> Result:
        number = len(self.calls)
        self.calls.append(call)
        if number == self.at and self.when == "before":
            self.strike(call)
        result = act()
        if number == self.at and self.when == "after":
            self.strike(call)
        return result

    def world(self, fake: FakeWorld) -> World:
        plain = fake.world

        def hypervisor(host: Host) -> Any:
            return Wrapped(plain.hypervisor(host), host.name, self)

        def host_network(host: Host) -> Any:
            return Wrapped(plain.host_network(host), f"side@{host.name}", self)

        def host_disks(host: Host) -> Any:
            return Wrapped(plain.host_disks(host), f"side@{host.name}", self)

        def agent(host: Host, name: str) -> AbstractContextManager[Any]:
            subject = f"agent@{host.name}"

            @contextmanager
            def opened() -> Iterator[Any]:
                with plain.agent(host, name) as found:
                    self.around(Call(subject, "open agent"), lambda: None)
                    yield Wrapped(found, subject, self)

            return opened()

        wrapped = replace(plain, hypervisor=hypervisor, host_network=host_network, host_disks=host_disks, agent=agent)
        outside: dict[str, Any] = {"names": Wrapped(plain.names, "names", self)}
        return replace(wrapped, hooks=Wrapped(plain.hooks, "hooks", self), **outside)


class Wrapped:
    """Any port, whose methods are counted."""

    def __init__(self, port: Any, subject: str, faults: Faults) -> None:
        self._port, self._subject, self._faults = port, subject, faults

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        method = getattr(self._port, verb)

        def called(*args: Any, **kwargs: Any) -> Any:
            return self._faults.around(Call(self._subject, verb), lambda: method(*args, **kwargs))

        return called


class Logbook:
    """A journal in memory that keeps what DBOS would, as JSON; tests/unit/test_journal.py holds them to the same."""

    def __init__(self) -> None:
        self.noted: list[Noted] = []
        self.attempts = 0
        self.outcome: Outcome | None = None

    def attempt(self, plan: Plan, world: World, faults: Faults) -> Outcome:
        """As `vmacro migrate`, and afterwards as `vmacro resume`, would."""
        steps = inherited(self.noted, self.outcome)
        self.noted, self.outcome, self.attempts = list(steps), None, self.attempts + 1
        journal = _Steps(self, {noted.name: noted for noted in steps}, faults)
        self.outcome = migrate.run_move(plan, world, journal, again=self.attempts > 1)
        return self.outcome


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # slow to make


class _Steps:
    """Implements phases.Journal."""

    def __init__(self, book: Logbook, known: dict[str, Noted], faults: Faults) -> None:
        self._book, self._known, self._faults = book, known, faults

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        noted = self._known.get(name)
        if noted is not None and noted.error is not None:
            raise noted.error
        adapter: TypeAdapter[Result] = _adapter(kind)  # type: ignore[arg-type]
        if noted is not None:
            return adapter.validate_python(noted.result)
        try:
            plain = adapter.dump_python(act(), mode="json")
        except VmacroError as error:
            self._write(Noted(name, error=error))
            raise
        self._write(Noted(name, plain))
        return adapter.validate_python(plain)

    def _write(self, noted: Noted) -> None:
        self._faults.around(Call("journal", "write"), lambda: self._book.noted.append(noted))
