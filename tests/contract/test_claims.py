"""A claim on a guest, by a file beside SQLite and by PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract import certifies
from vmacro.errors import ClaimedError
from vmacro.services import claims


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        found: str = request.getfixturevalue("postgres").url
        return found
    return f"sqlite:///{tmp_path}/journal.sqlite"


@certifies("Claim.still", "Claim.see")
def test_who_has_it_has_it_alone_and_is_told_nothing(url: str) -> None:
    """That one who has lost it is told is in unit/test_claims_cut: a lock on a file cannot be lost."""
    for _ in range(2):  # and once more, after it was given back
        with claims.held(url, "of-a-contract") as claim:
            claim.still()
            claim.see()
            with pytest.raises(ClaimedError), claims.held(url, "of-a-contract"):
                pass
            claim.still()
            claim.see()
