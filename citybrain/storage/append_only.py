"""The one way past the triggers of tables that only grow: what has expired, within a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.orm import Session


@contextmanager
def may_delete(session: Session, table: str) -> Iterator[None]:
    """Rows may be deleted inside the block; the rule stands again before anything is committed."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        trigger = f"{table}_no_delete"
        query = text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name")
        rule = connection.execute(query, {"name": trigger}).scalar_one()
        connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        yield
        connection.exec_driver_sql(rule)
        return
    connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER {table}_append_only")
    yield
    connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER {table}_append_only")
