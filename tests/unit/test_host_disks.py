"""The host side's disks: by what it knows a base again, and that it touches nothing but regular files in a pool. The
copying itself is in tests/lab."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from vmacro.host import disks, pools
from vmacro.host.disk_verbs import DiskVerbs
from vmacro.host.disks import Copy, DiskError
from vmacro.host.dispatch import Dispatcher
from vmacro.host.errors import RefusedError
from vmacro.host.folder import Folder
from vmacro.wire import host_verbs, messages
from vmacro.wire.fields import encode
from vmacro.wire.host_verbs import BaseFacts, Disk, Fetching, Stop
from vmacro.wire.messages import Reply, Request

ID = "ab12cd34ef56"
ANYWHERE = "disk-files"  # asks of files wherever they are, whether they are there: tests/unit/test_host_side.py
VERBS = sorted(verb for verb in host_verbs.VERBS if verb.startswith("disk-") and verb != ANYWHERE)
STUB = '#!/bin/sh\necho "$0 $*" >> "{log}"\n{answer}\n'
SECRET = "nobody's business"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    made = tmp_path / "pool"
    made.mkdir()
    return made


@pytest.fixture
def copy(pool: Path) -> Iterator[Copy]:
    (pool / "web.qcow2").write_bytes(b"base")
    with disks.opened(Disk(ID, f"{pool}/web.qcow2", "qcow2"), lambda: [str(pool)]) as found:
        yield found


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The programs that were started and could have touched a file, in place of the real ones."""
    log, programs = tmp_path / "log", tmp_path / "programs"
    programs.mkdir()
    answers = {"systemctl": "echo inactive", "qemu-img": "", "systemd-run": "", "journalctl": ""}
    for name, answer in answers.items():
        (programs / name).write_text(STUB.format(log=log, answer=answer))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    def lines() -> list[str]:
        said = log.read_text().splitlines() if log.exists() else []
        return [line for line in said if Path(line.split()[0]).name in ("qemu-img", "systemd-run")]

    return lines


@pytest.mark.parametrize(
    ("said", "told"),
    [("qemu-img: error while writing: No space left on device", "No space left on device"), ("", "Failed to start")],
)
def test_why_a_base_is_not_fetched_is_told_by_its_program_if_it_said_anything(
    tmp_path: Path, pool: Path, started: Callable[[], list[str]], said: str, told: str
) -> None:
    programs = tmp_path / "programs"
    fails = "echo 'Failed to start unit vmacro-fetch: it had been told so' >&2; exit 1"
    for name, answer in (("systemd-run", fails), ("journalctl", f"echo '{said}'")):
        (programs / name).write_text(STUB.format(log=tmp_path / "log", answer=answer))
    wanted = Disk(ID, f"{pool}/web.qcow2", "qcow2")
    with (
        disks.opened(wanted, lambda: [str(pool)]) as found,
        pytest.raises(disks.DiskError, match=f"cannot be fetched: .*{told}"),
    ):
        disks.fetch(found, "192.0.2.1", 49215, "d1", 0)


def unit(tmp_path: Path, state: str, sub: str = "", said: str = "", description: str = "") -> None:
    """What systemd says of the unit that serves or fetches, and what its program said last."""
    asked = f'case "$*" in *ActiveState*) echo {state};; *SubState*) echo {sub};; *Desc*) echo "{description}";; esac'
    for name, answer in (("systemctl", asked), ("journalctl", f"echo '{said}'")):
        (tmp_path / "programs" / name).write_text(STUB.format(log=tmp_path / "log", answer=answer))


def test_what_has_come_whole_gets_its_name_and_its_note(
    tmp_path: Path, copy: Copy, pool: Path, started: object
) -> None:
    (pool / copy.name).rename(pool / copy.part)
    unit(tmp_path, "active", "exited")
    whole = (pool / copy.part).stat().st_blocks * 512
    assert disks.fetched(copy) == Fetching(True, whole) and disks.look(copy).same
    assert f"systemctl stop vmacro-fetch-{ID}.service" in (tmp_path / "log").read_text()
    unit(tmp_path, "inactive", "dead")
    assert disks.fetched(copy) == Fetching(True, whole), "also who asks again is told so"
    assert _names(pool) == {copy.name, copy.note}


def test_what_comes_in_the_way_of_a_base_is_not_overwritten(tmp_path: Path, copy: Copy, started: object) -> None:
    unit(tmp_path, "active", "exited")
    with pytest.raises(DiskError, match="is here already, and is not the guest's"):
        disks.fetched(copy)


@pytest.mark.parametrize(
    ("state", "said", "trouble"),
    [
        ("active", "", ""),
        ("failed", "qemu-img: No space left on device", "qemu-img: No space left on device"),
        ("failed", "", "its unit is failed"),
        ("inactive", "", "its unit is inactive"),
    ],
)
def test_how_far_a_base_is(
    tmp_path: Path, copy: Copy, pool: Path, started: object, state: str, said: str, trouble: str
) -> None:
    (pool / copy.name).unlink()
    (pool / copy.part).write_bytes(b"half" * 4096)
    unit(tmp_path, state, "running", said)
    assert disks.fetched(copy) == Fetching(False, (pool / copy.part).stat().st_blocks * 512, trouble)


def test_a_base_that_comes_or_has_come_is_not_fetched_twice(
    tmp_path: Path, copy: Copy, pool: Path, started: Callable[[], list[str]]
) -> None:
    for state in ("active", "activating"):
        unit(tmp_path, state)
        disks.fetch(copy, "192.0.2.1", 49215, "d1", 0)
    unit(tmp_path, "inactive")
    with pytest.raises(DiskError, match="is here already, and is not the guest's"):
        disks.fetch(copy, "192.0.2.1", 49215, "d1", 0)
    assert started() == []


def test_a_base_is_fetched_from_one_host_as_fast_as_it_may(
    copy: Copy, pool: Path, started: Callable[[], list[str]]
) -> None:
    (pool / copy.name).unlink()
    (pool / copy.part).write_bytes(b"of an attempt that failed")
    disks.fetch(copy, "192.0.2.1", 49215, "d1", 19 << 20)
    disks.fetch(copy, "192.0.2.1", 49215, "d1", 0)
    bounded, unbounded = started()
    target = f"server.type=inet,server.host=192.0.2.1,server.port=49215,export={ID},tls-creds=tls0,tls-hostname=d1"
    for line in (bounded, unbounded):
        assert f"--image-opts driver=nbd,{target} {pool / copy.part}" in line and "endpoint=client" in line
        assert "qemu-img convert -O qcow2 -t none -T none" in line and "--remain-after-exit" in line
        assert f"--unit=vmacro-fetch-{ID}.service" in line and f"ReadWritePaths={pool}" in line
    assert f"-r {19 << 20}" in bounded and " -r " not in unbounded
    assert not (pool / copy.part).exists()


def test_a_port_that_is_in_use_is_not_the_last(
    tmp_path: Path, copy: Copy, pool: Path, started: Callable[[], list[str]]
) -> None:
    (pool / copy.overlay).write_bytes(b"")
    unit(tmp_path, "inactive", said="Failed to listen: Address already in use")
    busy = f'case "$*" in *"--port {disks.PORTS[0]} "*) exit 1;; esac'
    (tmp_path / "programs/systemd-run").write_text(STUB.format(log=tmp_path / "log", answer=busy))
    assert disks.serve(copy, "192.0.2.1", "d1") == disks.PORTS[1]
    first, second = started()
    assert f"d1 reads {copy.base} at port {disks.PORTS[1]}" in second and "--service-type=forking" in second
    between = (tmp_path / "log").read_text().split(first)[1].split(second)[0]
    assert f"systemctl reset-failed vmacro-serve-{ID}.service" in between, "or its name would be taken"


def test_who_cannot_serve_does_not_try_all_ports(
    tmp_path: Path, copy: Copy, pool: Path, started: Callable[[], list[str]]
) -> None:
    (pool / copy.overlay).write_bytes(b"")
    unit(tmp_path, "inactive", said="No such certificate")
    (tmp_path / "programs/systemd-run").write_text(STUB.format(log=tmp_path / "log", answer="exit 1"))
    with pytest.raises(DiskError, match="cannot be served: No such certificate"):
        disks.serve(copy, "192.0.2.1", "d1")
    assert len(started()) == 1


def test_who_serves_already_says_where(
    tmp_path: Path, copy: Copy, pool: Path, started: Callable[[], list[str]]
) -> None:
    (pool / copy.overlay).write_bytes(b"")
    for state, reader, served in (("active", "d1", 49219), ("failed", "d1", disks.PORTS[0]), ("active", "d2", None)):
        unit(tmp_path, state, description=f"vmacro: d1 reads {copy.base} at port 49219")
        assert disks.serve(copy, "192.0.2.1", reader) == (served or disks.PORTS[0])
    assert len(started()) == 2, "one that failed, and for another reader"


def test_an_overlay_is_made_in_the_folder_that_was_opened(
    tmp_path: Path, copy: Copy, pool: Path, started: Callable[[], list[str]]
) -> None:
    with pytest.raises(DiskError, match="is not the guest's, or was written to"):
        disks.create_overlay(copy)
    (pool / copy.overlay).write_bytes(b"")
    disks.freeze(copy)
    (tmp_path / "programs/qemu-img").write_text(
        STUB.format(log=tmp_path / "log", answer='for target in "$@"; do :; done; echo new > "$target"')
    )
    disks.create_overlay(copy)
    (line,) = started()
    assert f"create -q -f qcow2 -b {copy.base} -F qcow2 /proc/self/fd/" in line
    assert (pool / copy.overlay).read_text() == "new\n"
    answer = "echo no room >&2; exit 1"
    (tmp_path / "programs/qemu-img").write_text(STUB.format(log=tmp_path / "log", answer=answer))
    with pytest.raises(DiskError, match=f"{copy.overlay}: cannot be made: no room"):
        disks.create_overlay(copy)


def ask(host: Dispatcher, verb: str, base: object, **more: object) -> Reply:
    """Any verb about a disk, with arguments that are good otherwise."""
    disk: dict[str, Any] = {"id": ID, "base": base, "format": "raw"} | more
    special: dict[str, dict[str, Any]] = {
        "disk-serve": {"disk": disk, "address": "192.0.2.1", "reader": "d1"},
        "disk-fetch": {"disk": disk, "address": "192.0.2.1", "port": 49215, "tls_name": "d1"},
        "disk-stop": {"disk": disk, "drop_overlay": True},
    }
    args = special.get(verb, disk)
    return messages.decode_reply(host.answer(messages.encode_request(Request("a", verb, args))))


def test_an_overlay_lies_beside_its_base(copy: Copy) -> None:
    assert copy.overlay == f"web.qcow2.vmacro-{ID}" and copy.part == f"web.qcow2.vmacro-{ID}.part"
    assert not any("/" in name for name in (copy.overlay, copy.part, copy.note))


def test_a_base_is_known_by_its_note_as_long_as_nobody_touches_it(copy: Copy, pool: Path) -> None:
    assert disks.look(copy) == BaseFacts(True, False, False, copy.base.stat().st_blocks * 512)
    with pytest.raises(DiskError, match="still written to"):
        disks.freeze(copy)
    (pool / copy.overlay).write_bytes(b"")
    disks.freeze(copy)
    disks.freeze(copy)
    assert disks.look(copy).same is True
    with disks.opened(Disk("0123456789ab", str(copy.base), "qcow2"), lambda: [str(pool)]) as other:
        assert disks.look(other).same is False
    copy.base.write_bytes(b"changed")
    assert disks.look(copy).same is False
    with pytest.raises(DiskError, match="written to after it was frozen"):
        disks.freeze(copy)
    with pytest.raises(DiskError, match="is not the guest's"):
        disks.create_overlay(copy)


NOTES = ["", "not JSON", "[]", '{"id": "ab12cd34ef56"}', "[" * 4096, '{"size": 1' + "0" * 4200]


@pytest.mark.parametrize("note", NOTES)
def test_a_note_that_says_nothing_is_none(copy: Copy, pool: Path, note: str) -> None:
    (pool / copy.note).write_text(note)
    assert disks.look(copy).same is False


def test_remove_takes_only_what_is_known(copy: Copy, pool: Path, started: object) -> None:
    disks.remove(copy)
    assert copy.base.exists(), "nobody has frozen it"
    (pool / copy.overlay).write_bytes(b"")
    disks.freeze(copy)
    disks.remove(copy)
    assert not list(pool.iterdir())


def test_an_overlay_is_dropped_only_where_that_is_asked_for(copy: Copy, pool: Path, started: object) -> None:
    host = Dispatcher(DiskVerbs(lambda: [str(pool)]).handlers())
    (pool / copy.overlay).write_bytes(b"")
    (pool / copy.part).write_bytes(b"half")
    disk = Disk(copy.id, str(copy.base), copy.format)
    for drop, left in ((False, {copy.name, copy.overlay}), (True, {copy.name})):
        reply = messages.decode_reply(host.answer(host_verbs.DISK_STOP.request("a", Stop(disk, drop))))
        assert reply.ok and _names(pool) == left


def test_a_base_is_served_to_one_host_alone(copy: Copy, pool: Path, started: Callable[[], list[str]]) -> None:
    (pool / copy.overlay).write_bytes(b"")
    assert disks.serve(copy, "192.0.2.1", "d1") == disks.PORTS[0]
    (line,) = started()
    assert "authz-simple,id=reader,identity=CN=d1 --tls-authz reader" in line and "verify-peer=yes" in line
    assert f"BindReadOnlyPaths={pool}" in line and "ProtectSystem=strict" in line


def test_what_opens_images_sees_no_other_folder_and_no_device(
    copy: Copy, pool: Path, started: Callable[[], list[str]]
) -> None:
    """What an image says is below it may be any path of the host's: /dev/vda, /var/lib, /proc/1/root."""
    (pool / copy.overlay).write_bytes(b"")
    disks.serve(replace(copy, pools=(str(pool), "/srv/templates", "/srv/odd name")), "192.0.2.1", "d1")
    words = set(started()[0].split())
    there = {str(p) for p in Path("/").iterdir() if p.is_dir() and not p.is_symlink()}
    programs = {f"/{name}" for name in ("bin", "dev", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "usr")}
    assert {f"--property=TemporaryFileSystem={p}:ro" for p in there - programs} <= words and "/var" in there
    assert {"--property=DevicePolicy=closed", "--property=CapabilityBoundingSet=CAP_DAC_OVERRIDE"} <= words
    assert "--property=BindReadOnlyPaths=-/srv/templates" in words and not any("odd" in word for word in words)


def test_a_base_that_was_frozen_as_raw_is_read_as_nothing_else(copy: Copy, pool: Path, started: object) -> None:
    """A guest writes its raw disk's first bytes: they may be a header that names files of the host's."""
    raw = replace(copy, format="raw")
    (pool / copy.overlay).write_bytes(b"")
    disks.freeze(raw)
    assert disks.look(raw).same and not disks.look(copy).same
    with pytest.raises(DiskError):
        disks.serve(copy, "192.0.2.1", "d1")
    with pytest.raises(DiskError):
        disks.create_overlay(copy)


def test_a_note_of_an_older_vmacro_still_tells_whose_a_base_is(copy: Copy, pool: Path) -> None:
    (pool / copy.overlay).write_bytes(b"")
    disks.freeze(copy)
    note = json.loads((pool / copy.note).read_text())
    del note["format"]
    (pool / copy.note).write_text(json.dumps(note))
    assert disks.look(copy).same


@dataclass(frozen=True)
class Scene:
    """A pool, another folder that is none, and a host side that knows the pool alone, and /dev as if it were one."""

    pool: Path
    elsewhere: Path
    host: Dispatcher


@pytest.fixture
def scene(tmp_path: Path, pool: Path, started: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Bases that were frozen lie everywhere, so that no verb has another reason to refuse."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (pool, elsewhere, pool / "folder"):
        folder.mkdir(exist_ok=True)
        _frozen(folder, "web.raw")
    (tmp_path / "alias").symlink_to(pool)
    (pool / "door").symlink_to(elsewhere)
    (pool / "link.raw").symlink_to(elsewhere / "web.raw")
    (pool / "dangling.raw").symlink_to(elsewhere / "new.raw")
    os.mkfifo(pool / "fifo.raw")
    (pool / "folder.raw").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(pool)  # its path may be longer than a socket's may be
        listening.bind("socket.raw")
        yield Scene(pool, elsewhere, Dispatcher(DiskVerbs(lambda: [str(pool), "/dev"]).handlers()))


def _frozen(folder: Path, name: str) -> None:
    (folder / name).write_text(SECRET)
    (folder / f"{name}.vmacro-{ID}").write_text(SECRET)
    with disks.opened(Disk(ID, str(folder / name), "raw"), lambda: [str(folder)]) as copy:
        disks.freeze(copy)


HOSTILE: dict[str, Callable[[Scene], object]] = {
    "no pool": lambda s: f"{s.elsewhere}/web.raw",
    "a folder in a pool": lambda s: f"{s.pool}/folder/web.raw",
    "another name of the pool": lambda s: f"{s.pool.parent}/alias/web.raw",
    "up and down": lambda s: f"{s.pool}/../elsewhere/web.raw",
    "through a dot": lambda s: f"{s.pool}/./web.raw",
    "through two slashes": lambda s: f"{s.pool}//web.raw",
    "a link to a folder": lambda s: f"{s.pool}/door/web.raw",
    "a link to a file": lambda s: f"{s.pool}/link.raw",
    "a link to nothing": lambda s: f"{s.pool}/dangling.raw",
    "a fifo": lambda s: f"{s.pool}/fifo.raw",
    "a socket": lambda s: f"{s.pool}/socket.raw",
    "a folder": lambda s: f"{s.pool}/folder.raw",
    "a device": lambda s: "/dev/null",
    "the pool itself": lambda s: str(s.pool),
    "the pool itself, with a slash": lambda s: f"{s.pool}/",
    "a note": lambda s: f"{s.pool}/web.raw.vmacro",
    "a note to be": lambda s: f"{s.pool}/web.raw.vmacro.new",
    "a hidden file": lambda s: f"{s.pool}/.profile",
    "relative": lambda s: "web.raw",
    "an option": lambda s: "--output=/etc/passwd",
    "with a NUL": lambda s: f"{s.pool}/web.raw\0.qcow2",
    "with a line": lambda s: f"{s.pool}/web.raw\n",
    "with an option of QEMU's": lambda s: f"{s.pool}/web.raw,file.locking=off",
    "a protocol": lambda s: "nbd:192.0.2.1:10809",
    "a description": lambda s: 'json:{"driver": "raw"}',
    "a long name": lambda s: f"{s.pool}/{'x' * 250}",
    "a long path": lambda s: f"{s.pool}{'/x' * 600}",
    "nothing": lambda s: "",
    "the root": lambda s: "/",
    "no text": lambda s: 7,
    "half a character": lambda s: f"{s.pool}/\ud800.raw",
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_verb_leaves_the_pool(scene: Scene, verb: str, name: str, started: Callable[[], list[str]]) -> None:
    before = _all_files(scene)
    reply = ask(scene.host, verb, HOSTILE[name](scene))
    assert not reply.ok and reply.error_code in ("bad-args", "disk", "kernel"), reply
    assert _all_files(scene) == before and started() == []


@pytest.mark.parametrize("suffix", ["", f".vmacro-{ID}", f".vmacro-{ID}.part", ".vmacro", ".vmacro.new"])
@pytest.mark.parametrize("verb", VERBS)
def test_no_file_beside_a_base_leads_elsewhere(
    scene: Scene, verb: str, suffix: str, started: Callable[[], list[str]]
) -> None:
    """Each file that we make beside a base, as a link to another place: that place stays as it is."""
    trap, goal = scene.pool / f"web.raw{suffix}", scene.elsewhere / "goal"
    goal.write_text(SECRET)
    trap.unlink(missing_ok=True)
    trap.symlink_to(goal)
    ask(scene.host, verb, f"{scene.pool}/web.raw")
    assert goal.read_text() == SECRET and _names(scene.elsewhere) == _FROZEN | {"goal"}
    assert not any(word.endswith(f"/{trap.name}") for line in started() for word in line.split())


_FROZEN = {"web.raw", f"web.raw.vmacro-{ID}", "web.raw.vmacro"}


@pytest.mark.parametrize("verb", VERBS)
def test_in_the_pool_every_verb_works(scene: Scene, verb: str) -> None:
    """Or the tests above would show nothing."""
    reply = ask(scene.host, verb, f"{scene.pool}/web.raw")
    assert reply.ok, reply


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1", "169.254.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1"]
)
@pytest.mark.parametrize("verb", ["disk-serve", "disk-fetch"])
def test_no_disk_goes_to_or_comes_from_an_address_that_is_nobodys(scene: Scene, verb: str, address: str) -> None:
    disk = Disk(ID, f"{scene.pool}/web.raw", "raw")
    more: dict[str, object] = {"reader": "d1"} if verb == "disk-serve" else {"port": 1, "tls_name": "d1"}
    for form in (address, f"{address}%eth0"):
        args = {"disk": encode(disk), "address": form, **more}
        reply = messages.decode_reply(scene.host.answer(messages.encode_request(Request("a", verb, args))))
        assert reply.error_code == "bad-args", reply


@pytest.mark.parametrize("reader", ["", "-x", "a,b", "a b", "*", "CN=d1", "x" * 64])
def test_a_reader_is_a_hosts_name(scene: Scene, reader: str) -> None:
    args = {"disk": encode(Disk(ID, f"{scene.pool}/web.raw", "raw")), "address": "192.0.2.1", "reader": reader}
    reply = messages.decode_reply(scene.host.answer(messages.encode_request(Request("a", "disk-serve", args))))
    assert reply.error_code == "bad-args", reply


def test_what_is_put_in_the_place_of_a_pools_folder_meanwhile_is_not_touched(pool: Path, tmp_path: Path) -> None:
    """Between the look at the path and the work, the folder was moved away, and a link to another put there."""
    (pool / "a").write_text("ours")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a").write_text(SECRET)
    with Folder(str(pool)) as folder:
        pool.rename(tmp_path / "moved")
        pool.symlink_to(other)
        assert folder.read("a", 100) == "ours"
        folder.write("b", "new")
        folder.remove("a")
    assert _names(other) == {"a"} and (other / "a").read_text() == SECRET


def test_what_we_write_is_roots_alone(pool: Path) -> None:
    before = os.umask(0)
    try:
        with Folder(str(pool)) as folder:
            folder.write("note", "x")
    finally:
        os.umask(before)
    assert (pool / "note").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_only_regular_files_are_read_renamed_or_removed(pool: Path, kind: str) -> None:
    trap = pool / "trap"
    if kind == "fifo":
        os.mkfifo(trap)
    elif kind == "folder":
        trap.mkdir()
    else:
        trap.symlink_to("/etc/passwd")
    with Folder(str(pool)) as folder:
        works: tuple[Callable[[], object], ...] = (
            lambda: folder.read("trap", 10),
            lambda: folder.remove("trap"),
            lambda: folder.rename("trap", "x"),
            lambda: folder.write("trap", "x"),
        )
        for work in works:
            with pytest.raises(RefusedError, match="trap: is no regular file"):
                work()


NODE = """<node>{pools}</node>"""
POOL = "<pool type='{kind}'><name>{kind}</name>{source}<target><path>{path}</path></target></pool>"


def test_pools_are_the_active_ones_of_files(tmp_path: Path) -> None:
    """Asked of libvirt itself, by its test driver."""
    source = "<source><host name='x'/><dir path='/{0}'/><device path='/dev/{0}'/><name>{0}</name></source>"
    kinds = {"dir": "/images", "netfs": "/mnt/images", "fs": "/srv/images", "logical": "/dev/v", "disk": "/dev"}
    for number, (kind, path) in enumerate(kinds.items()):
        (tmp_path / f"{number}.xml").write_text(POOL.format(kind=kind, path=path, source=source.format(kind)))
    files = "".join(f"<pool file='{number}.xml'/>" for number in range(len(kinds)))
    (tmp_path / "node.xml").write_text(NODE.format(pools=files))
    assert set(pools.folders(f"test://{tmp_path}/node.xml")) == {"/images", "/mnt/images", "/srv/images"}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _all_files(scene: Scene) -> dict[Path, object]:
    found: dict[Path, object] = {}
    for folder in (scene.pool, scene.elsewhere):
        for path in folder.rglob("*"):
            seen = path.lstat()
            found[path] = (seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ino)
    return found
