"""Let deployments have CPUs and GPUs."""

import sqlalchemy as sa
from alembic import op

revision = "0009_resources"
down_revision = "0008_shared"


def upgrade() -> None:
    """Add what each replica has."""
    op.add_column(
        "deployments", sa.Column("cpus", sa.Integer(), nullable=False, server_default="1")
    )
    op.add_column(
        "deployments", sa.Column("gpus", sa.Double(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_column("deployments", "gpus")
    op.drop_column("deployments", "cpus")
