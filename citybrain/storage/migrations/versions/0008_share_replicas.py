"""Let deployments share a replica."""

import sqlalchemy as sa
from alembic import op

revision = "0008_shared"
down_revision = "0007_sampling"


def upgrade() -> None:
    """Add the wish to what is wanted."""
    op.add_column(
        "deployments", sa.Column("shared", sa.Boolean(), nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_column("deployments", "shared")
