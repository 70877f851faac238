"""Runs a playbook with ansible-runner, and reports each task of each host as it happens."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible_runner

from vmacro import private
from vmacro.errors import ProvisioningError
from vmacro.provisioning import ansible_inventory
from vmacro.wire.text import escaped, printable

KINDS = {
    "runner_on_ok": "ok",
    "runner_on_skipped": "skipped",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_start": "begins",
}


@dataclass(frozen=True)
class Task:
    """One task at one host; `kind`: begins, ok, changed, skipped, failed, ignored or unreachable."""

    host: str
    name: str
    kind: str
    said: str = ""


@dataclass(frozen=True)
class Options:
    """As ansible-playbook's options of these names; empty tags and limit: everything."""

    check: bool = False
    diff: bool = False
    tags: tuple[str, ...] = ()
    limit: tuple[str, ...] = ()


@dataclass
class Recap:
    """How a run ended. `counts`: for each host, how many tasks ended in which way (Task.kind)."""

    folder: Path
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[Task] = field(default_factory=list)

    def count(self, task: Task) -> None:
        """Take a task into account; one that only begins does not count."""
        if task.kind == "begins":
            return
        host = self.counts.setdefault(task.host, {})
        host[task.kind] = host.get(task.kind, 0) + 1
        if task.kind in ("failed", "unreachable"):
            self.failures.append(task)

    def total(self, kind: str) -> int:
        """How many tasks ended this way, over all hosts."""
        return sum(host.get(kind, 0) for host in self.counts.values())


def run(
    machines: dict[str, Any], playbook: str, options: Options, folder: Path, report: Callable[[Task], None]
) -> Recap:
    """Run a playbook on `machines`, an inventory of Ansible's. `folder` keeps that inventory, the log and artefacts.

    Raises ProvisioningError if a host failed or did not answer.
    """
    private.folder(folder)
    inventory = folder / "inventory.json"
    private.write(inventory, json.dumps(machines, indent=1))
    recap = Recap(folder)

    def see(event: dict[str, Any]) -> bool:
        task = _task(event)
        if task is not None:
            recap.count(task)
            report(task)
        return True

    # Each run has SSH sessions of its own: a kept one of another run was opened with that run's known hosts.
    with (
        _signals_given_back(),
        _kept_private(folder),
        tempfile.TemporaryDirectory(prefix="vmacro-ssh-") as sessions,
    ):
        runner = ansible_runner.run(
            private_data_dir=str(folder),
            playbook=str(ansible_inventory.playbooks() / f"{playbook}.yml"),
            inventory=str(inventory),
            envvars={**_environment(), "ANSIBLE_SSH_CONTROL_PATH_DIR": sessions},
            cmdline=" ".join(_words(options)),
            quiet=True,
            event_handler=see,
            ident="run",
            rotate_artifacts=0,
        )
    if recap.failures or runner.status != "successful":
        raise _failed(recap, playbook, runner)
    return recap


@contextmanager
def _signals_given_back() -> Iterator[None]:
    """ansible-runner installs handlers for Ctrl-C and SIGTERM, which end the playbook, and leaves them installed."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _kept_private(folder: Path) -> Iterator[None]:
    """What ansible-runner and Ansible write is ours alone. With what it ran, ansible-runner keeps all of our
    environment, and there may be passwords in that."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
        (folder / "artifacts/run/command").unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "ANSIBLE_CONFIG": str(ansible_inventory.playbooks() / "ansible.cfg"),
        "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner turns it off unless told otherwise
    }


def _words(options: Options) -> list[str]:
    words = ["--check"] if options.check else []
    words += ["--diff"] if options.diff else []
    words += [f"--tags={','.join(options.tags)}"] if options.tags else []
    return words + ([f"--limit={','.join(options.limit)}"] if options.limit else [])


def _task(event: dict[str, Any]) -> Task | None:
    """What a host answered is its own words: typed here, and escaped."""
    data, kind = event.get("event_data") or {}, KINDS.get(event["event"])
    if kind is None:
        return None
    result = data.get("res")
    if not isinstance(result, dict):
        result = {}
    if kind == "ok" and result.get("changed"):
        kind = "changed"
    if kind == "failed" and data.get("ignore_errors"):
        kind = "ignored"
    host, name = (printable(str(data.get(key, "")), 200) for key in ("host", "task"))
    return Task(host, name, kind, _said(result) if kind != "ok" else "")


def _said(result: dict[str, Any]) -> str:
    """What a person needs to see of a result: its message, and the end of what the command wrote."""
    if result.get("censored"):
        return printable(str(result["censored"]))
    parts = [str(result[key]).strip()[-600:] for key in ("msg", "stderr") if result.get(key)]
    items = result.get("results")
    failed = [r for r in items if isinstance(r, dict) and r.get("failed")] if isinstance(items, list) else []
    parts += [str(r.get("msg", ""))[:600] for r in failed[:3]]
    return escaped(" ".join("; ".join(parts).split()))


def _failed(recap: Recap, playbook: str, runner: Any) -> ProvisioningError:
    if runner.status == "canceled":
        return ProvisioningError(f"playbook {playbook}: interrupted", "it may be run again, and goes on where it was")
    if not recap.failures:
        said = Path(runner.config.artifact_dir, "stdout").read_text(errors="replace").strip()[-800:]
        return ProvisioningError(f"playbook {playbook}: ended with {runner.status!r}: {said}", f"see {recap.folder}")
    lines = [f"{t.host}: {t.name}: {t.kind}: {t.said}" for t in recap.failures]
    return ProvisioningError("\n".join(lines), f"all of it: {recap.folder}; it may be run again as it is")
