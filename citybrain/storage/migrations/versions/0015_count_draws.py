"""Count what became of calls where a split drew them to."""

import sqlalchemy as sa
from alembic import op

revision = "0015_draws"
down_revision = "0014_audit"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "draws",
        sa.Column("algorithm", sa.String(255), nullable=False),
        sa.Column("second", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("took", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("algorithm", "second", "version", name=op.f("pk_draws")),
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_table("draws")
