"""Share calls among deployments, and try releases on a part of them."""

import sqlalchemy as sa
from alembic import op

from citybrain.storage.moments import UtcDateTime

revision = "0004_traffic"
down_revision = "0003_conversions"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(255), nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "traffic",
        _text("algorithm"),
        sa.Column("plan", sa.JSON(), nullable=False),
        _text("canary"),
        _text("set_by"),
        sa.Column("set_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("algorithm", name=op.f("pk_traffic")),
    )
    op.create_table(
        "canaries",
        _text("id"), _text("algorithm"), _text("target"), _number("version"), _text("base"),
        _number("base_version"),
        sa.Column("plan", sa.JSON(), nullable=False),
        _text("state"), _number("step"),
        sa.Column("log", sa.JSON(), nullable=False),
        _text("asked_by"),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("moved_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_canaries")),
    )  # fmt: skip
    op.create_index(op.f("ix_canaries_algorithm"), "canaries", ["algorithm"])


def downgrade() -> None:
    """Take both away."""
    op.drop_table("canaries")
    op.drop_table("traffic")
