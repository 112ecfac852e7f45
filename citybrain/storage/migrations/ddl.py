"""What migrations say again and again: columns, and tables that only grow."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from citybrain.storage.moments import UtcDateTime


def text(name: str, length: int = 255, default: str | None = None) -> sa.Column[Any]:
    """A short text."""
    return sa.Column(name, sa.String(length), nullable=False, server_default=default)


def number(
    name: str, default: str | None = None, *, null: bool = False, big: bool = False
) -> sa.Column[Any]:
    """A whole number."""
    kind = sa.BigInteger() if big else sa.Integer()
    return sa.Column(name, kind, nullable=null, server_default=default)


def real(name: str, default: str | None = None, *, null: bool = False) -> sa.Column[Any]:
    """A number with a fraction."""
    return sa.Column(name, sa.Double(), nullable=null, server_default=default)


def moment(name: str, *, null: bool = False) -> sa.Column[Any]:
    """A moment in UTC."""
    return sa.Column(name, UtcDateTime(timezone=True), nullable=null)


def json(name: str, default: str | None = None) -> sa.Column[Any]:
    """A JSON value."""
    return sa.Column(name, sa.JSON(), nullable=False, server_default=default)


def count(name: str = "id") -> sa.Column[Any]:
    """A number that the database gives."""
    return sa.Column(name, sa.Integer(), autoincrement=True, nullable=False)


def key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    """The primary key, named as the tables' own metadata names it."""
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def index(table: str, *columns: str) -> None:
    """One index a column."""
    for column in columns:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


def only_grows(table: str) -> None:
    """Refuse every change of a row that was written; `refuse_change` is of an earlier migration."""
    if op.get_bind().dialect.name == "sqlite":
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def may_change(table: str) -> None:
    """Undo `only_grows`."""
    if op.get_bind().dialect.name == "sqlite":
        for act in ("update", "delete"):
            op.execute(f"DROP TRIGGER {table}_no_{act}")
        return
    op.execute(f"DROP TRIGGER {table}_append_only ON {table}")
    op.execute(f"DROP TRIGGER {table}_no_truncate ON {table}")
