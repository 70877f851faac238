"""Round trips on one TCP or MPTCP connection: measured in full, recorded, explained."""
