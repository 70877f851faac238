"""How the journal's rows, the event log and the fleet's tables are read, whoever may have written there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, Text, func, make_url
from sqlalchemy.exc import SQLAlchemyError

from vmacro.addresses import without_password
from vmacro.errors import ConfigurationError, reason_of

CONNECTED_WITHIN_S = 5


def postgresql(url: sqlalchemy.URL, within_s: float) -> sqlalchemy.Engine:
    """An engine each of whose statements ends in time: what is no table but a view that somebody made may never end.

    The bound is set in each transaction, and for it alone (SET LOCAL): poolers refuse options at the start of a
    connection, and give what is set for a session to whoever comes next.
    """
    engine = sqlalchemy.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECTED_WITHIN_S})

    @sqlalchemy.event.listens_for(engine, "begin")
    def _bounded(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {within_s * 1000:.0f}")

    return engine


@contextmanager
def explained(database_url: str, opening: bool = False) -> Iterator[None]:
    """The database's own errors as one of ours, the password left out. `opening`: those of its folder too; later, an
    OSError is somebody else's, a closed pipe's for one."""
    kinds: tuple[type[Exception], ...] = (SQLAlchemyError, OSError) if opening else (SQLAlchemyError,)
    try:
        yield
    except kinds as error:
        shown = without_password(make_url(database_url))
        raise ConfigurationError(
            f"journal {shown}: {reason_of(error)}", "orchestrator.database_url, or state_dir"
        ) from error


def cut(column: ColumnElement[Any], most: int, label: str) -> ColumnElement[Any]:
    """By the database: a row that a stranger wrote may be of any size. As text, whatever it is: SQLite keeps anything
    in any column."""
    return func.substr(sqlalchemy.cast(column, Text), 1, most, type_=Text).label(label)
