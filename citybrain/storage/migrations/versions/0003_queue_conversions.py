"""Queue conversions of versions into other forms."""

import sqlalchemy as sa
from alembic import op

from citybrain.storage.moments import UtcDateTime

revision = "0003_conversions"
down_revision = "0002_history"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "conversions",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("algorithm", sa.String(255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("form", sa.String(255), nullable=False),
        sa.Column("scenario", sa.String(255), nullable=False),
        sa.Column("state", sa.String(255), nullable=False),
        sa.Column("made", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=False),
        sa.Column("asked_by", sa.String(255), nullable=False),
        sa.Column("department", sa.String(255), nullable=False),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("finished_at", UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversions")),
    )
    op.create_index(op.f("ix_conversions_algorithm"), "conversions", ["algorithm"])


def downgrade() -> None:
    """Take it away."""
    op.drop_table("conversions")
