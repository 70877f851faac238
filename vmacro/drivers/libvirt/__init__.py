"""Hypervisor hosts by libvirt, and the channels to their guests' agents."""

import os

# What it warns of on standard error, our errors say, too. It reads this as it is loaded (virInitialize), and no program
# that we run shall.
_LEVEL = "LIBVIRT_DEBUG"
if _LEVEL not in os.environ:
    os.environ[_LEVEL] = "error"
    import libvirt  # noqa: F401

    del os.environ[_LEVEL]
