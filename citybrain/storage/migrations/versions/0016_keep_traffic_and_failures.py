"""Keep the history of traffic, append-only, and why versions did not start.

Promotions whose alias moved while they waited end here, as they do from now on.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from citybrain.storage.moments import UtcDateTime

revision = "0016_traffic_moves"
down_revision = "0015_draws"


def _text(name: str, length: int = 255) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length=length), nullable=False)


def _moment(name: str) -> sa.Column[Any]:
    return sa.Column(name, UtcDateTime(timezone=True), nullable=False)


def upgrade() -> None:
    """Make both tables, fill in what is known, and close the history."""
    op.create_table(
        "traffic_moves",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        _text("algorithm"), sa.Column("plan", sa.JSON(), nullable=False), _text("canary"),
        _text("moved_by"), _moment("at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_traffic_moves")),
    )
    op.create_index(op.f("ix_traffic_moves_algorithm"), "traffic_moves", ["algorithm"])
    op.create_table(
        "version_failures",
        _text("algorithm"), sa.Column("version", sa.Integer(), nullable=False), _text("target"),
        _text("message", 4000), _moment("at"),
        sa.PrimaryKeyConstraint("algorithm", "version", name=op.f("pk_version_failures")),
    )
    # The live row knows the last plan only; what came before it was never kept.
    op.execute(
        "INSERT INTO traffic_moves (algorithm, plan, canary, moved_by, at)"
        " SELECT algorithm, plan, canary, set_by, set_at FROM traffic ORDER BY set_at"
    )
    op.execute(
        "INSERT INTO version_failures (algorithm, version, target, message, at)"
        " SELECT algorithm, version, MIN(target), MIN(message), MAX(wanted_at) FROM deployments"
        " WHERE state = 'failed' AND version > 0 GROUP BY algorithm, version"
    )
    _end_overtaken()
    _close("traffic_moves")


def _end_overtaken() -> None:
    moment = sa.bindparam("moment", datetime.now(UTC), UtcDateTime(timezone=True))
    overtaken = (
        "state = 'waiting' AND EXISTS (SELECT 1 FROM alias_moves m WHERE"
        " m.algorithm = promotions.algorithm AND m.alias = promotions.alias AND m.at > promotions.at)"
    )
    columns = "(promotion_id, kind, algorithm, alias, version, moved_by, at)"
    for act in (
        f"INSERT INTO promotion_moves {columns} SELECT id, 'overtaken', algorithm, alias, version,"
        f" '', :moment FROM promotions WHERE {overtaken}",
        f"UPDATE promotions SET state = 'overtaken', decided_at = :moment WHERE {overtaken}",
    ):
        op.get_bind().execute(sa.text(act).bindparams(moment))


def _close(table: str) -> None:
    """Refuse every change of a row that was written."""
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


def downgrade() -> None:
    """Take both tables away."""
    op.drop_table("version_failures")
    op.drop_table("traffic_moves")
