"""What may befall the orchestrator itself: its disk, its database, its clock, its colleagues."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.breaking import Attempt, Scene, places
from tests.postgres import Server
from tests.support import (
    Vmacro,
    Way,
    address_of,
    clients,
    eventually,
    site_of,
    traces_of_moves,
    uncompressed,
    verdicts,
    without_probers,
)
from vmacro import inventory
from vmacro.lab.lab import Lab
from vmacro.model.facts import AgentFacts
from vmacro.services.archive import Archive

pytestmark = pytest.mark.lab
# The wall clock of one process, and of all libraries in it, from a file; libfaketime breaks Python's sleep().
JUMPING_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET_FILE"), "r");
    if (file && fscanf(file, "%ld", &seconds) != 1) seconds = 0;
    if (file) fclose(file);
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += offset();
    return failed;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec, now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
"""


@pytest.fixture
def quiet(vmacro: Vmacro) -> Vmacro:
    return uncompressed(without_probers(vmacro))


SLOWLY = ("--bandwidth-mib-s", "4")  # a copy that lasts


def under_way(lab: Lab, vmacro: Vmacro, way: Way, moment: str, *words: str, **kwargs: object) -> Attempt:
    found = Scene(lab, vmacro, way.here, way.there).migrate(*words, **kwargs)
    assert found.until(moment), found.errors
    return found


@pytest.fixture
def on_postgres(quiet: Vmacro, postgres: Server) -> Vmacro:
    return quiet.altered(
        "postgres.toml", lambda t: t.replace("[policy]", f'database_url = "{postgres.url}"\n\n[policy]')
    )


@pytest.fixture
def on_a_small_disk(lab: Lab, quiet: Vmacro) -> Iterator[tuple[Vmacro, Path]]:
    """The journal on a file system of its own."""
    disk = quiet.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "vmacro-test", str(disk)], check=True)
    try:
        state = f'state_dir = "{lab.folder}"'
        yield quiet.altered("small.toml", lambda t: t.replace(state, f'state_dir = "{disk}"')), disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return  # full: that is what was wanted


@pytest.mark.parametrize(("moment", "code"), [("prepare", 4), ("copying", 5)])
def test_its_disk_is_full(lab: Lab, on_a_small_disk: tuple[Vmacro, Path], way: Way, moment: str, code: int) -> None:
    """Before the guest has left, it stays; once it has arrived, the move goes to its end all the same."""
    (vmacro, disk), before = on_a_small_disk, traces_of_moves(lab)
    # Who does not join is waited for: the disk is full before that step ends.
    client = "deaf" if moment == "prepare" else "client"
    with clients(lab, client, address_of(lab, "web"), "chatter") as process:
        attempt = under_way(lab, vmacro, way, moment)
        fill(disk)
        assert attempt.end() == code, attempt.errors
        assert places(lab) == [way.here if code == 4 else way.there]
        said = attempt.events[-1]["reason"]
        assert "journal cannot be written" in said and "disk" in said
        (disk / "ballast").unlink()
        done = vmacro("resume", "--json")
        assert done.returncode in (0, 4), done.stdout + done.stderr
        assert verdicts(process) == {"chatter": ""}
    assert vmacro("carry").returncode == 0  # where resume has moved it: for who did not join
    assert len(places(lab)) == 1 and traces_of_moves(lab) == before
    with closing(Archive(inventory.load(vmacro.inventory).database_url)) as archive:
        assert archive.unfinished() == []


def test_a_move_on_postgresql_that_is_restarted_meanwhile(
    lab: Lab, on_postgres: Vmacro, postgres: Server, way: Way
) -> None:
    before = traces_of_moves(lab)
    attempt = under_way(lab, on_postgres, way, "copying")
    postgres.restart()
    assert attempt.end() == 0, attempt.errors
    assert places(lab) == [way.there] and traces_of_moves(lab) == before
    history = json.loads(on_postgres("history", "--json").stdout)
    assert (history[0]["ended"], history[0]["attempts"]) == ("moved", 1)


def test_a_move_on_postgresql_that_is_killed_and_resumed(lab: Lab, on_postgres: Vmacro, way: Way) -> None:
    attempt = under_way(lab, on_postgres, way, "copying")
    attempt.process.kill()
    attempt.end()
    done = on_postgres("resume", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert places(lab) == [way.there]


def test_two_operators_at_once(lab: Lab, quiet: Vmacro, on_postgres: Vmacro, way: Way) -> None:
    """The second is told who has the guest and since when: with the same journal, and with another."""
    attempt = under_way(lab, quiet, way, "copying", *SLOWLY)
    same = quiet("migrate", "web", "--to", way.there)
    other = on_postgres("migrate", "web", "--to", way.there)
    assert attempt.end() == 0, attempt.errors
    assert same.returncode == other.returncode == 3
    assert f"(process {attempt.process.pid}) since" in same.stderr, same.stderr
    assert "move web-" in other.stderr and "has had it for" in other.stderr, other.stderr
    assert places(lab) == [way.there]


def test_a_mover_that_is_lost_for_good_can_be_taken_over(
    lab: Lab, quiet: Vmacro, on_postgres: Vmacro, way: Way
) -> None:
    """Its journal is on another machine: only the guest itself knows of it."""
    before = traces_of_moves(lab)
    attempt = under_way(lab, quiet, way, "prepare")
    attempt.process.kill()
    attempt.end()
    refused = on_postgres("migrate", "web", "--to", way.there)
    assert refused.returncode == 3 and "--take-over" in refused.stderr, refused.stderr
    done = on_postgres("migrate", "web", "--to", way.there, "--take-over", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (unfinished,) = [r["move"] for r in json.loads(quiet("history", "--json").stdout) if r["ended"] == "not yet"]
    ended = quiet("abort", unfinished, "--json")
    assert places(lab) == [way.there], ended.stdout + ended.stderr
    assert quiet("cleanup").returncode == 0
    assert traces_of_moves(lab) == before


def test_its_clock_jumps_by_an_hour(lab: Lab, quiet: Vmacro, way: Way) -> None:
    """The wall clock; deadlines do not run by it."""
    offset, shim = quiet.folder / "offset", quiet.folder / "clock.so"
    offset.write_text("0")
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(shim), "-ldl"]
    subprocess.run(command, input=JUMPING_CLOCK, text=True, check=True)
    faked = {"LD_PRELOAD": str(shim), "CLOCK_OFFSET_FILE": str(offset)}
    with clients(lab, "client", address_of(lab, "web"), "chatter") as process:
        attempt = under_way(lab, quiet, way, "copying", env=faked)
        offset.write_text("3600")
        assert attempt.end() == 0, attempt.errors
        assert verdicts(process) == {"chatter": ""}
    stamps = [e["wall_ns"] for e in attempt.events if "wall_ns" in e]
    assert stamps[-1] - stamps[0] > 3500e9, "the clock did jump"
    assert site_of(lab, "web") == way.there


def test_killed_before_the_guest_has_left_and_aborted(lab: Lab, quiet: Vmacro, way: Way) -> None:
    before = traces_of_moves(lab)
    attempt = under_way(lab, quiet, way, "copying", *SLOWLY)
    attempt.process.send_signal(signal.SIGKILL)
    attempt.end()
    (unfinished, *_) = [r["move"] for r in json.loads(quiet("history", "--json").stdout) if r["ended"] == "not yet"]
    done = quiet("abort", unfinished, "--json")
    assert done.returncode == 4, done.stdout + done.stderr
    assert places(lab) == [way.here] and traces_of_moves(lab) == before
    shown = quiet("show", unfinished).stdout
    assert "rolled back" in shown and "left: nothing" in shown


def test_the_agent_finishes_alone_and_a_copy_that_never_converges_is_given_up(
    lab: Lab, quiet: Vmacro, way: Way
) -> None:
    """Nobody asks `web` for anything after it has arrived. It waits for a minute and a half, in which another guest's
    copy has the time that it takes."""
    old = address_of(lab, "web")
    with clients(lab, "client", old, "chatter", "idle") as process:
        attempt = under_way(lab, quiet, way, "switched")
        attempt.process.kill()
        attempt.end()
        with never_converging(lab, quiet):
            eventually(lambda: settled(facts(lab), old), "the old address to be withdrawn", every_s=2, within_s=180)
            assert all(s["local"] != old for c in connections_of(lab, quiet) for s in c["subflows"])
        assert quiet("resume", "--json").returncode == 0
        assert verdicts(process) == {"chatter": "", "idle": ""}


@contextmanager
def never_converging(lab: Lab, vmacro: Vmacro) -> Iterator[None]:
    """A move of `busy`, which dirties 4 MiB/s; no more are sent, and nobody slows it down. It ends early by itself."""
    stubborn = vmacro.altered("stubborn.toml", lambda t: t.replace("[policy]\n", "[policy]\nauto_converge = false\n"))
    home = site_of(lab, "busy")
    to = next(s for s in lab.topology.sites if s != home)
    attempt = Attempt(stubborn.start("migrate", "busy", "--to", to, "--bandwidth-mib-s", "3", "--json"))
    try:
        yield
        code = attempt.end()
    finally:
        attempt.process.kill()
    assert code == 4, attempt.errors
    assert "does not converge" in attempt.events[-1]["reason"]
    assert "copy.warning" in {event.get("kind") for event in attempt.events}
    assert site_of(lab, "busy") == home


def test_what_was_announced_for_a_move_that_never_came_expires(lab: Lab, quiet: Vmacro, way: Way) -> None:
    short = "[policy]\nmove_timeout_s = 5\narrival_timeout_s = 2\nsettle_timeout_s = 2\nphase_timeout_s = 6\n"
    brief = quiet.altered("brief.toml", lambda t: t.replace("[policy]\n", short))
    before = traces_of_moves(lab)
    with clients(lab, "client", address_of(lab, "web"), "chatter") as process:
        attempt = under_way(lab, brief, way, "copy")
        attempt.process.kill()
        attempt.end()
        eventually(lambda: prepared(facts(lab)), "the claim and what is announced")
        eventually(lambda: expired(facts(lab)), "the claim and what it announced to end", every_s=2, within_s=180)
        assert all(len(c["subflows"]) == 1 for c in connections_of(lab, quiet))
        (unfinished, *_) = [r["move"] for r in json.loads(quiet("history", "--json").stdout) if r["ended"] == "not yet"]
        assert brief("abort", unfinished, "--json").returncode == 4
        assert verdicts(process) == {"chatter": ""}
    assert traces_of_moves(lab) == before and places(lab) == [way.here]


def settled(now: AgentFacts | None, old: str) -> bool:
    return now is not None and now.address != old and now.extra_addresses == ()


def prepared(now: AgentFacts | None) -> bool:
    return now is not None and now.claim is not None and now.extra_addresses != ()


def expired(now: AgentFacts | None) -> bool:
    return now is not None and now.claim is None and now.extra_addresses == ()


def facts(lab: Lab) -> AgentFacts | None:
    """None while its agent is busy."""
    return lab.guest("web").agent


def connections_of(lab: Lab, vmacro: Vmacro) -> list[dict[str, Any]]:
    done = vmacro("connections", "web", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.slow("a minute; the same in memory: test_reservations, test_dhcp_entries")
def test_two_of_them_send_guests_to_one_site_at_once(lab: Lab, quiet: Vmacro, way: Way) -> None:
    """Each has a journal of its own, and knows of the other's move by what DHCP keeps at the destination alone."""
    if site_of(lab, "busy") != way.here:
        assert quiet("migrate", "busy", "--to", way.here, "--json").returncode == 0
    own = f'state_dir = "{quiet.folder / "other"}"'
    (quiet.folder / "other").mkdir()
    other = quiet.altered("other.toml", lambda t: t.replace(f'state_dir = "{lab.folder}"', own))
    before = traces_of_moves(lab)
    moves = [v.start("migrate", guest, "--to", way.there, "--json") for v, guest in ((quiet, "web"), (other, "busy"))]
    said = [move.communicate(timeout=300) for move in moves]
    assert [move.returncode for move in moves] == [0, 0], said
    assert site_of(lab, "busy") == site_of(lab, "web") == way.there
    assert address_of(lab, "busy") != address_of(lab, "web") and traces_of_moves(lab) == before
