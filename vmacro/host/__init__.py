"""The host side: what runs on a host during a handoff. It makes tunnels, routes and rules, and freezes and copies
disks.

It imports nothing of vmacro but `vmacro.wire`, and speaks fixed verbs on standard input and output (over SSH). It keeps
no state of its own: what a tunnel is for is written on the tunnel, where `ip` shows it.
"""
