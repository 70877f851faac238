"""Round trips on one TCP or MPTCP connection: measured without gaps, recorded, reported."""
