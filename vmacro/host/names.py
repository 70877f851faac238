"""Does this host know its own name? libvirt asks for that at each turn of a migration (virGetHostname), and waits for a
DNS that is mute, with the guest paused.
"""

from __future__ import annotations

import socket
import subprocess


def resolves_own_name(patience_s: float = 1.0) -> bool:
    """By the system's own resolver, in a process of its own: getaddrinfo(3) cannot be interrupted."""
    try:
        done = subprocess.run(["getent", "ahosts", socket.gethostname()], capture_output=True, timeout=patience_s)
    except subprocess.TimeoutExpired:
        return False
    except OSError:
        return True  # nothing to ask with
    return done.returncode == 0
