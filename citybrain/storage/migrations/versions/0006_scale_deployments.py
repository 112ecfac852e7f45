"""Let deployments follow the load between two bounds."""

import sqlalchemy as sa
from alembic import op

revision = "0006_scaling"
down_revision = "0005_jobs"


def upgrade() -> None:
    """Add the range to what is wanted and to what was."""
    op.add_column(
        "deployments",
        sa.Column("scaling", sa.JSON(), nullable=False, server_default=sa.text("'{}'")),
    )
    op.add_column("deployment_moves", sa.Column("min_replicas", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("deployment_moves", "min_replicas")
    op.drop_column("deployments", "scaling")
