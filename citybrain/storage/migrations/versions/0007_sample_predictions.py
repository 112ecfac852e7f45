"""Say for an algorithm how many of its calls the prediction log keeps."""

import sqlalchemy as sa
from alembic import op

from citybrain.storage.moments import UtcDateTime

revision = "0007_sampling"
down_revision = "0006_scaling"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "sampling",
        sa.Column("algorithm", sa.String(255), nullable=False),
        sa.Column("rate", sa.Double(), nullable=True),
        sa.Column("keep_days", sa.Integer(), nullable=True),
        sa.Column("set_by", sa.String(255), nullable=False),
        sa.Column("set_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("algorithm", name=op.f("pk_sampling")),
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_table("sampling")
