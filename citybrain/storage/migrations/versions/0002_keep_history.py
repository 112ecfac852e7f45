"""Keep the history of deployments, grants, retirements and withdrawn versions, append-only."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from citybrain.storage.moments import UtcDateTime

revision = "0002_history"
down_revision = "0001"

APPEND_ONLY = (
    "alias_moves", "deployment_moves", "grant_moves", "promotion_moves", "retirements",
    "version_ends",
)


def _text(name: str, length: int = 255) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length=length), nullable=False)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, UtcDateTime(timezone=True), nullable=nullable)


def _id() -> sa.Column[Any]:
    return sa.Column("id", sa.Integer(), autoincrement=True, nullable=False)


def upgrade() -> None:
    """Make the tables, fill in what the live tables still know, and close them."""
    op.create_table(
        "deployment_moves",
        _id(), _text("algorithm"), _text("target"), _text("kind"), _number("version"),
        _number("replicas"), _text("app"), _text("moved_by"), _moment("at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment_moves")),
    )
    op.create_index(
        "ix_deployment_moves_algorithm_target", "deployment_moves", ["algorithm", "target"]
    )
    op.create_table(
        "grant_moves",
        _id(), _text("grant_id"), _text("kind"), _text("department"), _text("algorithm"),
        _text("purpose"), _moment("until", nullable=True), _text("moved_by"), _moment("at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grant_moves")),
    )
    op.create_index(op.f("ix_grant_moves_grant_id"), "grant_moves", ["grant_id"])
    op.create_table(
        "promotion_moves",
        _id(), _text("promotion_id"), _text("kind"), _text("algorithm"), _text("alias"),
        _number("version"), _text("moved_by"), _moment("at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotion_moves")),
    )
    op.create_index(op.f("ix_promotion_moves_promotion_id"), "promotion_moves", ["promotion_id"])
    op.create_table(
        "retirements",
        _id(), _text("algorithm"), _number("version"), _text("kind"),
        _moment("sunset", nullable=True), _text("replacement"), _text("moved_by"), _moment("at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retirements")),
    )
    op.create_index(op.f("ix_retirements_algorithm"), "retirements", ["algorithm"])
    op.create_table(
        "version_ends",
        _id(), _text("algorithm"), _number("version"), _text("kind"), _text("digest"),
        _text("reason", 1000), _text("moved_by"), _moment("at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_ends")),
        sa.UniqueConstraint("algorithm", "version", "kind", name=op.f("uq_version_ends_algorithm")),
    )
    op.add_column(
        "promotions", sa.Column("source", sa.String(255), nullable=False, server_default="")
    )
    _fill()
    for table in APPEND_ONLY:
        _close(table)


def _fill() -> None:
    # The live rows know the last state only; what came before them was never kept.
    op.execute(
        "INSERT INTO grant_moves (grant_id, kind, department, algorithm, purpose, until, moved_by, at)"
        " SELECT id, 'given', department, algorithm, purpose, until, granted_by, created_at"
        " FROM grants ORDER BY created_at"
    )
    op.execute(
        "INSERT INTO grant_moves (grant_id, kind, department, algorithm, purpose, until, moved_by, at)"
        " SELECT id, 'revoked', department, algorithm, purpose, until, '', revoked_at"
        " FROM grants WHERE revoked_at IS NOT NULL ORDER BY revoked_at"
    )
    columns = "(promotion_id, kind, algorithm, alias, version, moved_by, at)"
    op.execute(
        f"INSERT INTO promotion_moves {columns}"
        " SELECT id, 'waiting', algorithm, alias, version, asked_by, at FROM promotions ORDER BY at"
    )
    op.execute(
        f"INSERT INTO promotion_moves {columns}"
        " SELECT id, state, algorithm, alias, version, decided_by, decided_at"
        " FROM promotions WHERE decided_at IS NOT NULL ORDER BY decided_at"
    )
    columns = "(algorithm, target, kind, version, replicas, app, moved_by, at)"
    op.execute(
        f"INSERT INTO deployment_moves {columns}"
        " SELECT algorithm, target, 'wanted', 0, replicas, '', wanted_by, wanted_at"
        " FROM deployments"
    )
    live = sa.table(
        "deployments", sa.column("algorithm"), sa.column("target"), sa.column("replicas"),
        sa.column("wanted_at", UtcDateTime(timezone=True)), sa.column("running", sa.JSON()),
    )
    moves = sa.table(
        "deployment_moves", sa.column("algorithm"), sa.column("target"), sa.column("kind"),
        sa.column("version"), sa.column("replicas"), sa.column("app"), sa.column("moved_by"),
        sa.column("at", UtcDateTime(timezone=True)),
    )
    for row in op.get_bind().execute(sa.select(live)).all():
        if row.running:
            op.execute(
                moves.insert().values(
                    algorithm=row.algorithm, target=row.target, kind="running",
                    version=row.running.get("version", 0), replicas=row.replicas,
                    app=row.running.get("app", ""), moved_by="reconciler", at=row.wanted_at,
                )
            )


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
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    """Undo it."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        for act in ("update", "delete"):
            op.execute(f"DROP TRIGGER alias_moves_no_{act}")
    else:
        op.execute("DROP TRIGGER alias_moves_append_only ON alias_moves")
        op.execute("DROP TRIGGER alias_moves_no_truncate ON alias_moves")
    for table in APPEND_ONLY[1:]:
        op.drop_table(table)
    if not sqlite:
        op.execute("DROP FUNCTION refuse_change()")
    with op.batch_alter_table("promotions") as batch:
        batch.drop_column("source")
