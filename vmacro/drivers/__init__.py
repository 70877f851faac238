"""The ports, implemented: libvirt, the agent, the host side, SSH, probers, time; and a world in memory."""
