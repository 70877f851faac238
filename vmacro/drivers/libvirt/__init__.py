"""Hypervisor hosts by libvirt, and the channels to their guests' agents."""
