"""What a host starts for its disks: each command as it is, and what of its words is told. The programs are stubs; the
real ones run in tests/lab."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vmacro.host import disks
from vmacro.host.disks import Copy, DiskError
from vmacro.wire.host_verbs import Disk, Fetching

ID = "ab12cd34ef56"
SERVE, FETCH = f"vmacro-serve-{ID}.service", f"vmacro-fetch-{ID}.service"
CREDENTIALS = "/etc/pki/qemu"
CONFINED = [
    "ProtectSystem=strict",
    "NoNewPrivileges=yes",
    "DevicePolicy=closed",
    "CapabilityBoundingSet=CAP_DAC_OVERRIDE",
    f"BindReadOnlyPaths={CREDENTIALS}",
    "BindReadOnlyPaths=-/etc/ld.so.cache",
]
BOUNDED = ["RuntimeMaxSec=86400", "Nice=5", "IOSchedulingClass=idle"]
COVERED = "--property=TemporaryFileSystem="
STUB = """#!/bin/sh
line="$(basename "$0")"
for word in "$@"; do line="$line|$word"; done
echo "$line" >> "{log}"
{answer}
"""


@dataclass(frozen=True)
class Programs:
    """Stubs in place of systemd's and QEMU's programs, by shell: `$*` is what they were asked."""

    folder: Path

    def answer(self, name: str, shell: str) -> None:
        (self.folder / name).write_text(STUB.format(log=self.folder / "log", answer=shell))
        (self.folder / name).chmod(0o755)

    def asked(self) -> list[list[str]]:
        """All that were started, in order; which folders of this machine were covered is left out."""
        lines = (self.folder / "log").read_text().splitlines() if (self.folder / "log").exists() else []
        return [[word for word in line.split("|") if not word.startswith(COVERED)] for line in lines]

    def started(self) -> list[list[str]]:
        return [words for words in self.asked() if words[0] in ("systemd-run", "qemu-img")]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs(tmp_path / "programs")
    made.folder.mkdir()
    for name, shell in (("systemctl", "echo inactive"), ("systemd-run", ""), ("journalctl", ""), ("qemu-img", "")):
        made.answer(name, shell)
    monkeypatch.setenv("PATH", f"{made.folder}:/usr/bin:/bin")
    return made


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


@pytest.fixture
def copy(pool: Path, programs: Programs) -> Iterator[Copy]:
    """A base and the guest's overlay on it, in one of two pools."""
    (pool / "web.qcow2").write_bytes(b"base" * 4096)
    (pool / f"web.qcow2.vmacro-{ID}").write_bytes(b"")
    with disks.opened(Disk(ID, f"{pool}/web.qcow2", "qcow2"), lambda: [str(pool), "/srv/templates"]) as found:
        yield found


def unit(name: str, description: str, *properties: str) -> list[str]:
    """systemd-run and its options, as each unit of ours has them."""
    words = ["systemd-run", "--quiet", f"--unit={name}", f"--description={description}"]
    known = [*CONFINED, "BindReadOnlyPaths=-/srv/templates", *properties]
    return [*words, *(f"--property={each}" for each in known)]


def test_a_base_is_served_by_one_unit(programs: Programs, copy: Copy, pool: Path) -> None:
    assert disks.serve(copy, "192.0.2.1", "d1") == 49215
    seen, reset, failed, started = programs.asked()
    assert seen == ["systemctl", "show", "--value", "--property", "Description", SERVE]
    assert (reset, failed) == (["systemctl", "stop", SERVE], ["systemctl", "reset-failed", SERVE])
    assert started == [
        *unit(SERVE, f"vmacro: d1 reads {pool}/web.qcow2 at port 49215", f"BindReadOnlyPaths={pool}"),
        "--service-type=forking",
        *(f"--property={each}" for each in BOUNDED),
        *("--", "qemu-nbd", "--read-only", "--persistent", "--shared=4", "--format", "qcow2"),
        *("--bind", "192.0.2.1", "--port", "49215", "--export-name", ID),
        *("--object", f"tls-creds-x509,id=tls0,endpoint=server,dir={CREDENTIALS},verify-peer=yes"),
        *("--tls-creds", "tls0", "--object", "authz-simple,id=reader,identity=CN=d1", "--tls-authz", "reader"),
        *("--fork", f"{pool}/web.qcow2"),
    ]


def test_a_base_is_fetched_by_one_unit(programs: Programs, copy: Copy, pool: Path) -> None:
    copy.base.unlink()
    disks.fetch(copy, "192.0.2.1", 49216, "b1", 19 << 20)
    state, stopped, failed, started = programs.asked()
    assert state == ["systemctl", "show", "--value", "--property", "ActiveState", FETCH]
    assert (stopped, failed) == (["systemctl", "stop", FETCH], ["systemctl", "reset-failed", FETCH])
    source = f"driver=nbd,server.type=inet,server.host=192.0.2.1,server.port=49216,export={ID}"
    assert started == [
        *unit(FETCH, f"vmacro: fetching {pool}/web.qcow2", f"BindPaths={pool}", f"ReadWritePaths={pool}"),
        *("--service-type=exec", "--remain-after-exit"),
        *(f"--property={each}" for each in BOUNDED),
        *("--", "qemu-img", "convert", "-O", "qcow2", "-t", "none", "-T", "none", "-r", str(19 << 20)),
        *("--object", f"tls-creds-x509,id=tls0,endpoint=client,dir={CREDENTIALS}"),
        *("--image-opts", f"{source},tls-creds=tls0,tls-hostname=b1", f"{pool}/web.qcow2.vmacro-{ID}.part"),
    ]


def test_a_pool_is_seen_though_it_is_a_folder_of_the_root(programs: Programs, copy: Copy, pool: Path) -> None:
    disks.freeze(copy)
    with disks.opened(Disk(ID, f"{pool}/web.qcow2", "qcow2"), lambda: [str(pool), "/var"]) as found:
        disks.serve(found, "192.0.2.1", "d1")
    log = (programs.folder / "log").read_text()
    assert f"{COVERED}/var:ro" not in log and f"{COVERED}/etc:ro" in log


def test_an_overlay_is_made_of_the_bases_format(programs: Programs, copy: Copy, pool: Path) -> None:
    (pool / "raw.img").write_bytes(b"base")
    (pool / f"raw.img.vmacro-{ID}").write_bytes(b"")
    with disks.opened(Disk(ID, f"{pool}/raw.img", "raw"), lambda: [str(pool)]) as raw:
        disks.freeze(raw)
        disks.create_overlay(raw)
        target = f"/proc/self/fd/{raw.folder.descriptor}/raw.img.vmacro-{ID}"
    (made,) = programs.started()
    assert made == ["qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{pool}/raw.img", "-F", "raw", target]


def test_how_far_a_base_is_is_asked_of_its_unit(programs: Programs, copy: Copy) -> None:
    copy.base.unlink()
    programs.answer("systemctl", "echo failed")
    programs.answer("journalctl", 'test "$1" = --sync || echo no room')
    assert disks.fetched(copy).trouble == "no room"
    show = ["systemctl", "show", "--value", "--property"]
    last = ["journalctl", "-u", FETCH, "-n", "2", "-o", "cat", "_TRANSPORT=stdout"]
    expected = [[*show, "ActiveState", FETCH], [*show, "SubState", FETCH], ["journalctl", "--sync"], last]
    assert programs.asked() == expected


def test_to_stop_ends_both_units(programs: Programs, copy: Copy) -> None:
    disks.stop(copy, drop_overlay=False)
    verbs = ("stop", "reset-failed")
    assert programs.asked() == [["systemctl", verb, name] for name in (SERVE, FETCH) for verb in verbs]


def begin(verb: str, copy: Copy) -> None:
    """Any of the three that start a program."""
    if verb == "serve":
        disks.serve(copy, "192.0.2.1", "d1")
    elif verb == "fetch":
        copy.base.unlink()
        disks.fetch(copy, "192.0.2.1", 49216, "b1", 0)
    else:
        disks.freeze(copy)
        disks.create_overlay(copy)


@pytest.mark.parametrize(
    ("verb", "subject"), [("serve", ""), ("fetch", ""), ("overlay", f".vmacro-{ID}")], ids=["serve", "fetch", "overlay"]
)
@pytest.mark.parametrize("odd", [r"\377\376", r"\033[2J"], ids=["no text", "a terminal's order"])
def test_what_a_program_says_is_told_whatever_bytes_it_is(
    programs: Programs, copy: Copy, pool: Path, verb: str, subject: str, odd: str
) -> None:
    """qemu-img repeats names that an image has, and those a guest may have written."""
    said = f"printf 'no such file {odd}!' >&2; exit 1"
    for name in ("systemd-run", "qemu-img"):
        programs.answer(name, said)
    with pytest.raises(DiskError, match=r"no such file .*!\Z") as told:
        begin(verb, copy)
    assert str(told.value).startswith(f"{pool}/web.qcow2{subject}: cannot be ")


def test_what_a_units_program_said_is_told_whatever_bytes_it_is(programs: Programs, copy: Copy) -> None:
    copy.base.unlink()
    programs.answer("systemctl", r"printf '\377'")
    programs.answer("journalctl", r"printf '\377: no room\n'")
    assert disks.fetched(copy) == Fetching(False, 0, "\N{REPLACEMENT CHARACTER}: no room")


@pytest.mark.parametrize("verb", ["serve", "fetch", "overlay", "fetched", "stop"])
def test_nothing_that_a_program_says_comes_into_the_channel(
    programs: Programs, copy: Copy, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    """Standard output of the host side is what the orchestrator reads."""
    for name in ("systemctl", "systemd-run", "journalctl", "qemu-img"):
        programs.answer(name, "echo inactive; echo noise >&2")
    if verb == "stop":
        disks.stop(copy, drop_overlay=True)
    elif verb == "fetched":
        disks.fetched(copy)
    else:
        begin(verb, copy)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verb", ["serve", "fetch", "overlay"])
def test_of_much_that_a_program_says_the_end_is_told(programs: Programs, copy: Copy, verb: str) -> None:
    said = "printf '%500s' | tr ' ' a >&2; printf '%400s' | tr ' ' b >&2; exit 1"
    for name in ("systemd-run", "qemu-img"):
        programs.answer(name, said)
    with pytest.raises(DiskError) as told:
        begin(verb, copy)
    assert str(told.value).endswith(f": {'b' * 400}")


def test_of_much_that_a_unit_says_the_end_is_told(programs: Programs, copy: Copy) -> None:
    copy.base.unlink()
    programs.answer("journalctl", "printf '%500s' | tr ' ' a; printf '%400s' | tr ' ' b")
    assert disks.fetched(copy).trouble == "b" * 400


def test_a_program_that_says_nothing_is_told_by_how_it_ended(programs: Programs, copy: Copy) -> None:
    programs.answer("systemd-run", "exit 7")
    with pytest.raises(DiskError, match=r"cannot be served: systemd-run ended with 7\Z"):
        disks.serve(copy, "192.0.2.1", "d1")


def test_once_all_ports_are_in_use_that_is_said(
    programs: Programs, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "PORTS", (49215, 49214))
    programs.answer("systemd-run", "echo Address already in use >&2; exit 1")
    with pytest.raises(DiskError, match="cannot be served: Address already in use"):
        disks.serve(copy, "192.0.2.1", "d1")
    assert len(programs.started()) == 2 and [words[1] for words in programs.asked()[-2:]] == ["stop", "reset-failed"]


def test_an_overlay_that_takes_for_ever_is_given_up(
    programs: Programs, copy: Copy, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks.freeze(copy)
    monkeypatch.setattr(disks, "OVERLAY_S", 0.1)
    programs.answer("qemu-img", "exec sleep 60")
    with pytest.raises(DiskError, match=rf"{pool}/web.qcow2.vmacro-{ID}: was not made within 0.1 s\Z"):
        disks.create_overlay(copy)


def test_what_has_come_and_is_not_there_is_no_base(programs: Programs, copy: Copy, pool: Path) -> None:
    copy.base.unlink()
    programs.answer("systemctl", 'case "$*" in *ActiveState*) echo active;; *) echo exited;; esac')
    with pytest.raises(DiskError, match=rf"{pool}/web.qcow2.vmacro-{ID}.part: is not there\Z"):
        disks.fetched(copy)


def test_who_asks_for_a_disk_elsewhere_is_told_where_disks_are(pool: Path) -> None:
    disk = Disk(ID, "/elsewhere/web.qcow2", "qcow2")
    known: Callable[[list[str]], object] = lambda folders: disks.opened(disk, lambda: folders).__enter__()  # noqa: E731
    with pytest.raises(DiskError, match=r"/elsewhere/web.qcow2: lies in no .*; they are at /a, /b\Z") as told:
        known(["/a", "/b"])
    assert told.value.code == "disk"
    with pytest.raises(DiskError, match=r"they are at none\Z"):
        known([])
