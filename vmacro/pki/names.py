"""Whose certificates there are, besides hosts', and what for."""

from __future__ import annotations

OPERATOR = "operator"
LIBVIRT, QEMU = "libvirt", "qemu"  # each has an authority of its own
