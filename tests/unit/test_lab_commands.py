"""What `vmacro lab` tells its user, without a lab."""

import pytest

from vmacro.cli.lab import next_commands
from vmacro.lab import topology
from vmacro.lab.lab import Lab


@pytest.mark.parametrize("bare", [False, True])
def test_what_comes_next_names_this_lab(bare: bool) -> None:
    """Without a name `lab down` would remove the default lab, and `sites` show whichever is found."""
    lab = Lab(topology.load(topology.DEFAULT).model_copy(update={"name": "ring"}))
    commands = next_commands(lab, bare)
    assert commands and all("ring" in command for command in commands), commands
