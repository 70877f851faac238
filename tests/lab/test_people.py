"""A guest as people have it, from its first provisioning to a move with its disk and its database, and back.

The tests of this file are one story: each goes on where the one before it ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.clients import connect, get
from tests.support import Vmacro, eventually, lab_of_topology, on_host, summary, virsh
from vmacro.lab import images, namespaces
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).with_name("people.toml")
HOME, AWAY = "bucharest", "berlin"
# The shop's data.
SET_UP = """
set -e
mkdir -p /srv/shop
for i in 1 2 3 4 5 6 7 8; do head -c 4M /dev/urandom > /srv/shop/$i; done
(cd /srv/shop && sha256sum [1-8] > sums)
echo 'keepalive_requests 1000000; keepalive_timeout 1h;' > /etc/nginx/conf.d/shop.conf
systemctl reload nginx
cd / && su postgres -c "psql -qc \\"alter system set listen_addresses = '*'\\" -c 'create role shop login' \\
  -c 'create database shop owner shop'"
echo 'host shop shop 0.0.0.0/0 trust' >> /etc/postgresql/17/main/pg_hba.conf
su postgres -c "psql -q shop -c 'create table accounts (id int primary key, balance int)' \\
  -c 'create table history (id serial, delta int)' -c 'insert into accounts values (1, 0)' \\
  -c 'grant all on all tables in schema public to shop' -c 'grant all on all sequences in schema public to shop'"
sync
"""
# A writer that never rests: each line says what all lines before it were.
WRITE_STEADILY = """
cat > /usr/local/bin/steady <<'EOF'
import hashlib, os, time
known, n = hashlib.sha256(), 0
with open("/srv/shop/log", "ab") as log:
    while True:
        line = f"{n} {known.hexdigest()} {os.urandom(2000).hex()}\\n".encode()
        log.write(line); log.flush(); os.fsync(log.fileno())
        known.update(line); n += 1
        time.sleep(0.05)
EOF
systemd-run -q --unit=steady python3 /usr/local/bin/steady
"""
CHECK_LOG = """
import hashlib
known, n = hashlib.sha256(), 0
for line in open("/srv/shop/log", "rb"):
    number, digest = line.split()[:2]
    assert int(number) == n and digest.decode() == known.hexdigest(), n
    known.update(line); n += 1
print(n)
"""


@dataclass
class Shop:
    """The guest, by SSH: an opinion independent of its agent."""

    lab: Lab
    vmacro: Vmacro

    @property
    def address(self) -> str:
        """As its host's DHCP server has it."""
        for site in (HOME, AWAY):
            if "shop" in virsh(self.lab, site, "list", "--name"):
                mac = virsh(self.lab, site, "domiflist", "shop").split()[-1]
                leases = [x.split() for x in virsh(self.lab, site, "net-dhcp-leases", "front").splitlines()]
                return next(x[4].partition("/")[0] for x in reversed(leases) if len(x) > 4 and x[2] == mac)
        raise AssertionError("it runs nowhere")

    def __call__(self, script: str, program: str = "sh") -> str:
        ssh = self.lab.folder / "ssh"
        options = ["BatchMode=yes", "HostKeyAlias=shop", f"UserKnownHostsFile={ssh / 'known_hosts'}"]
        command = ["ip", "netns", "exec", self.lab.namespace("operator"), "ssh", "-i", str(ssh / "id_ed25519")]
        command += [word for option in options for word in ("-o", option)]
        done = subprocess.run(
            [*command, f"root@{self.address}", program], input=script, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def interface(self) -> str:
        return self("networkctl --no-legend list | awk '$3 == \"ether\" { print $5 }'").strip()

    def sound(self) -> int:
        """All files are what they were, and the log is whole; returns how many lines it has."""
        self("cd /srv/shop && sha256sum --quiet --check sums")
        return int(self(CHECK_LOG, "python3 -"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with lab_of_topology(TOPOLOGY) as found:
        yield Shop(found, Vmacro(tmp_path_factory.mktemp("shop"), found.inventory_file))


def provisioned(shop: Shop, *words: str, what: str = "guests") -> int:
    """How many tasks changed something, or would."""
    done = shop.vmacro("provision", what, "--json", *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    counts: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])[what]
    return sum(machine.get("changed", 0) for machine in counts.values())


def measured(shop: Shop) -> dict[str, float]:
    """What Prometheus would read of the guest."""
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9436/metrics').read().decode())"
    client = shop.lab.host("client")
    families = text_string_to_metric_families(on_host(shop.lab, client.name, "python3", "-c", ask))
    samples = [s for family in families for s in family.samples if s.labels == {"target": "shop"}]
    return {s.name.removeprefix("vmacro_rtt_"): s.value for s in samples}


@contextmanager
def asking(shop: Shop) -> Iterator[list[int]]:
    """A client of its web server, on one plain connection, that must never see an error."""
    stop, asked, troubles = threading.Event(), [0], []
    with namespaces.inside(shop.lab.namespace("client")):
        sock = connect(shop.address, 80, mptcp=False)

    def ask() -> None:
        try:
            while not stop.wait(0.25):
                get(sock, "/")
                asked[0] += 1
        except Exception as error:
            troubles.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        stop.set()
        thread.join(180)
        sock.close()
    assert not troubles, troubles


@contextmanager
def customers(shop: Shop) -> Iterator[dict[str, dict[str, object]]]:
    """What became of them is known after it."""
    (library,) = _wrapper(shop.vmacro.folder).rglob("libmptcpwrap.so.0.*")
    command = ["ip", "netns", "exec", shop.lab.namespace("client"), sys.executable, "-m", "tests.shop", shop.address]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    found: dict[str, dict[str, object]] = {}
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield found
        out, _ = process.communicate("\n", timeout=300)
        found.update(json.loads(out))
    finally:
        process.kill()
        process.wait()


def _wrapper(folder: Path) -> Path:
    """Of mptcpize, from what guests install: this machine need not have it."""
    (package,) = images.image("cloud").packages.glob("main/libmptcpwrap0_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "mptcpize")], check=True)
    return folder / "mptcpize"


def sent_by(lab: Lab, site: str) -> int:
    """Bytes on the wire to the WAN so far, by the kernel's own count."""
    (uplink,) = json.loads(on_host(lab, site, "ip", "-j", "-s", "route", "show", "default"))
    (link,) = json.loads(on_host(lab, site, "ip", "-j", "-s", "link", "show", "dev", uplink["dev"]))
    return int(link["stats64"]["tx"]["bytes"])


def moved(shop: Shop, to: str) -> dict[str, object]:
    done = shop.vmacro("migrate", "shop", "--to", to, "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return summary(done)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("mv /usr/bin/python3 /usr/bin/python3.away", "guest shop: has no python3"),
        ("mv /run/systemd/netif/links /run/systemd/netif/links.away", "managed by none of systemd-networkd"),
    ],
    ids=["no Python", "unknown manager"],
)
def test_what_cannot_be_provisioned_is_said_before_anything_is_touched(shop: Shop, spoil: str, said: str) -> None:
    there, away = spoil.split()[1:]
    shop(spoil)
    try:
        done = shop.vmacro("provision", "guests")
    finally:
        shop(f"mv {away} {there}")
    assert done.returncode == 1 and said in done.stderr, done.stdout + done.stderr
    assert "vmacro" not in shop("dpkg -l; find /etc /usr/lib/vmacro; true")


NO_CHANGE = pytest.mark.slow("a playbook that changes nothing, in a guest under emulation: one to two minutes")


@NO_CHANGE
def test_a_check_says_what_it_would_do_and_does_nothing(shop: Shop) -> None:
    assert provisioned(shop, "--check", "--diff") >= 4
    assert shop.interface() == "configured" and "vmacro" not in shop("dpkg -l; find /etc /usr/lib/vmacro; true")


def test_the_agent_takes_over_while_clients_are_served(shop: Shop) -> None:
    shop(SET_UP)
    before = shop.address
    process = shop.vmacro.start("provision", "guests", "--json")
    assert process.stdout is not None
    with asking(shop) as asked:
        for line in process.stdout:
            told = json.loads(line)
            if "take the interface over" in told.get("name", "") and told["kind"] == "changed":
                break
        eventually(lambda seen=asked[0]: asked[0] > seen + 3, "answers after it")  # type: ignore[misc]
    out, said = process.communicate(timeout=600)
    assert process.returncode == 0, out + said
    assert shop.interface() == "unmanaged" and shop.address == before
    assert "mptcp" in shop("ss -HMltn sport = :80") and "mptcp" in shop("ss -HMltn sport = :5432")


@NO_CHANGE
def test_a_second_run_changes_nothing_in_the_guest(shop: Shop) -> None:
    assert provisioned(shop) == 0


def test_it_is_fit_to_move(shop: Shop) -> None:
    done = shop.vmacro("check", "shop", "--to", AWAY, "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_probes_measure_it_for_ever(shop: Shop) -> None:
    def there() -> str:
        return on_host(shop.lab, "client", "sh", "-c", "ls /etc/systemd/system /usr/local/bin /etc/vmacro 2>&1; true")

    before = there()
    checked = provisioned(shop, "--check", "--limit", "client", what="probes")
    assert checked >= 4 and there() == before, "a check does nothing"
    assert provisioned(shop, what="probes") >= 6
    eventually(lambda: measured(shop)["seconds_count"] > 100, "round trips")
    assert (measured(shop)["connected"], measured(shop)["mptcp"]) == (1, 1)


@NO_CHANGE
def test_a_second_run_changes_nothing_of_the_probes(shop: Shop) -> None:
    assert provisioned(shop, what="probes") == 0


def test_its_disk_goes_with_it_and_little_of_it_comes_back(shop: Shop) -> None:
    """Under a steady write load, with a customer at its database; figures by the hosts' own counters."""
    shop(WRITE_STEADILY)
    with customers(shop) as seen:
        home, away = sent_by(shop.lab, HOME), sent_by(shop.lab, AWAY)
        first = moved(shop, AWAY)
        there = sent_by(shop.lab, HOME) - home
        lines = shop.sound()
        moved(shop, HOME)
        back = sent_by(shop.lab, AWAY) - away
        assert shop.sound() > lines > 0
    print(f"on the wire: {there >> 20} MiB there, {back >> 20} MiB back", first)
    for kind, result in seen.items():
        assert result["trouble"] == "" and int(str(result["done"])) > 20, (kind, seen)
    assert int(str(first["requests_sent"])) > 300 and first["requests_lost"] == 0, "measured by the prober's machine"
    felt = measured(shop)
    assert (felt["connections_total"], felt["breaks_total"], felt["lost_total"]) == (1, 0, 0), felt
    assert there > 600 << 20 and back < there / 2, "what the guest's memory takes goes both ways"
    disk = virsh(shop.lab, HOME, "domblklist", "shop")
    assert ".vmacro-" in disk and shop.lab.guest("shop").site == HOME


def test_it_is_the_same_after_a_reboot(shop: Shop) -> None:
    before, boot = shop.address, shop("cat /proc/sys/kernel/random/boot_id")
    shop("systemctl stop steady; systemd-run -q --on-active=1 systemctl reboot")

    def up() -> bool:
        try:
            return shop("cat /proc/sys/kernel/random/boot_id") != boot
        except (AssertionError, subprocess.TimeoutExpired):
            return False

    eventually(up, "its SSH server", every_s=2, within_s=300)
    assert shop.address == before and shop.interface() == "unmanaged"
    eventually(lambda: "mptcp" in shop("ss -HMltn sport = :80"), "its web server", every_s=2, within_s=120)
    eventually(lambda: shop.lab.guest("shop").agent is not None, "its agent", within_s=120)
