"""Guests whose address no DHCP client looks after: taken over by the agent, moved, and moved back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import (
    Vmacro,
    address_of,
    clients,
    eventually,
    site_of,
    summary,
    traces_of_moves,
    verdicts,
    virsh,
)
from vmacro.lab import topology
from vmacro.lab.lab import Lab
from vmacro.lab.topology import OPERATOR

pytestmark = [pytest.mark.lab, pytest.mark.slow("a lab of its own, with a guest that is provisioned")]
TOPOLOGY, GUEST = Path(__file__).with_name("managers.toml"), "office"
HOME, AWAY = "bucharest", "berlin"
# As an administrator writes it for a machine that has its address for good; then the DHCP client is gone.
STATIC = """
set -e
file=$(grep -l 'inet dhcp' /etc/network/interfaces /etc/network/interfaces.d/* | head -n 1)
name=$(awk '/inet dhcp/ { print $2 }' $file)
cat > /run/static.sh <<EOF
ifdown --force $name
sed -i "s|.*inet dhcp.*|iface $name inet static\\n    address {address}/24\\n    gateway {gateway}|" $file
ifup --force $name
EOF
systemd-run -q --wait sh /run/static.sh
echo '<p>A front end that moves.' > /var/www/html/index.html
echo 'keepalive_requests 1000000; keepalive_timeout 1h;' > /etc/nginx/conf.d/office.conf
systemctl reload nginx
"""


@pytest.fixture(scope="module")
def office() -> Iterator[Lab]:
    """The lab of managers.toml, with this guest alone."""
    shape = topology.load(TOPOLOGY)
    found = Lab(shape.model_copy(update={"guests": {GUEST: shape.guests[GUEST]}}))
    found.down()
    try:
        found.up(TOPOLOGY, lambda text: print(text, flush=True))
        yield found
    finally:
        left = found.down()
    assert left == []


def inside(lab: Lab, address: str, script: str) -> str:
    """By SSH: an opinion independent of its agent."""
    ssh = lab.folder / "ssh"
    options = ["BatchMode=yes", f"HostKeyAlias={GUEST}", f"UserKnownHostsFile={ssh / 'known_hosts'}"]
    command = ["ip", "netns", "exec", lab.namespace(OPERATOR), "ssh", "-i", str(ssh / "id_ed25519")]
    command += [word for option in options for word in ("-o", option)]
    done = subprocess.run(
        [*command, f"root@{address}", "sh"], input=script, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def leased(lab: Lab) -> tuple[str, str]:
    """MAC and address, as its home's DHCP server has them."""
    mac = virsh(lab, HOME, "domiflist", GUEST).split()[-1]
    leases = [line.split() for line in virsh(lab, HOME, "net-dhcp-leases", "front").splitlines()]
    return mac, next(x[4].partition("/")[0] for x in leases if len(x) > 4 and x[2] == mac)


def test_one_with_a_static_address_moves_there_and_back(office: Lab, tmp_path: Path) -> None:
    """Its address at home is pinned to its card: it may come back once nobody is carried by that any more."""
    vmacro = Vmacro(tmp_path, office.inventory_file)
    mac, address = leased(office)
    entry = f"<host mac='{mac}' ip='{address}'/>"
    virsh(office, HOME, "net-update", "front", "add", "ip-dhcp-host", entry, "--live", "--config")
    gateway = str(office.topology.hosts[HOME].subnet[1])
    inside(office, address, STATIC.replace("{address}", address).replace("{gateway}", gateway))
    assert inside(office, address, "pgrep -x 'dhclient|dhcpcd' || echo none") == "none\n"
    assert "dynamic" not in inside(office, address, "ip -4 -o address show scope global")

    done = vmacro("provision", "guests", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    eventually(lambda: office.guest(GUEST).agent is not None, "its agent")
    assert address_of(office, GUEST) == address, "what DHCP keeps for its card"
    before = traces_of_moves(office)
    with clients(office, "client", address, "idle") as lasting:
        with clients(office, "client", address, "tcp-idle") as plain:
            assert moved(vmacro, office, AWAY) == {True: "followed", False: "carried"}
            assert address_of(office, GUEST) != address
            done = vmacro("migrate", GUEST, "--to", HOME, "--json")
            assert done.returncode == 3 and "it lingers, or is in use" in done.stderr, done.stderr
            assert verdicts(plain) == {"tcp-idle": ""}
        assert vmacro("carry").returncode == 0
        assert moved(vmacro, office, HOME) == {True: "followed"}
        assert address_of(office, GUEST) == address
        assert verdicts(lasting) == {"idle": ""}
    assert vmacro("carry").returncode == 0
    assert json.loads(vmacro("carried", "--json").stdout) == [] and traces_of_moves(office) == before


def moved(vmacro: Vmacro, lab: Lab, to: str) -> dict[bool, str]:
    """What became of connections of MPTCP, and of plain ones."""
    done = vmacro("migrate", GUEST, "--to", to, "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert site_of(lab, GUEST) == to
    return {c["mptcp"]: c["verdict"] for c in summary(done)["connections"]}
