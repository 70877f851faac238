"""What is changed in a journal from outside of its workflows, by DBOS's client, which begins none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dbos import DBOSClient

from vmacro.services.archive import Archive
from vmacro.services.serializer import Json

_AT_A_TIME = 100  # a statement has so many parameters at most


def give_up(archive: Archive, move_id: str) -> None:
    """Close attempts whose orchestrator is gone, so that the next one takes over. Raises what the database raises."""
    names = archive.cut_off(move_id)
    if names:
        with _client(archive) as client:
            for name in names:
                client.cancel_workflow(name)


def forget(archive: Archive, before_ms: int, batches: frozenset[str] = frozenset()) -> int:
    """Delete moves that ended before then, in ms since 1970, and tries of all batches but these (Archive.outlived).
    Returns how many moves. Raises what the database raises."""
    count, names = archive.outlived(before_ms, batches)
    if names:
        with _client(archive) as client:
            for first in range(0, len(names), _AT_A_TIME):
                client.delete_workflows(names[first : first + _AT_A_TIME])
    return count


@contextmanager
def _client(archive: Archive) -> Iterator[DBOSClient]:
    serializer: Any = Json()
    client = DBOSClient(system_database_url=archive.database_url, serializer=serializer)
    try:
        yield client
    finally:
        client.destroy()
