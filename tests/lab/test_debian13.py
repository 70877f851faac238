"""A Debian 13 below the lab: `make setup`, the unit tests and a demo inside a system container of it, with its own
systemd, network and Python. What it needs of the network it fetches before it boots; then it has none."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmacro.lab import images, paths

SETUP_S, CHECK_S = 3600.0, 3600.0
CHECKOUT = "/root/vmacro"
FETCH = f"""
apt-get update -q
apt-get install -y -q --no-install-recommends git make
cd {CHECKOUT}
make test-packages setup
.venv/bin/vmacro image build host
.venv/bin/vmacro image build guest
.venv/bin/python -c 'from vmacro.provisioning import ansible_inventory as a; a.parts()'
"""
DEMO = """
sed 's/^name = .*/name = "nested"/' vmacro/lab/two-sites.toml > /root/nested.toml
.venv/bin/vmacro lab demo --topology /root/nested.toml --report /root/report
.venv/bin/vmacro lab down nested
python3 - <<'EOF'
import json
visitors = json.load(open("/root/report/summary.json"))["visitors"]
assert visitors["during"]["count"] > 20 and not any(v["failed"] for v in visitors.values()), visitors
EOF
"""
# Its end is the container's, with its status, and so nspawn's.
UNIT = f"""
[Unit]
Description=What is tried in this container
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
Delegate=yes
WorkingDirectory={CHECKOUT}
Environment=HOME=/root
ExecStart=/bin/sh -e /root/check.sh
StandardOutput=file:/root/check.log
StandardError=inherit
[Install]
WantedBy=multi-user.target
"""


class Debian13:
    """A tree of its own, of the image that the lab's hosts are made of."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        folder.mkdir(parents=True)
        subprocess.run(["cp", "-a", images.build("host", print).root, self.root], check=True)
        subprocess.run(["git", "clone", "-q", paths.CHECKOUT, self._in(CHECKOUT)], check=True)
        self._in("/etc/systemd/system/check.service").write_text(UNIT)
        subprocess.run(["chroot", self.root, "systemctl", "enable", "-q", "check.service"], check=True)
        self._binds = self._like_this_machine()

    def fetch(self, script: str) -> None:
        """Run before it boots, on this machine's network."""
        words = ["--resolv-conf=copy-host", "--pipe", "sh", "-ec", script]
        subprocess.run(self._nspawn(*words), check=True, timeout=SETUP_S)

    def booted(self, script: str) -> str:
        """Run as a service of its systemd, on a network where nobody else is; what it wrote. Fails as that fails."""
        self._in("/root/check.sh").write_text(script)
        log = self._in("/root/check.log")
        log.unlink(missing_ok=True)
        boot = self._nspawn("--boot", "--private-network")
        done = subprocess.run(boot, capture_output=True, text=True, timeout=CHECK_S)
        told = log.read_text() if log.exists() else ""
        assert done.returncode == 0, f"{told[-6000:]}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return told

    def _in(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _like_this_machine(self) -> list[str]:
        """apt and pip find packages as they do here. Returns the folders that pip's settings name."""
        self._in("/etc/apt/sources.list").write_text("\n".join(images.sources("trixie")) + "\n")
        settings = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
        lines = [line for line in settings.splitlines() if line.startswith("Acquire::")]
        self._in("/etc/apt/apt.conf.d/99machine").write_text("\n".join(lines) + "\n")
        for name in ("etc/pip.conf", "root/.config/pip/pip.conf", "etc/ssl/certs/ca-certificates.crt"):
            if (Path("/") / name).exists():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path("/") / name, self.root / name)
        told = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
        words = told.replace("'", " ").replace("\\n", " ").replace("file://", "").split()
        return sorted({word for word in words if word.startswith("/") and Path(word).is_dir()})

    def _nspawn(self, *words: str) -> list[str]:
        """In a mount namespace of its own, where cgroups are as a Debian 13 has them: one hierarchy."""
        nspawn = "/run/systemd/nspawn"  # /run may be no tmpfs, and nspawn wants one
        prepare = f"mkdir -p {nspawn}; mount -t tmpfs tmpfs {nspawn}; mount -t cgroup2 none /sys/fs/cgroup"
        return [
            *("unshare", "--mount", "--propagation=private", "sh", "-ec", f'{prepare}; exec "$@"', "debian13"),
            *("env", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1"),
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--timezone=off"),
            *("--capability=all", "--bind=/dev/net/tun", f"--directory={self.root}"),
            *(f"--bind-ro={folder}" for folder in self._binds),
            *words,
        ]


@pytest.fixture(scope="module")
def debian13() -> Iterator[Debian13]:
    folder = paths.state_dir() / "debian13"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        machine = Debian13(folder)
        machine.fetch(FETCH)
        yield machine
    finally:
        shutil.rmtree(folder)


pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(2 * 3600),
    pytest.mark.slow("a whole machine below the lab"),
]


def test_unit_tests_pass(debian13: Debian13) -> None:
    assert " passed" in debian13.booted(".venv/bin/pytest -q tests/unit")


def test_a_demo_moves_its_guest(debian13: Debian13) -> None:
    assert "lab nested is down" in debian13.booted(DEMO)
