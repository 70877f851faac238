"""What runs on a hypervisor host during a handoff: tunnels, routes and rules, as few as will do.

It stands alone, speaks fixed verbs on standard input and output (over SSH), and remembers nothing:
what it made is written on what it made, for `ip` to tell.
"""
